import type { protos } from '@google-cloud/pubsub';
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
import { hashOf } from './names.ts';

/** The client library's form of a message with its ack id. */
export type ReceivedMessage = protos.google.pubsub.v1.IReceivedMessage;
/** The client library's form of a message. */
export type PubsubMessage = protos.google.pubsub.v1.IPubsubMessage;
export type Attributes = Record<string, string>;

/** Limits of the service, which the emulator does not heed. */
export const limits = {
  attributes: 100,
  attributeBytes: 1_024,
  messagesPerPublish: 1_000,
  /** Of a publish request with all that is in it; what Google's clients keep to. */
  requestBytes: 10_000_000,
} as const;

/** The rest of a value that is longer than an attribute may be: `waybill-more-1-<name>` and so on. */
const morePrefix = `${headerPrefix}more-`;
/** Before the names of headers that Pub/Sub would refuse. */
const escapePrefix = `${headerPrefix}header-`;
/** Names a message without id on its copies, which get new ids from the broker. */
const positionHeader = `${headerPrefix}position`;

/** Names that begin with `goog` belong to Google; the other is no name for a field of a JavaScript object. */
const reserved = /^(?:goog|__proto__$)/i;

/** A message as it is published: our fields in attributes, the key of an ordered topic as the ordering key. */
export function toMessage(message: OutgoingMessage): PubsubMessage {
  const attributes: Attributes = {};
  for (const name of Object.keys(message.headers)) {
    setAttribute(attributes, reserved.test(name) ? escapePrefix + name : name, message.headers[name] as string);
  }
  attributes[wireHeaders.id] = message.id;
  attributes[wireHeaders.contentType] = message.contentType;
  attributes[wireHeaders.publishedAt] = String(message.publishedAt);
  if (message.type !== undefined) setAttribute(attributes, wireHeaders.type, message.type);
  if (message.expiresAt !== undefined) attributes[wireHeaders.expiresAt] = String(message.expiresAt);
  if (message.deliverAt !== undefined) attributes[wireHeaders.deliverAt] = String(message.deliverAt);
  const data = message.body;
  if (message.key === undefined) return { data, attributes };
  if (message.topic.ordered) return { data, attributes, orderingKey: message.key };
  attributes[wireHeaders.key] = message.key;
  return { data, attributes };
}

/** A value may have 1,024 bytes of UTF-8; a longer one goes on in more attributes. */
function setAttribute(attributes: Attributes, name: string, value: string): void {
  if (value.length * 3 <= limits.attributeBytes || Buffer.byteLength(value) <= limits.attributeBytes) {
    attributes[name] = value;
    return;
  }
  let part = 0;
  let from = 0;
  let bytes = 0;
  let at = 0;
  for (const character of value) {
    const size = Buffer.byteLength(character);
    if (bytes + size > limits.attributeBytes) {
      attributes[partName(name, part++)] = value.slice(from, at);
      from = at;
      bytes = 0;
    }
    bytes += size;
    at += character.length;
  }
  attributes[partName(name, part)] = value.slice(from);
}

const partName = (name: string, part: number): string => (part === 0 ? name : `${morePrefix}${part}-${name}`);

/** The user's headers and our own, whole again. */
export function readAttributes(given: Readonly<Attributes> | null | undefined): { user: Attributes; own: Attributes } {
  const user: Attributes = {};
  const own: Attributes = {};
  if (given === null || given === undefined) return { user, own };
  const names = Object.keys(given);
  const inParts = names.some((name) => name.startsWith(morePrefix));
  for (const stored of names) {
    if (inParts && stored.startsWith(morePrefix)) continue;
    const value = inParts ? wholeValue(given, stored) : (given[stored] as string);
    if (stored.startsWith(escapePrefix)) setOwn(user, stored.slice(escapePrefix.length), value);
    else if (stored.startsWith(headerPrefix)) own[stored] = value;
    else setOwn(user, stored, value);
  }
  return { user, own };
}

function wholeValue(given: Readonly<Attributes>, name: string): string {
  let value = given[name] as string;
  for (let part = 1; ; part++) {
    const more = given[partName(name, part)];
    if (more === undefined) return value;
    value += more;
  }
}

function setOwn(target: Attributes, name: string, value: string): void {
  if (name !== '__proto__') target[name] = value;
  else Object.defineProperty(target, name, { value, enumerable: true, configurable: true, writable: true });
}

/** What a message says of itself: the part that does not depend on where it was read. */
export interface Content {
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
  /** Milliseconds since the epoch; not to be handed out before. */
  readonly deliverAt: number | undefined;
  readonly attempt: number;
  readonly position: string;
  /** The one group that this copy is for; `undefined` for all. */
  readonly destination: string | undefined;
}

/** Reads a message, made by Waybill or by anybody else. */
export function fromMessage(message: PubsubMessage): Content {
  const { user, own } = readAttributes(message.attributes);
  const attempt = integer(own[wireHeaders.attempt]);
  return {
    id: own[wireHeaders.id],
    key: keyOf(message),
    type: own[wireHeaders.type],
    contentType: own[wireHeaders.contentType] ?? user['content-type'],
    body: bytesOf(message),
    headers: user,
    publishedAt: integer(own[wireHeaders.publishedAt]) ?? storedAt(message),
    expiresAt: integer(own[wireHeaders.expiresAt]),
    deliverAt: integer(own[wireHeaders.deliverAt]),
    attempt: attempt === undefined || attempt === 0 ? 1 : attempt,
    position: own[positionHeader] ?? positionOf(message),
    destination: own[wireHeaders.destination],
  };
}

export function keyOf(message: PubsubMessage): string | undefined {
  return message.attributes?.[wireHeaders.key] ?? (message.orderingKey || undefined);
}

/** When the broker got it, in milliseconds since the epoch. */
export function storedAt({ publishTime }: PubsubMessage): number {
  return Number(publishTime?.seconds ?? 0) * 1_000 + Math.floor((publishTime?.nanos ?? 0) / 1e6);
}

function positionOf(message: PubsubMessage): string {
  return `${storedAt(message)}:${message.messageId ?? ''}`;
}

/** A Buffer is a Uint8Array with other habits: code for all brokers gets the plain kind. */
function bytesOf({ data }: PubsubMessage): Uint8Array {
  if (data === null || data === undefined || typeof data === 'string') return new Uint8Array(0);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The copy that waits for its next attempt: the message as it is, whoever made it. */
export function retryCopy(message: PubsubMessage, attempt: number, deliverAt: number | undefined): PubsubMessage {
  return copy(message, {
    [wireHeaders.attempt]: String(attempt),
    [wireHeaders.deliverAt]: deliverAt === undefined ? undefined : String(deliverAt),
  });
}

/** The copy that goes to the dead letters; whatever is cut for lack of room, it is not the message (DLQ-06). */
export function deadLetterCopy(message: PubsubMessage, details: DeadLetterDetails): PubsubMessage {
  return copy(message, {
    [wireHeaders.attempt]: undefined,
    [wireHeaders.deliverAt]: undefined,
    ...deadLetterHeaders(details),
  });
}

/**
 * The copy that a redrive sends: attempt 1, no expiry, no trace of having been dead.
 *
 * @param destination the group, where the copy goes to the topic itself, which all groups read
 */
export function redriveCopy(message: PubsubMessage, destination: string | undefined): PubsubMessage {
  const { own } = readAttributes(message.attributes);
  const changes: Record<string, string | undefined> = {
    [wireHeaders.attempt]: undefined,
    [wireHeaders.expiresAt]: undefined,
    [wireHeaders.deliverAt]: undefined,
    [wireHeaders.destination]: destination,
  };
  for (const name of Object.keys(own)) if (name.startsWith(deadLetterPrefix)) changes[name] = undefined;
  return copy(message, changes);
}

const deadLetterPrefix = `${headerPrefix}dl-`;

function copy(message: PubsubMessage, changes: Readonly<Record<string, string | undefined>>): PubsubMessage {
  const attributes: Attributes = { ...message.attributes };
  const key = keyOf(message);
  if (key !== undefined) attributes[wireHeaders.key] = key;
  if (attributes[wireHeaders.id] === undefined) attributes[positionHeader] ??= positionOf(message);
  if (attributes[wireHeaders.publishedAt] === undefined)
    attributes[wireHeaders.publishedAt] = String(storedAt(message));
  for (const name of Object.keys(changes)) {
    for (let part = 0; attributes[partName(name, part)] !== undefined; part++) delete attributes[partName(name, part)];
    const value = changes[name];
    if (value !== undefined) setAttribute(attributes, name, value);
  }
  return fit({ data: message.data ?? null, attributes });
}

/** Only foreign messages can be too much: first what can be spared is cut, then their largest attributes. */
function fit(message: PubsubMessage): PubsubMessage {
  const attributes = message.attributes ?? {};
  const fits = (): boolean =>
    Object.keys(attributes).length <= limits.attributes && sizeOf(message) <= limits.requestBytes - requestRoom;
  if (fits()) return message;
  const ofText = (name: string): boolean =>
    name.endsWith(wireHeaders.deadLetterErrorMessage) || name.endsWith(wireHeaders.deadLetterErrorName);
  const foreign = Object.keys(attributes)
    .filter((name) => !name.startsWith(headerPrefix))
    .sort((a, b) => (attributes[b]?.length ?? 0) - (attributes[a]?.length ?? 0));
  for (const name of [...Object.keys(attributes).filter(ofText), ...foreign]) {
    if (fits()) break;
    delete attributes[name];
  }
  return message;
}

/** Bytes for the topic's name and the like around the messages of a request. */
const requestRoom = 1_024;

/** An upper bound of the bytes that a message takes in a request. */
export function sizeOf(message: PubsubMessage): number {
  let size = 64 + (typeof message.data === 'string' ? message.data.length : (message.data?.length ?? 0));
  size += 3 * (message.orderingKey?.length ?? 0);
  const { attributes } = message;
  if (attributes)
    for (const name of Object.keys(attributes)) size += 12 + 3 * (name.length + (attributes[name] ?? '').length);
  return size;
}

export function toDeadLetter(message: PubsubMessage, native: ReceivedMessage): DeadLetterRecord {
  const { attempt: _, deliverAt: __, destination: ___, ...content } = fromMessage(message);
  const { own } = readAttributes(message.attributes);
  return {
    ...content,
    native,
    details: readDeadLetterHeaders(own, content.id ?? message.messageId ?? hashOf(content.body)),
  };
}

/** Where one delivery came from, and until when it is ours. */
export interface Origin {
  readonly subscription: string;
  /** Counts how often the subscription was made again: ack ids are those of one life. */
  readonly life: number;
}

/** A message in this member's hands. */
export class PubsubDelivery implements Delivery {
  readonly lane: string;
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
  readonly attempt: number;
  readonly deliveries = undefined;
  readonly position: string;
  readonly native: ReceivedMessage;
  readonly message: PubsubMessage;
  readonly ackId: string;
  readonly origin: Origin;
  leaseUntil: number;
  /** Since when it could be handed out, in monotonic milliseconds. */
  readyAt: number;
  /** Given back: a renewal that came after would take it from the others again. */
  released: boolean;
  /** What its copy stands for, once that is with the broker: a repeated settlement need only ack. */
  copied: string | undefined;

  constructor(native: ReceivedMessage, content: Content, lane: string, origin: Origin, leaseUntil: number) {
    this.lane = lane;
    this.id = content.id;
    this.key = content.key;
    this.type = content.type;
    this.contentType = content.contentType;
    this.body = content.body;
    this.headers = content.headers;
    this.publishedAt = content.publishedAt;
    this.expiresAt = content.expiresAt;
    this.attempt = content.attempt;
    this.position = content.position;
    this.native = native;
    this.message = native.message ?? {};
    this.ackId = native.ackId ?? '';
    this.origin = origin;
    this.leaseUntil = leaseUntil;
    this.readyAt = 0;
    this.released = false;
    this.copied = undefined;
  }
}
