/** Messages as Kafka records, and back. `docs/wire-format.md` lists it. */
import {
  type DeadLetterDetails,
  deadLetterHeaders,
  headerPrefix,
  integer,
  type OutgoingMessage,
  wireHeaders,
} from '@waybill/core/adapter';
import { type FetchedRecord, type Headers, newHeaders, type OutgoingRecord } from './driver.ts';

/** Headers of this adapter, beside those that all brokers share. */
export const kafkaHeaders = {
  /** `partition:offset` of the first copy: the name of a message that has none of its own. */
  position: 'waybill-position',
  /** A redriven message of an ordered topic waits until the lane has been read up to this offset. */
  after: 'waybill-after',
} as const;

const none = Buffer.alloc(0);

export function messageRecord(message: OutgoingMessage): OutgoingRecord {
  const headers: Record<string, string> = {
    ...message.headers,
    [wireHeaders.id]: message.id,
    [wireHeaders.contentType]: message.contentType,
  };
  if (message.type !== undefined) headers[wireHeaders.type] = message.type;
  if (message.expiresAt !== undefined) headers[wireHeaders.expiresAt] = String(message.expiresAt);
  return {
    key: message.key === undefined ? null : Buffer.from(message.key),
    value: asBuffer(message.body),
    headers,
    timestamp: message.publishedAt,
  };
}

function asBuffer(body: Uint8Array): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

const asBytes = ({ buffer, byteOffset, byteLength }: Buffer): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Bytes of a record on the wire, at most. */
export function sizeOf(record: OutgoingRecord): number {
  let size = 32 + (record.key?.length ?? 0) + (record.value?.length ?? 0);
  for (const name in record.headers) {
    const value = record.headers[name];
    const values = Array.isArray(value) ? value : [value];
    // Text counts three bytes a character, its most in UTF-8, which is cheaper than measuring it.
    for (const one of values) size += 12 + name.length * 3 + (typeof one === 'string' ? one.length * 3 : one.length);
  }
  return size;
}

export interface Fields {
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
  readonly attempt: number;
  readonly position: string;
}

/** A record as a message. `key` is given where the record's own key is something else (dead letters). */
export function readRecord(record: FetchedRecord, partition: number, key = record.key): Fields {
  const { headers } = record;
  const user: Record<string, string> = {};
  let id: string | undefined;
  let type: string | undefined;
  let contentType: string | undefined;
  let published: string | undefined;
  let expires: string | undefined;
  let attempt: string | undefined;
  let position: string | undefined;
  for (const name in headers) {
    const value = headerText(headers, name);
    switch (name) {
      case wireHeaders.id:
        id = value;
        break;
      case wireHeaders.type:
        type = value;
        break;
      case wireHeaders.contentType:
        contentType = value;
        break;
      case wireHeaders.publishedAt:
        published = value;
        break;
      case wireHeaders.expiresAt:
        expires = value;
        break;
      case wireHeaders.attempt:
        attempt = value;
        break;
      case kafkaHeaders.position:
        position = value;
        break;
      default:
        if (value !== undefined && !name.startsWith(headerPrefix)) user[name] = value;
    }
  }
  return {
    id,
    key: key === null ? undefined : key.toString('utf8'),
    type,
    // Foreign producers that follow CloudEvents name it so.
    contentType: contentType ?? user['content-type'],
    // Users get plain bytes, not Node's subclass of them.
    body: asBytes(record.value ?? none),
    headers: user,
    // A foreign producer may have written none: Kafka then says -1.
    publishedAt: integer(published) ?? (record.timestamp >= 0 ? record.timestamp : undefined),
    expiresAt: integer(expires),
    attempt: Math.max(1, integer(attempt) ?? 1),
    position: position ?? `${partition}:${record.offset}`,
  };
}

/** The last value of a header, as text. */
export function headerText(headers: Headers, name: string): string | undefined {
  const value = headers[name];
  const last = Array.isArray(value) ? value.at(-1) : value;
  return last === undefined ? undefined : typeof last === 'string' ? last : last.toString('utf8');
}

/**
 * The same message once more, byte for byte, also a foreign one's: body, key, headers, publish time and the name that
 * its first place gives it.
 */
export function copyRecord(record: FetchedRecord, partition: number, changes: Headers): OutgoingRecord {
  const headers = newHeaders<Headers[string]>();
  for (const name in record.headers) {
    const value = record.headers[name];
    if (value !== undefined && !isPassing(name)) headers[name] = value;
  }
  headers[kafkaHeaders.position] ??= `${partition}:${record.offset}`;
  for (const name in changes) {
    const value = changes[name];
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  }
  // A record without value is a tombstone on the compacted topic of the dead letters, so an empty one stands in.
  return { key: record.key, value: record.value ?? none, headers, timestamp: Math.max(0, record.timestamp) };
}

/** Headers of one stop on a message's way, not of the message. */
function isPassing(name: string): boolean {
  return (
    name === wireHeaders.deliverAt ||
    name === wireHeaders.destination ||
    name === kafkaHeaders.after ||
    name.startsWith('waybill-dl-')
  );
}

/** A copy on its way through the delay levels: they are told where it goes, and when. */
export function delayedRecord(
  record: OutgoingRecord,
  destination: { topic: string; partition: number | undefined },
  deliverAt: number,
): OutgoingRecord {
  return {
    ...record,
    headers: {
      ...record.headers,
      [wireHeaders.destination]: `${destination.topic}:${destination.partition ?? ''}`,
      [wireHeaders.deliverAt]: String(deliverAt),
      // A level's records bear the time of their arrival there.
      [wireHeaders.publishedAt]: headerText(record.headers, wireHeaders.publishedAt) ?? String(record.timestamp),
    },
  };
}

/** What goes from one delay level to the next. */
export function copyDelayed(record: FetchedRecord): OutgoingRecord {
  return { key: record.key, value: record.value ?? none, headers: record.headers, timestamp: record.timestamp };
}

/** What leaves the delay levels: as it was before it went in. */
export function arrivedRecord(record: FetchedRecord): OutgoingRecord {
  const published = integer(headerText(record.headers, wireHeaders.publishedAt));
  const headers = newHeaders<Headers[string]>();
  for (const name in record.headers) {
    const value = record.headers[name];
    if (value !== undefined && !isPassing(name) && name !== wireHeaders.publishedAt) headers[name] = value;
  }
  return { key: record.key, value: record.value ?? none, headers, timestamp: published ?? record.timestamp };
}

export function readDestination(record: FetchedRecord): { topic: string; partition: number | undefined } | undefined {
  const text = headerText(record.headers, wireHeaders.destination);
  const match = text === undefined ? null : /^([A-Za-z0-9._-]+):(\d*)$/.exec(text);
  if (match?.[1] === undefined) return undefined;
  return { topic: match[1], partition: integer(match[2]) };
}

/** The entry of a dead letter; its record key is the entry's id, so that a tombstone of that key strikes it out. */
export function deadLetterRecord(record: FetchedRecord, partition: number, details: DeadLetterDetails): OutgoingRecord {
  const copy = copyRecord(record, partition, {
    ...deadLetterHeaders(details),
    [wireHeaders.key]: record.key ?? undefined,
    [wireHeaders.attempt]: undefined,
  });
  return { ...copy, key: Buffer.from(details.entry) };
}

/** The key of the message in a dead letter. */
export function deadLetterKey(record: FetchedRecord): Buffer | null {
  const key = record.headers[wireHeaders.key];
  const last = Array.isArray(key) ? key.at(-1) : key;
  return last === undefined ? null : typeof last === 'string' ? Buffer.from(last) : last;
}
