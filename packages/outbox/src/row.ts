import { InvalidMessageError } from '@waybill/core/adapter';
import type { EncodedMessage, TopicDeclaration } from '@waybill/core/outbox';
import type { SqlValue } from '@waybill/sql';
import { anyLane, laneOf } from './lanes.ts';

/** The columns that a publish writes, in the order of `valuesOf`. */
export const columns = [
  'lane',
  'topic',
  'topic_options',
  'message_id',
  'message_key',
  'message_type',
  'headers',
  'content_type',
  'body',
  'broker_options',
  'published_at',
  'deliver_at',
  'expires_at',
] as const;

export type Column = (typeof columns)[number];

/** @throws InvalidMessageError for a text with a zero in it: PostgreSQL has no place for one, so no outbox takes it */
export function checkStorable({ id, key, type }: EncodedMessage): void {
  checkZeros('id', id);
  checkZeros('key', key);
  checkZeros('type', type);
}

/** Times as milliseconds since 1970; a dialect writes them as it keeps them. */
export function valuesOf(message: EncodedMessage): readonly SqlValue[] {
  const { topic, key, headers } = message;
  const plain = topic.ordered === undefined && topic.lanes === undefined && topic.broker === undefined;
  return [
    key === undefined ? anyLane() : laneOf(topic.name, key),
    topic.name,
    plain ? null : JSON.stringify({ ordered: topic.ordered, lanes: topic.lanes, broker: topic.broker }),
    message.id,
    key ?? null,
    message.type ?? null,
    hasSome(headers) ? JSON.stringify(headers) : null,
    message.contentType,
    message.body,
    message.broker === undefined ? null : JSON.stringify(message.broker),
    message.publishedAt,
    message.deliverAt ?? null,
    message.expiresAt ?? null,
  ];
}

function checkZeros(field: string, text: string | undefined): void {
  if (text?.includes('\0'))
    throw new InvalidMessageError(field, 'holds a zero character, which a database cannot keep');
}

function hasSome(headers: Readonly<Record<string, string>>): boolean {
  for (const _ in headers) return true;
  return false;
}

/** Bytes of a body above which a page leaves it out: 500 of them are what a relay may have in hand. */
export const largeBody = 65_536;

/** What a driver gives for a row. */
export type RawRow = Readonly<Record<string, unknown>>;

/** One topic's declarations, each made once: the bus looks a topic up once for each object. */
export class Declarations {
  readonly #known = new Map<string, TopicDeclaration>();

  get(name: string, options: string | null): TopicDeclaration {
    const id = options === null ? name : `${name}\0${options}`;
    let declaration = this.#known.get(id);
    if (declaration === undefined) {
      // Options may be made anew for each message by a careless publisher; what is known is only a shortcut.
      if (this.#known.size >= 10_000) this.#known.clear();
      const { ordered, lanes, broker } = (options === null ? {} : JSON.parse(options)) as Partial<TopicDeclaration>;
      declaration = { name, ordered, lanes, broker };
      this.#known.set(id, declaration);
    }
    return declaration;
  }
}

/** @throws SyntaxError for JSON that we have not written */
export function messageOf(row: RawRow, declarations: Declarations): EncodedMessage {
  return {
    topic: declarations.get(row['topic'] as string, textOr(row['topic_options'], null)),
    id: row['message_id'] as string,
    key: textOr(row['message_key'], undefined),
    type: textOr(row['message_type'], undefined),
    contentType: row['content_type'] as string,
    body: row['body'] as Uint8Array,
    headers: parsed(row['headers']) ?? noHeaders,
    broker: parsed(row['broker_options']),
    publishedAt: Math.round(Number(row['published_at'])),
    deliverAt: timeOr(row['deliver_at']),
    expiresAt: timeOr(row['expires_at']),
  };
}

/** What can be read of a row whose JSON is broken. */
export function withoutJson(row: RawRow): RawRow {
  return { ...row, topic_options: null, headers: null, broker_options: null };
}

const noHeaders: Readonly<Record<string, string>> = Object.freeze({});

function textOr<T>(value: unknown, otherwise: T): string | T {
  return typeof value === 'string' ? value : otherwise;
}

function timeOr(value: unknown): number | undefined {
  return value === null || value === undefined ? undefined : Math.round(Number(value));
}

function parsed<T>(json: unknown): T | undefined {
  return typeof json === 'string' ? (JSON.parse(json) as T) : undefined;
}
