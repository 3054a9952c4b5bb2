import { createHash } from 'node:crypto';
import {
  type DeadLetterDetails,
  type DeadLetterRecord,
  type Delivery,
  deadLetterHeaders,
  headerPrefix,
  integer,
  type OutgoingMessage,
  readDeadLetterHeaders,
  wireHeaders,
} from '@waybill/core/adapter';
import type { Message, Options } from 'amqplib';

type HeaderTable = Record<string, unknown>;

/** amqplib encodes a header table in a buffer of 64 KiB; what does not fit throws. */
const headerRoom = 64 * 1024 - 64;

/** The AMQP form of a message: id, type, content type and seconds in the broker's fields, the rest in headers. */
export function toProperties(message: OutgoingMessage): Options.Publish {
  const headers: Record<string, string> = { ...message.headers };
  headers[wireHeaders.publishedAt] = String(message.publishedAt);
  if (message.key !== undefined) headers[wireHeaders.key] = message.key;
  if (message.expiresAt !== undefined) headers[wireHeaders.expiresAt] = String(message.expiresAt);
  return {
    persistent: true,
    messageId: message.id,
    contentType: message.contentType,
    timestamp: Math.floor(message.publishedAt / 1_000),
    headers,
    ...(message.type === undefined ? {} : { type: message.type }),
  };
}

export function toBuffer(body: Uint8Array): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

/** A Buffer is a Uint8Array with other habits: code for all brokers gets the plain kind. */
function plainBytes(content: Buffer): Uint8Array {
  return new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
}

/** What a delivery says of itself: the part that does not depend on where it was read. */
export type Content = Omit<Delivery, 'lane' | 'deliveries' | 'alone' | 'leaseUntil'>;

/** Reads a message, made by Waybill or by anybody else. */
export function fromMessage(message: Message): Content {
  const { properties } = message;
  const { user, own } = readHeaders(properties.headers);
  const seconds: unknown = properties.timestamp;
  const attempt = integer(own[wireHeaders.attempt]);
  return {
    id: text(properties.messageId),
    key: own[wireHeaders.key],
    type: text(properties.type),
    contentType: text(properties.contentType),
    body: plainBytes(message.content),
    headers: user,
    publishedAt: integer(own[wireHeaders.publishedAt]) ?? (typeof seconds === 'number' ? seconds * 1_000 : undefined),
    expiresAt: integer(own[wireHeaders.expiresAt]),
    attempt: attempt === undefined || attempt === 0 ? 1 : attempt,
    position: undefined,
    native: message,
  };
}

/** How many times a quorum queue has handed out the message, this time included. */
export function deliveriesOf(message: Message): number {
  // It counts returns, and says nothing the first time.
  const returned: unknown = message.properties.headers?.['x-delivery-count'];
  return typeof returned === 'number' ? returned + 1 : 1;
}

/** Whether a quorum queue hands the message out for the first time. */
export function isFirstDelivery(message: Message): boolean {
  return deliveriesOf(message) === 1 && !message.fields.redelivered;
}

export function toDeadLetter(message: Message): DeadLetterRecord {
  const { attempt: _, ...content } = fromMessage(message);
  const { own } = readHeaders(message.properties.headers);
  return { ...content, details: readDeadLetterHeaders(own, content.id ?? hashOf(message.content)) };
}

/** The copy that waits for its next attempt: the message as it is, whoever made it. */
export function retryCopy(message: Message, attempt: number): Options.Publish {
  return copy(message, { [wireHeaders.attempt]: String(attempt) }, []);
}

/** The copy that goes to the dead letters; whatever is cut for lack of room, it is not the message (DLQ-06). */
export function deadLetterCopy(message: Message, details: DeadLetterDetails): Options.Publish {
  return copy(message, deadLetterHeaders(details), [
    wireHeaders.deadLetterErrorMessage,
    wireHeaders.deadLetterErrorName,
  ]);
}

/** The copy that a redrive sends: attempt 1, no expiry, no trace of having been dead. */
export function redriveCopy(message: Message): Options.Publish {
  return copy(message, { [wireHeaders.attempt]: undefined, [wireHeaders.expiresAt]: undefined }, [], (name) =>
    name.startsWith(deadLetterPrefix),
  );
}

const deadLetterPrefix = 'waybill-dl-';

/**
 * Headers that the broker writes, or acts upon: the former would be taken for the message's own after a copy, the
 * latter would send the copy elsewhere.
 */
function brokersOwn(name: string): boolean {
  return (
    name === 'x-death' ||
    name === 'x-delivery-count' ||
    name === 'x-acquired-count' ||
    name.startsWith('x-first-death-') ||
    name.startsWith('x-last-death-') ||
    name === 'CC' ||
    name === 'BCC'
  );
}

/**
 * A foreign message's own properties and header types survive the copy. `expiration` does not: a time-to-live in a
 * queue must not end a retry or a dead letter. Nor does `userId`, which the broker compares with our own user.
 */
function copy(
  message: Message,
  changes: Readonly<Record<string, string | undefined>>,
  spare: readonly string[],
  without: (name: string) => boolean = () => false,
): Options.Publish {
  const { properties } = message;
  const given: HeaderTable = properties.headers ?? {};
  const headers: HeaderTable = {};
  for (const name of Object.keys(given)) {
    if (!brokersOwn(name) && !without(name)) headers[name] = given[name];
  }
  for (const name of Object.keys(changes)) {
    const value = changes[name];
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  }
  return {
    persistent: true,
    headers: fit(headers, spare),
    contentType: properties.contentType,
    contentEncoding: properties.contentEncoding,
    correlationId: properties.correlationId,
    replyTo: properties.replyTo,
    messageId: properties.messageId,
    timestamp: properties.timestamp,
    type: properties.type,
    appId: properties.appId,
    priority: properties.priority,
  };
}

/** Only foreign headers can be too many: first what can be spared is cut, then the largest foreign ones. */
function fit(headers: HeaderTable, spare: readonly string[]): HeaderTable {
  let size = sizeOf(headers);
  if (size <= headerRoom) return headers;
  const foreign = Object.keys(headers)
    .filter((name) => !name.startsWith(headerPrefix))
    .sort((a, b) => sizeOf(headers[b]) - sizeOf(headers[a]));
  for (const name of [...spare, ...foreign]) {
    if (size <= headerRoom) break;
    delete headers[name];
    size = sizeOf(headers);
  }
  return headers;
}

/** An upper bound of the bytes that a value takes in a table. */
function sizeOf(value: unknown): number {
  if (typeof value === 'string') return 5 + Buffer.byteLength(value);
  if (Buffer.isBuffer(value)) return 5 + value.length;
  if (typeof value !== 'object' || value === null) return 10;
  let size = 10;
  for (const [name, one] of Object.entries(value)) size += 1 + Buffer.byteLength(name) + sizeOf(one);
  return size;
}

function readHeaders(table: HeaderTable | undefined): {
  readonly user: Record<string, string>;
  readonly own: Record<string, string>;
} {
  const user: Record<string, string> = {};
  const own: Record<string, string> = {};
  if (table === undefined) return { user, own };
  for (const name of Object.keys(table)) {
    if (name.startsWith(headerPrefix)) own[name] = headerText(table[name]);
    else if (!brokersOwn(name) && name !== '__proto__') user[name] = headerText(table[name]);
  }
  return { user, own };
}

/** Foreign headers have types; Waybill's are text. */
function headerText(value: unknown): string {
  if (typeof value === 'string') return value;
  if (Buffer.isBuffer(value)) return value.toString('utf8');
  if (typeof value !== 'object' || value === null) return value === null ? '' : String(value);
  // amqplib's form of what JavaScript has no type for, such as { '!': 'timestamp', value: 1700000000 }.
  if ('!' in value && 'value' in value) return headerText(value.value);
  return JSON.stringify(value);
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function hashOf(body: Buffer): string {
  return createHash('sha256').update(body).digest('hex').slice(0, 32);
}
