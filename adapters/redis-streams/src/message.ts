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

/** The field that holds the body. A user's header of this name stands in `headerNamedBody`. */
const bodyField = 'body';
const headerNamedBody = 'waybill-header-body';
/** On a copy: the place of the first one in the topic, which names a message that has no id. */
const positionField = 'waybill-position';

/** Fields and values of an entry in turn, as Redis takes them. */
export type Fields = (string | Uint8Array)[];

/** An entry as Redis gives it. */
export interface Entry {
  readonly id: string;
  readonly fields: readonly Buffer[];
}

/** The entry of a message: its body, its headers as fields of their own, and the rest in `waybill-` fields. */
export function toFields(message: OutgoingMessage): Fields {
  const { body } = message;
  const fields: Fields = [
    bodyField,
    Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength),
    wireHeaders.id,
    message.id,
    wireHeaders.contentType,
    message.contentType,
    wireHeaders.publishedAt,
    String(message.publishedAt),
  ];
  if (message.key !== undefined) fields.push(wireHeaders.key, message.key);
  if (message.type !== undefined) fields.push(wireHeaders.type, message.type);
  if (message.expiresAt !== undefined) fields.push(wireHeaders.expiresAt, String(message.expiresAt));
  for (const name in message.headers) {
    fields.push(name === bodyField ? headerNamedBody : name, message.headers[name] as string);
  }
  return fields;
}

/** What a delivery says of itself: the part that does not depend on who reads it. */
type Content = Omit<Delivery, 'lane' | 'deliveries' | 'alone' | 'leaseUntil'>;

/**
 * Reads an entry, made by Waybill or by anybody else.
 *
 * @param place goes before an id to make it a position: empty, or a lane
 */
export function fromEntry(entry: Entry, place: string): Content {
  const { user, own, body } = read(entry.fields);
  const attempt = integer(own[wireHeaders.attempt]);
  return {
    id: own[wireHeaders.id],
    key: own[wireHeaders.key],
    type: own[wireHeaders.type],
    contentType: own[wireHeaders.contentType] ?? user['content-type'] ?? (body === undefined ? json : undefined),
    body: body ?? asJson(user),
    headers: user,
    // The id of an entry begins with the server's time.
    publishedAt: integer(own[wireHeaders.publishedAt]) ?? integer(entry.id.split('-', 1)[0]),
    expiresAt: integer(own[wireHeaders.expiresAt]),
    attempt: attempt === undefined || attempt === 0 ? 1 : attempt,
    position: own[positionField] ?? place + entry.id,
    native: entry,
  };
}

export function toDeadLetter(entry: Entry): DeadLetterRecord {
  const { attempt: _, ...content } = fromEntry(entry, '');
  return { ...content, details: readDeadLetterHeaders(read(entry.fields).own, entry.id) };
}

/** The fields that make a copy a dead letter. */
export function deadLetterFields(details: DeadLetterDetails): string[] {
  return Object.entries(deadLetterHeaders(details)).flat();
}

const json = 'application/json';

/** An entry of a program that has no field `body`: its fields are the message. */
function asJson(fields: Readonly<Record<string, string>>): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(fields));
}

function read(fields: readonly Buffer[]): {
  readonly user: Record<string, string>;
  readonly own: Record<string, string>;
  readonly body: Uint8Array | undefined;
} {
  const user: Record<string, string> = {};
  const own: Record<string, string> = {};
  let body: Uint8Array | undefined;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = (fields[i] as Buffer).toString();
    const value = fields[i + 1] as Buffer;
    if (name === bodyField) body = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    else if (name === headerNamedBody) user[bodyField] = value.toString();
    else if (name.startsWith(headerPrefix)) own[name] = value.toString();
    else if (name !== '__proto__') user[name] = value.toString();
  }
  return { user, own, body };
}
