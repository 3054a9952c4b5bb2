import { isUtf8 } from 'node:buffer';
import type { Message, MessageAttributeValue } from '@aws-sdk/client-sqs';
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
import { maxQueueBytes } from './requests.ts';

/** SQS carries ten attributes, and SNS drops a raw message with more. */
const maxAttributes = 10;
/** The attribute that holds every header without an attribute of its own, as JSON. */
export const moreHeaders = 'waybill-headers';
/** How the body travels where it is no text: `base64`, or `empty`. */
export const bodyHeader = 'waybill-body';
/** The first message id of a foreign message, kept over copies. */
const positionHeader = 'waybill-position';
/** Spring's name for it, and the one of HTTP. */
const foreignContentType = /^content-?type$/i;

/** An attribute of a foreign message that is more than text. */
interface Typed {
  readonly type: string;
  readonly text?: string;
  readonly bytes?: Uint8Array;
}
type Value = string | Typed;

/** All headers of a message, its own first. */
export type Fields = Map<string, Value>;

/** A message as SQS and SNS take it. */
export interface Wire {
  readonly body: string;
  readonly attributes: Record<string, MessageAttributeValue>;
  /** As the services count them. */
  readonly bytes: number;
}

// Writing.

export function toWire(message: OutgoingMessage, extra: readonly (readonly [string, string])[] = []): Wire {
  const { body, encoding } = encodeBody(message.body);
  const fields: Fields = new Map<string, Value>([[wireHeaders.id, message.id]]);
  if (message.key !== undefined) fields.set(wireHeaders.key, message.key);
  if (message.type !== undefined) fields.set(wireHeaders.type, message.type);
  fields.set(wireHeaders.contentType, message.contentType);
  if (encoding !== undefined) fields.set(bodyHeader, encoding);
  fields.set(wireHeaders.publishedAt, String(message.publishedAt));
  if (message.expiresAt !== undefined) fields.set(wireHeaders.expiresAt, String(message.expiresAt));
  for (const [name, value] of extra) fields.set(name, value);
  for (const name in message.headers) fields.set(name, message.headers[name] as string);
  return write(fields, body);
}

/** These are attributes of their own, so that other programs and filters see them. */
const shown: ReadonlySet<string> = new Set([
  wireHeaders.id,
  wireHeaders.key,
  wireHeaders.type,
  wireHeaders.contentType,
  bodyHeader,
]);

/** What may be an attribute's name. */
const attributeName = /^(?!aws\.|amazon\.|\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)$/i;
/** What XML, and so SQS and SNS, cannot carry. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const illegal = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

export function write(fields: Fields, body: string): Wire {
  const attributes: Record<string, MessageAttributeValue> = {};
  const rest: Record<string, unknown> = {};
  let more = false;
  let room = maxAttributes - 1;
  let bytes = Buffer.byteLength(body);
  for (const [name, value] of fields) {
    const attribute = room > 0 ? attributeOf(name, value) : undefined;
    if (attribute === undefined) {
      rest[name] = folded(value);
      more = true;
    } else {
      attributes[name] = attribute;
      bytes += sizeOf(name, attribute);
      room--;
    }
  }
  if (more) {
    const attribute = text(JSON.stringify(rest).replace(/[\ufffe\uffff]/g, escaped));
    attributes[moreHeaders] = attribute;
    bytes += sizeOf(moreHeaders, attribute);
  }
  return { body, attributes, bytes };
}

function attributeOf(name: string, value: Value): MessageAttributeValue | undefined {
  if (typeof value !== 'string') {
    const { type, text: StringValue, bytes: BinaryValue } = value;
    return BinaryValue === undefined ? { DataType: type, StringValue } : { DataType: type, BinaryValue };
  }
  if (name.startsWith(headerPrefix) && !shown.has(name)) return undefined;
  return value !== '' && attributeName.test(name) && isLegal(value) ? text(value) : undefined;
}

function isLegal(value: string): boolean {
  return !illegal.test(value) && value.isWellFormed();
}

const text = (StringValue: string): MessageAttributeValue => ({ DataType: 'String', StringValue });
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes them
const grows = /["\\\u0000-\u001f]/;
const escaped = (c: string): string => `\\u${c.charCodeAt(0).toString(16)}`;
/** The type of text that travels as base64, because JSON would make much more of it. */
const packedText = 'String.base64';

/** A header as a value of the JSON attribute. */
function folded(value: Value): string | readonly [string, string] {
  if (typeof value === 'string') {
    // A control character takes one byte, and six in JSON: the reserve for headers reckons with a third more.
    const swells = grows.test(value) && JSON.stringify(value).length > value.length * (4 / 3) + packedText.length;
    return swells ? [packedText, Buffer.from(value).toString('base64')] : value;
  }
  if (value.bytes !== undefined) return [value.type, Buffer.from(value.bytes).toString('base64')];
  return [value.type, value.text ?? ''];
}

function sizeOf(name: string, { DataType, StringValue, BinaryValue }: MessageAttributeValue): number {
  return (
    name.length +
    (DataType?.length ?? 0) +
    (StringValue === undefined ? (BinaryValue?.byteLength ?? 0) : Buffer.byteLength(StringValue))
  );
}

function encodeBody(bytes: Uint8Array): { readonly body: string; readonly encoding: string | undefined } {
  if (bytes.byteLength === 0) return { body: '-', encoding: 'empty' };
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (isUtf8(buffer)) {
    const body = buffer.toString('utf8');
    if (!illegal.test(body)) return { body, encoding: undefined };
  }
  return { body: buffer.toString('base64'), encoding: 'base64' };
}

// Reading.

/** What a delivery says of itself: the part that does not depend on where it was read. */
export type Content = Omit<Delivery, 'lane' | 'deliveries' | 'alone' | 'leaseUntil' | 'native'> & {
  /** Milliseconds since the epoch before which nobody is to have it; `undefined`: now. */
  readonly deliverAt: number | undefined;
  /** The topic that a delayed publish goes to. */
  readonly destination: string | undefined;
};

export function fieldsOf(message: Message): Fields {
  const fields: Fields = new Map();
  let rest: unknown;
  const { MessageAttributes: attributes = {} } = message;
  for (const name of Object.keys(attributes)) {
    if (name === '__proto__') continue; // as a property it would vanish, or worse
    const { DataType: type = 'String', StringValue, BinaryValue } = attributes[name] as MessageAttributeValue;
    if (name === moreHeaders && StringValue !== undefined) rest = parsed(StringValue);
    else if (type === 'String' && StringValue !== undefined) fields.set(name, StringValue);
    else if (BinaryValue !== undefined) fields.set(name, { type, bytes: BinaryValue });
    else fields.set(name, { type, text: StringValue ?? '' });
  }
  if (typeof rest === 'object' && rest !== null) {
    for (const [name, value] of Object.entries(rest)) {
      const unfolded = unfold(value);
      if (unfolded !== undefined) fields.set(name, unfolded);
    }
  }
  return fields;
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch {
    return undefined; // somebody else's: it is no header of ours
  }
}

function unfold(value: unknown): Value | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const [type, content] = value as unknown[];
  if (typeof type !== 'string' || typeof content !== 'string') return undefined;
  if (type === packedText) return Buffer.from(content, 'base64').toString('utf8');
  return type.startsWith('Binary') ? { type, bytes: Buffer.from(content, 'base64') } : { type, text: content };
}

/** Reads a message, made by Waybill or by anybody else. */
export function fromMessage(message: Message): Content {
  const headers: Record<string, string> = {};
  const own: Record<string, string> = {};
  let contentTypeName: string | undefined;
  for (const [name, value] of fieldsOf(message)) {
    if (name.startsWith(headerPrefix)) own[name] = textOf(value);
    else {
      headers[name] = textOf(value);
      if (foreignContentType.test(name)) contentTypeName = name;
    }
  }
  let contentType = own[wireHeaders.contentType];
  if (contentType === undefined && contentTypeName !== undefined) {
    contentType = headers[contentTypeName];
    delete headers[contentTypeName];
  }
  const { MessageId, Attributes } = message;
  const attempt = integer(own[wireHeaders.attempt]);
  // A foreign message has its message group for a key; in ours, and in our copies, the group may be something else.
  const isOurs = own[wireHeaders.id] !== undefined || own[positionHeader] !== undefined;
  return {
    id: own[wireHeaders.id],
    key: own[wireHeaders.key] ?? (isOurs ? undefined : Attributes?.MessageGroupId),
    type: own[wireHeaders.type],
    contentType,
    body: decodeBody(message.Body ?? '', own[bodyHeader]),
    headers,
    publishedAt: integer(own[wireHeaders.publishedAt]) ?? integer(Attributes?.SentTimestamp),
    expiresAt: integer(own[wireHeaders.expiresAt]),
    attempt: attempt === undefined || attempt === 0 ? 1 : attempt,
    position: own[positionHeader] ?? MessageId,
    deliverAt: integer(own[wireHeaders.deliverAt]),
    destination: own[wireHeaders.destination],
  };
}

function textOf(value: Value): string {
  if (typeof value === 'string') return value;
  return value.bytes === undefined ? (value.text ?? '') : Buffer.from(value.bytes).toString('utf8');
}

const utf8 = new TextEncoder();

function decodeBody(body: string, encoding: string | undefined): Uint8Array {
  if (encoding === 'empty') return new Uint8Array(0);
  if (encoding !== 'base64') return utf8.encode(body);
  const buffer = Buffer.from(body, 'base64');
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

/** How many times SQS has handed out the message, this time included. */
export function deliveriesOf({ Attributes }: Message): number | undefined {
  return integer(Attributes?.ApproximateReceiveCount);
}

export function toDeadLetter(message: Message): DeadLetterRecord {
  const { attempt: _, deliverAt: __, destination: ___, ...content } = fromMessage(message);
  const own: Record<string, string> = {};
  for (const [name, value] of fieldsOf(message)) if (typeof value === 'string') own[name] = value;
  const details = readDeadLetterHeaders(own, message.MessageId ?? '');
  const { deadLetterEntry, deadLetterReason } = wireHeaders;
  if (own[deadLetterEntry] !== undefined || own[deadLetterReason] !== undefined)
    return { ...content, details, native: message };
  // SQS itself has moved it here, after a thousand deliveries that nobody settled.
  const at = integer(message.Attributes?.SentTimestamp) ?? 0;
  return { ...content, details: { ...details, reason: 'crashed', at }, native: message };
}

// Copies.

/** A change of the headers: `undefined` takes one away. */
type Changes = Readonly<Record<string, string | undefined>>;

/** What a copy that goes on as the same message cannot do without, beside the encoding of its body. */
const indispensable = [wireHeaders.attempt, wireHeaders.deliverAt, wireHeaders.destination];

/**
 * The copy that waits for its next attempt: the message as it is, whoever made it. It is larger than SQS takes where
 * the body fills the limit, so that not even its attempt and its name find room; one that is set apart goes without a
 * name then.
 */
export function retryCopy(message: Message, attempt: number, deliverAt: number | undefined, alone = false): Wire {
  const needed = alone ? indispensable : [...indispensable, positionHeader];
  const changes = {
    [wireHeaders.attempt]: attempt === 1 ? undefined : String(attempt),
    [wireHeaders.deliverAt]: deliverAt === undefined ? undefined : String(deliverAt),
  };
  return fitted(changed(kept(message), changes), message, maxQueueBytes, needed);
}

/** The copy that waits on: nothing is changed. */
export function hopCopy(message: Message): Wire {
  return fitted(kept(message), message, maxQueueBytes, [...indispensable, positionHeader]);
}

/** The copy that leaves the delay queue for its topic. */
export function arrivalCopy(message: Message): Wire {
  return write(
    changed(fieldsOf(message), { [wireHeaders.deliverAt]: undefined, [wireHeaders.destination]: undefined }),
    message.Body ?? '',
  );
}

/** The copy that goes to the dead letters. */
export function deadLetterCopy(message: Message, details: DeadLetterDetails, maxBytes: number): Wire {
  const fields = changed(kept(message), { ...deadLetterHeaders(details), [wireHeaders.deliverAt]: undefined });
  return fitted(fields, message, maxBytes, []);
}

const deadLetterPrefix = 'waybill-dl-';

/** The copy that a redrive sends: attempt 1, no expiry, no trace of having been dead. */
export function redriveCopy(message: Message): Wire {
  const fields = kept(message);
  for (const name of [...fields.keys()]) if (name.startsWith(deadLetterPrefix)) fields.delete(name);
  const changes = {
    [wireHeaders.attempt]: undefined,
    [wireHeaders.expiresAt]: undefined,
    [wireHeaders.deliverAt]: undefined,
  };
  return fitted(changed(fields, changes), message, maxQueueBytes, []);
}

/** Only foreign messages can be too much: whatever is cut then, it is not the body (DLQ-06), nor what is needed. */
function fitted(fields: Fields, { Body = '' }: Message, maxBytes: number, needed: readonly string[]): Wire {
  let wire = write(fields, Body);
  if (wire.bytes <= maxBytes) return wire;
  const foreign = [...fields.keys()].filter((name) => !name.startsWith(headerPrefix));
  const own = [...fields.keys()].filter((name) => name.startsWith(headerPrefix));
  const { deadLetterErrorMessage, deadLetterErrorName } = wireHeaders;
  // What was said of it first, then what others have said, the message's own last.
  for (const name of [deadLetterErrorMessage, deadLetterErrorName, ...foreign, ...own.reverse()]) {
    if (name === bodyHeader || needed.includes(name) || !fields.delete(name)) continue;
    wire = write(fields, Body);
    if (wire.bytes <= maxBytes) break;
  }
  return wire;
}

/** The headers, with what SQS would forget in a copy: a foreign message's id, key and time. */
function kept(message: Message): Fields {
  const fields = fieldsOf(message);
  const { MessageId, Attributes } = message;
  const isForeign = !fields.has(wireHeaders.id) && !fields.has(positionHeader);
  if (isForeign && MessageId !== undefined) fields.set(positionHeader, MessageId);
  const group = Attributes?.MessageGroupId;
  if (isForeign && !fields.has(wireHeaders.key) && group !== undefined) fields.set(wireHeaders.key, group);
  const sent = Attributes?.SentTimestamp;
  if (!fields.has(wireHeaders.publishedAt) && sent !== undefined) fields.set(wireHeaders.publishedAt, sent);
  return fields;
}

function changed(fields: Fields, changes: Changes): Fields {
  for (const name of Object.keys(changes)) {
    const value = changes[name];
    if (value === undefined) fields.delete(name);
    else fields.set(name, value);
  }
  return fields;
}
