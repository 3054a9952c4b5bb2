import { randomUUID } from 'node:crypto';
import type { OutgoingMessage } from './adapter.ts';
import type { Clock } from './clock.ts';
import { type Codec, jsonCodec, kindOf, rawContentType } from './codec.ts';
import { decodeBody } from './decode.ts';
import { type Duration, duration } from './duration.ts';
import { ConfigError, InvalidMessageError, UnsupportedError, WaybillError } from './errors.ts';
import { checkContentType, checkHeaders, checkId, checkKey, checkType, textOf } from './limits.ts';
import { type StandardSchema, validate } from './schema.ts';
import { schemaFor, type TopicDefinition } from './topic.ts';
import type { PublishOptions } from './types.ts';
import { checkOptions } from './url.ts';

export { type DecodedMessage, decodeMessage, UnknownTypeError } from './decode.ts';

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
  const schema = schemaFor(definition, type);
  const publishedAt = context.clock.now();
  const times = checkTimes(options, publishedAt, context);
  const headers = checkHeaders(options.headers);
  if (options.id !== undefined) check('id', checkId(options.id));
  if (options.contentType !== undefined) check('contentType', checkContentType(options.contentType));
  const codec = definition.codec ?? context.codec;
  // Before a schema may take its time: what is sent is the data as it was at the call.
  const encoded = encodeData(data, options.contentType, codec);

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
  if (schema === undefined) return finish();
  const survives = (): undefined | Promise<undefined> => checkSurvival(schema, codec, encoded, definition.name);
  const valid = validate(schema, data, definition.name);
  if (valid instanceof Promise) return valid.then(survives).then(finish);
  const survived = survives();
  return survived instanceof Promise ? survived.then(finish) : finish();
}

function check(field: string, problem: string | undefined): void {
  if (problem !== undefined) throw new InvalidMessageError(field, problem);
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

/**
 * The key of a publish: the one given, else what the topic's function makes of the data.
 *
 * @throws InvalidMessageError
 */
export function keyOf(
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
  if (deliverAt !== undefined) {
    checkDelay(options.delay === undefined ? 'deliverAt' : 'delay', deliverAt - now, maxDelay, adapter);
  }
  return { deliverAt: deliverAt !== undefined && deliverAt > now ? deliverAt : undefined, expiresAt };
}

/** @throws UnsupportedError for a delay over the adapter's longest; in milliseconds */
export function checkDelay(field: string, delay: number, maxDelay: number, adapter: string): void {
  if (delay <= maxDelay) return;
  throw new UnsupportedError('maxDelay', adapter, `${field} is ${delay} ms away, the longest delay is ${maxDelay} ms`);
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
    const { field, issues } = error as InvalidMessageError;
    const reason = issues[0]?.message ?? (error as InvalidMessageError).message;
    throw new InvalidMessageError(
      field,
      `fits the schema of topic "${topic}", but what a subscriber gets of it through ${codec.contentType} does not: ${reason}; take a schema that accepts both, such as z.coerce.date() for z.date()`,
      { issues, cause: error },
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
