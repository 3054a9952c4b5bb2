import { type DeadLetterRecord, type Delivery, headerPrefix, type OutgoingMessage } from '@waybill/core/adapter';
import type { Value } from './database.ts';

/** A message's own fields as they stand in the file: the columns of `contentColumns`. */
export interface ContentRow {
  readonly id: string | null;
  readonly key: string | null;
  readonly type: string | null;
  readonly content_type: string | null;
  readonly headers: string | null;
  readonly published_at: number | null;
  readonly expires_at: number | null;
  readonly body: Uint8Array;
}

/** The values of `contentColumns`, in their order. */
export function contentValues(message: OutgoingMessage): Value[] {
  const { headers } = message;
  let any = false;
  for (const _ in headers) {
    any = true;
    break;
  }
  return [
    message.id,
    message.key ?? null,
    message.type ?? null,
    message.contentType,
    any ? JSON.stringify(headers) : null,
    Math.floor(message.publishedAt),
    message.expiresAt === undefined ? null : Math.floor(message.expiresAt),
    message.body,
  ];
}

type Content = Pick<
  Delivery & DeadLetterRecord,
  'id' | 'key' | 'type' | 'contentType' | 'body' | 'headers' | 'publishedAt' | 'expiresAt'
>;

/** A foreign message has the broker's own time (SUB-09). */
export function contentOf(row: ContentRow, storedAt: number): Content {
  return {
    id: row.id ?? undefined,
    key: row.key ?? undefined,
    type: row.type ?? undefined,
    contentType: row.content_type ?? undefined,
    body: row.body,
    headers: headersOf(row.headers),
    publishedAt: row.published_at ?? storedAt,
    expiresAt: row.expires_at ?? undefined,
  };
}

const none: Readonly<Record<string, string>> = Object.freeze({});

/** Headers are anybody's: what is no object of texts is read as far as it goes. */
function headersOf(json: string | null): Readonly<Record<string, string>> {
  if (json === null) return none;
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    return none;
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return none;
  const headers: Record<string, string> = {};
  for (const [given, value] of Object.entries(parsed)) {
    const name = given.toLowerCase();
    if (!name.startsWith(headerPrefix)) headers[name] = typeof value === 'string' ? value : JSON.stringify(value);
  }
  return headers;
}
