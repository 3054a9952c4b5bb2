import { randomUUID } from 'node:crypto';
import type { Delivery, OutgoingMessage } from './adapter.ts';
import type { Clock } from './clock.ts';
import { type Codec, essenceOf, jsonCodec, kindOf, rawContentType } from './codec.ts';
import { type Duration, duration } from './duration.ts';
import { ConfigError, InvalidMessageError, UnsupportedError, WaybillError } from './errors.ts';
import { checkContentType, checkHeaders, checkId, checkKey, checkType, nameOf } from './limits.ts';
import type { SchemaResult, StandardSchema } from './schema.ts';
import type { EventSchemas, TopicDefinition } from './topic.ts';
import type { PublishOptions } from './types.ts';
import { checkOptions } from './url.ts';

/** What encoding needs of the bus. */
export interface EncodeContext {
  /** For topics without a codec of their own. */
  readonly codec: Codec;
  readonly clock: Clock;
  /** The adapter's name: its options under `broker` go with the message. */
  readonly adapter: string;
  /** Milliseconds of the longest delay that the adapter can do. */
  readonly maxDelay: number;
}

type TopicOnBroker = OutgoingMessage['topic'];

const publishOptions = [
  'id',
  'key',
  'type',
  'headers',
  'contentType',
  'delay',
  'deliverAt',
  'ttl',
  'expiresAt',
  'signal',
  'broker',
] as const;

/**
 * A publish as it goes to the broker: everything checked, encoded, and with its defaults (PUB-10). Gives a promise
 * only where the schema does.
 *
 * @param on the topic as it stands on the broker
 * @throws InvalidMessageError that names the field
 * @throws ConfigError for an unknown option
 * @throws UnsupportedError for a delay over the adapter's longest
 */
export function encodeMessage(
  definition: TopicDefinition,
  on: TopicOnBroker,
  data: unknown,
  options: PublishOptions,
  context: EncodeContext,
): OutgoingMessage | Promise<OutgoingMessage> {
  checkOptions(options, publishOptions, '');
  const type = typeOf(definition, options.type);
  const schema = schemaOf(definition, type);
  const publishedAt = context.clock.now();
  const times = checkTimes(options, publishedAt, context);
  const headers = checkHeaders(options.headers);
  if (options.id !== undefined) check('id', checkId(options.id));
  if (options.contentType !== undefined) check('contentType', checkContentType(options.contentType));
  const codec = definition.codec ?? context.codec;

  const finish = (): OutgoingMessage => {
    const key = keyOf(definition, data, type, options.key);
    checkOrder(on, key, options);
    return {
      topic: on,
      id: options.id ?? randomUUID(),
      key,
      type,
      contentType: encoded.contentType,
      body: encoded.body,
      headers,
      publishedAt,
      deliverAt: times.deliverAt,
      expiresAt: times.expiresAt,
      options: options.broker?.[context.adapter],
    };
  };

  let encoded: Encoded;
  const validated = schema === undefined ? undefined : validate(schema, data, definition.name);
  if (validated instanceof Promise) {
    return validated.then(async () => {
      encoded = encodeData(data, options.contentType, codec);
      if (schema !== undefined) await checkSurvival(schema, codec, encoded, definition.name);
      return finish();
    });
  }
  encoded = encodeData(data, options.contentType, codec);
  const survived = schema === undefined ? undefined : checkSurvival(schema, codec, encoded, definition.name);
  return survived instanceof Promise ? survived.then(finish) : finish();
}

function check(field: string, problem: string | undefined): void {
  if (problem !== undefined) throw new InvalidMessageError(field, problem);
}

/** The schema for messages of this type; `undefined` where there is none. */
function schemaOf({ schema, types }: TopicDefinition, type: string | undefined): StandardSchema | undefined {
  if (types === undefined) return schema;
  return type !== undefined && Object.hasOwn(types, type) ? types[type] : undefined;
}

/** The type of a publish, which a topic with several types has to list. */
function typeOf({ name, event, types }: TopicDefinition, given: string | undefined): string | undefined {
  if (event !== undefined && given !== undefined && given !== event) {
    throw new InvalidMessageError('type', `"${given}" does not go to the event "${event}" of topic "${name}"`);
  }
  const type = given ?? event;
  if (type !== undefined) check('type', checkType(type));
  if (types === undefined || (type !== undefined && Object.hasOwn(types, type))) return type;
  const events = Object.keys(types).join(', ');
  throw new InvalidMessageError(
    'type',
    type === undefined
      ? `topic "${name}" has several; publish to its .event(…), one of ${events}`
      : `topic "${name}" has no event "${type}"; it has ${events}`,
  );
}

function keyOf(
  definition: TopicDefinition,
  data: unknown,
  type: string | undefined,
  given: string | undefined,
): string | undefined {
  let key: unknown = given;
  if (key === undefined && definition.key !== undefined) {
    try {
      key = definition.key(data, type);
    } catch (cause) {
      throw new InvalidMessageError('key', `the key function of topic "${definition.name}" failed`, { cause });
    }
  }
  if (key === undefined) return undefined;
  check('key', checkKey(key));
  return key as string;
}

/**
 * What an ordered topic asks of a message (ORD-04).
 *
 * @throws InvalidMessageError without a key, or with a delay
 */
export function checkOrder(
  on: { readonly name: string; readonly ordered: boolean },
  key: string | undefined,
  options: { readonly delay?: unknown; readonly deliverAt?: unknown },
): void {
  if (!on.ordered) return;
  if (key === undefined) {
    throw new InvalidMessageError('key', `topic "${on.name}" is ordered: every message needs a key`);
  }
  for (const field of ['delay', 'deliverAt'] as const) {
    if (options[field] !== undefined) {
      throw new InvalidMessageError(field, `topic "${on.name}" is ordered: a message cannot be held back on it`);
    }
  }
}

/** The end of the year 9999: what is later is a mistake, and does not fit what the wire format has for times. */
const latest = 253_402_300_799_999;

function checkTimes(
  options: PublishOptions,
  now: number,
  { adapter, maxDelay }: EncodeContext,
): { deliverAt: number | undefined; expiresAt: number | undefined } {
  const deliverAt = timeOf('delay', options.delay, 'deliverAt', options.deliverAt, now);
  const expiresAt = timeOf('ttl', options.ttl, 'expiresAt', options.expiresAt, now);
  if (deliverAt !== undefined && deliverAt - now > maxDelay) {
    throw new UnsupportedError(
      'maxDelay',
      adapter,
      `${options.delay === undefined ? 'deliverAt' : 'delay'} is ${deliverAt - now} ms away, the longest delay is ${maxDelay} ms`,
    );
  }
  return { deliverAt: deliverAt !== undefined && deliverAt > now ? deliverAt : undefined, expiresAt };
}

function timeOf(
  lengthField: string,
  length: Duration | undefined,
  dateField: string,
  date: Date | undefined,
  now: number,
): number | undefined {
  if (length === undefined && date === undefined) return undefined;
  if (length !== undefined && date !== undefined) {
    throw new InvalidMessageError(lengthField, `cannot stand beside ${dateField}; give one of the two`);
  }
  const field = length === undefined ? dateField : lengthField;
  const time = length === undefined ? timeOfDate(field, date) : now + lengthOf(field, length);
  if (time > latest) throw new InvalidMessageError(field, 'is after the year 9999');
  return Math.max(0, Math.ceil(time));
}

function timeOfDate(field: string, date: unknown): number {
  const time = date instanceof Date ? date.getTime() : Number.NaN;
  if (Number.isNaN(time)) throw new InvalidMessageError(field, 'is not a valid Date');
  return time;
}

function lengthOf(field: string, length: Duration): number {
  try {
    return duration(length, field);
  } catch (cause) {
    const said = cause instanceof ConfigError ? cause.message.slice(field.length + 2) : 'is not a duration';
    throw new InvalidMessageError(field, said, { cause });
  }
}

interface Encoded {
  readonly body: Uint8Array;
  readonly contentType: string;
}

/** Bytes are sent as they are; text as it is where the content type says that it is text; the rest by the codec. */
function encodeData(data: unknown, contentType: string | undefined, codec: Codec): Encoded {
  if (data instanceof Uint8Array) return { body: data, contentType: contentType ?? rawContentType };
  if (contentType !== undefined && codec === jsonCodec) {
    const kind = kindOf(contentType);
    if (kind === 'text' && typeof data === 'string') return { body: Buffer.from(data), contentType };
    if (kind !== 'json') {
      throw new InvalidMessageError(
        'contentType',
        `${contentType} is not what JSON makes; publish a Uint8Array with it`,
      );
    }
  }
  try {
    return { body: codec.encode(data), contentType: contentType ?? codec.contentType };
  } catch (error) {
    if (WaybillError.is(error, 'INVALID_MESSAGE')) throw error;
    throw new InvalidMessageError('data', `the codec for ${codec.contentType} failed: ${textOf(error)}`, {
      cause: error,
    });
  }
}

/** Schemas that were seen to read back what a codec had written. */
const survivors = new WeakMap<StandardSchema, Codec>();

/**
 * On the first publish: whether what this codec writes still fits the schema when it is read. A `z.date()` fits a Date
 * and not the text that JSON makes of it, and without this check only the subscribers would find out.
 */
function checkSurvival(
  schema: StandardSchema,
  codec: Codec,
  encoded: Encoded,
  topic: string,
): undefined | Promise<undefined> {
  if (survivors.get(schema) === codec) return undefined;
  const fail = (error: unknown): never => {
    if (!WaybillError.is(error, 'INVALID_MESSAGE')) throw error;
    const invalid = error as InvalidMessageError;
    throw new InvalidMessageError(
      invalid.field,
      `fits the schema of topic "${topic}", but not any more when a subscriber reads it: ${invalid.message}; ${codec.contentType} cannot carry this value as it is, so take a schema that also accepts what comes out, such as z.coerce.date() for z.date()`,
      { issues: invalid.issues, cause: error },
    );
  };
  const survived = (): undefined => {
    survivors.set(schema, codec);
  };
  try {
    const read = decodeBody(schema, codec, encoded.body, encoded.contentType, topic);
    return read instanceof Promise ? read.then(survived, fail) : survived();
  } catch (error) {
    return fail(error);
  }
}

/** A message whose type its topic does not list: what becomes of it is `unknownType`'s to say. */
export class UnknownTypeError extends InvalidMessageError {
  constructor(topic: string, type: string | undefined, types: EventSchemas) {
    const what = type === undefined ? 'a message without a type' : `"${type}"`;
    super('type', `topic "${topic}" does not list ${what}; it has ${Object.keys(types).join(', ')}`);
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
  const schema = schemaOf(definition, message.type);
  if (schema === undefined && definition.types !== undefined) {
    throw new UnknownTypeError(definition.name, message.type, definition.types);
  }
  return decodeBody(schema, definition.codec ?? codec, message.body, message.contentType, definition.name);
}

/**
 * The content type says how a body is read. Where that does not lead to what the schema asks for, the codec is tried
 * on it all the same: foreign producers label JSON as text or as bytes, or not at all.
 */
function decodeBody(
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

/** @throws InvalidMessageError with every issue; its field is the first one's */
function validate(schema: StandardSchema, value: unknown, topic: string): unknown {
  const fault = (cause: unknown): never => {
    throw new InvalidMessageError('data', `the schema of topic "${topic}" failed: ${textOf(cause)}`, { cause });
  };
  let result: SchemaResult<unknown> | Promise<SchemaResult<unknown>>;
  try {
    result = schema['~standard'].validate(value);
  } catch (cause) {
    return fault(cause);
  }
  return result instanceof Promise ? result.catch(fault).then((one) => accepted(one, topic)) : accepted(result, topic);
}

function accepted(result: SchemaResult<unknown>, topic: string): unknown {
  if (result.issues === undefined) return result.value;
  const issues = result.issues.map((issue) => ({ message: issue.message, path: pathOf(issue.path) }));
  const [first, ...others] = issues;
  const more = others.length === 0 ? '' : ` (and ${others.length} more)`;
  throw new InvalidMessageError(
    `data${first?.path ?? ''}`,
    `does not fit the schema of topic "${topic}": ${first?.message ?? 'no reason given'}${more}`,
    { issues: issues.map((issue) => ({ message: issue.message, path: `data${issue.path}` })) },
  );
}

function pathOf(path: readonly (PropertyKey | { readonly key: PropertyKey })[] = []): string {
  let text = '';
  for (const part of path) {
    const key = typeof part === 'object' ? part.key : part;
    text += typeof key === 'number' ? `[${key}]` : `.${String(key)}`;
  }
  return text;
}

const textOf = (error: unknown): string => (error instanceof Error ? error.message : nameOf(error));
