import type { Delivery } from './adapter.ts';
import { type Codec, essenceOf, rawContentType } from './codec.ts';
import { InvalidMessageError } from './errors.ts';
import { textOf } from './limits.ts';
import { type StandardSchema, validate } from './schema.ts';
import { type EventSchemas, schemaFor, type TopicDefinition } from './topic.ts';

/** A message whose type its topic does not list: what becomes of it is `unknownType`'s to say. */
export class UnknownTypeError extends InvalidMessageError {
  constructor(topic: string, type: string | undefined, types: EventSchemas) {
    const what = type === undefined ? 'a message without a type' : `the event "${type}"`;
    super('type', `${what} is not one of topic "${topic}", which has ${Object.keys(types).join(', ')}`);
  }
}

/** What a message says once its body has been read. */
export interface DecodedMessage {
  readonly data: unknown;
  /** The message's own, or what it was read as. */
  readonly contentType: string;
}

/**
 * Reads a message for its handler. Gives a promise only where the schema does.
 *
 * @param codec the bus's, for topics without a codec of their own
 * @throws UnknownTypeError for an event type that the topic does not list
 * @throws InvalidMessageError for a body that does not decode or fails the schema (SUB-10)
 */
export function decodeMessage(
  definition: TopicDefinition,
  codec: Codec,
  message: Pick<Delivery, 'body' | 'contentType' | 'type'>,
): DecodedMessage | Promise<DecodedMessage> {
  const schema = schemaFor(definition, message.type);
  if (schema === undefined && definition.types !== undefined) {
    throw new UnknownTypeError(definition.name, message.type, definition.types);
  }
  return decodeBody(schema, definition.codec ?? codec, message.body, message.contentType, definition.name);
}

/**
 * The content type says how a body is read. Where that does not lead to what the schema asks for, the codec is tried
 * on it all the same: foreign producers label JSON as text or as bytes, or not at all.
 */
export function decodeBody(
  schema: StandardSchema | undefined,
  codec: Codec,
  body: Uint8Array,
  label: string | undefined,
  topic: string,
): DecodedMessage | Promise<DecodedMessage> {
  if (schema === undefined) return decodeBare(codec, body, label);
  const first = decodeAs(codec, body, label ?? codec.contentType);
  const isData = typeof first.data !== 'string' && !(first.data instanceof Uint8Array);
  if (isData || essenceOf(first.contentType) === essenceOf(codec.contentType)) return fitted(schema, first, topic);
  const second = (): DecodedMessage | Promise<DecodedMessage> =>
    fitted(schema, { ...decodeAs(codec, body, codec.contentType), contentType: first.contentType }, topic);
  try {
    const fits = fitted(schema, first, topic);
    return fits instanceof Promise ? fits.catch(second) : fits;
  } catch {
    return second();
  }
}

/**
 * Reads a body that no schema asks anything of. Where nobody has said what it is and the codec cannot read it, it is
 * bytes.
 *
 * @throws InvalidMessageError
 */
export function decodeBare(codec: Codec, body: Uint8Array, contentType: string | undefined): DecodedMessage {
  if (contentType !== undefined) return decodeAs(codec, body, contentType);
  try {
    return { data: codec.decode(body, codec.contentType), contentType: codec.contentType };
  } catch {
    return { data: body, contentType: rawContentType };
  }
}

function decodeAs(codec: Codec, body: Uint8Array, contentType: string): DecodedMessage {
  if (essenceOf(contentType) === rawContentType) return { data: body, contentType };
  try {
    return { data: codec.decode(body, contentType), contentType };
  } catch (error) {
    throw new InvalidMessageError('body', `does not decode as ${contentType}: ${textOf(error)}`, { cause: error });
  }
}

function fitted(
  schema: StandardSchema,
  { data, contentType }: DecodedMessage,
  topic: string,
): DecodedMessage | Promise<DecodedMessage> {
  const valid = validate(schema, data, topic);
  return valid instanceof Promise
    ? valid.then((output: unknown) => ({ data: output, contentType }))
    : { data: valid, contentType };
}
