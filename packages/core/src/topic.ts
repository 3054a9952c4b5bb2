import type { Codec } from './codec.ts';
import { ConfigError } from './errors.ts';
import { checkType } from './limits.ts';
import { checkName } from './names.ts';
import type { SchemaInput, SchemaOutput, StandardSchema } from './schema.ts';
import type { BrokerOptions, Handler, InboxHandler, InboxOption, Message, SubscribeOptions } from './types.ts';
import { checkOptions } from './url.ts';

// Never there at run time. Reading only, so that a topic of some type fits wherever one of a wider type is asked for.
declare const phantom: unique symbol;

/**
 * A topic: what it is called, what its messages hold, and whether they keep an order. Inert: one is made at module
 * level and used by publishers and subscribers of every bus.
 *
 * `In` is what `publish` takes, `Out` what a handler gets: a schema's input and output.
 */
export interface Topic<In = unknown, Out = In> {
  readonly name: string;
  readonly [phantom]: { readonly input: In; readonly output: Out; readonly message: Message<Out> };
}

/** Any topic, whatever its messages hold. */
export type AnyTopic = Topic<unknown, unknown>;

/** Schemas by event type. */
export type EventSchemas = Readonly<Record<string, StandardSchema>>;

/** A topic with several types of events. Nothing is published to it as a whole, but to one of its events. */
export interface EventTopic<Types extends EventSchemas = EventSchemas>
  extends Topic<never, SchemaOutput<Types[keyof Types]>> {
  readonly [phantom]: {
    readonly input: never;
    readonly output: SchemaOutput<Types[keyof Types]>;
    readonly message: { [K in keyof Types & string]: Message<SchemaOutput<Types[K]>, K> }[keyof Types & string];
  };
  /**
   * The topic to publish one type of event to.
   * @throws ConfigError for a type that the topic does not list
   */
  event<K extends keyof Types & string>(type: K): EventOf<Types, K>;
}

/** One type of event of an `EventTopic`. */
export interface EventOf<Types extends EventSchemas, K extends keyof Types & string>
  extends Topic<SchemaInput<Types[K]>, SchemaOutput<Types[K]>> {
  readonly [phantom]: {
    readonly input: SchemaInput<Types[K]>;
    readonly output: SchemaOutput<Types[K]>;
    readonly message: Message<SchemaOutput<Types[K]>, K>;
  };
}

/** What `publish` takes for a topic; `unknown` for a bare name. */
export type InputOf<T> = T extends { readonly [phantom]: { readonly input: infer In } } ? In : unknown;
/** What a handler finds in `message.data`; `unknown` for a bare name. */
export type OutputOf<T> = T extends { readonly [phantom]: { readonly output: infer Out } } ? Out : unknown;
/** What a handler gets: for a topic with event types a union, told apart by `message.type`. */
export type MessageOf<T> = T extends { readonly [phantom]: { readonly message: infer M } } ? M : Message;

interface CommonOptions {
  /** How data becomes bytes. Default: the bus's codec, which is JSON unless said otherwise. */
  readonly codec?: Codec;
  /** What one broker needs beyond it, by adapter name; the others ignore it. */
  readonly broker?: BrokerOptions;
}

/** `Args` are what the key is made of: the data as published, and the event type where the topic has several. */
type OrderOptions<Args extends readonly unknown[]> =
  | {
      /** Messages with one key are handled one at a time and in the order in which they are stored (ORD-01). */
      readonly ordered: true;
      /** The key of a message, 1 to 512 bytes. Needed for order; `publish` may give another. */
      readonly key: (...args: Args) => string;
      /** Ordered pieces that a broker without keys of its own makes at creation. Default: 8. */
      readonly lanes?: number;
    }
  | {
      /** `false` says that the topic must not be ordered; left out, it is taken as it stands on the broker. */
      readonly ordered?: false;
      readonly key?: (...args: Args) => string | undefined;
      readonly lanes?: never;
    };

export type SchemaTopicOptions<S extends StandardSchema> = CommonOptions & {
  /** Any Standard Schema: zod, valibot, arktype, … */
  readonly schema: S;
  readonly types?: never;
} & OrderOptions<[data: SchemaInput<S>]>;

export type EventTopicOptions<Types extends EventSchemas> = CommonOptions & {
  /** A schema for each type of event. */
  readonly types: Types;
  readonly schema?: never;
} & OrderOptions<[data: SchemaInput<Types[keyof Types]>, type: keyof Types & string]>;

export type TopicOptions<Data> = CommonOptions & {
  readonly schema?: never;
  readonly types?: never;
} & OrderOptions<[data: Data]>;

const topicOptions = ['schema', 'types', 'key', 'ordered', 'lanes', 'codec', 'broker'] as const;

/**
 * Declares a topic: with one schema, with a schema for each of its event types, or, as `topic<Data>(name)`, without
 * any: then nothing is checked at run time.
 *
 * @throws ConfigError for a name that is not 1 to 100 token characters, an unknown option or a wrong value
 */
export function topic<S extends StandardSchema>(
  name: string,
  options: SchemaTopicOptions<S>,
): Topic<SchemaInput<S>, SchemaOutput<S>>;
export function topic<const Types extends EventSchemas>(
  name: string,
  options: EventTopicOptions<Types>,
): EventTopic<Types>;
export function topic<Data = unknown>(name: string, options?: TopicOptions<Data>): Topic<Data>;
export function topic(name: string, options: AnyTopicOptions = {}): AnyTopic {
  checkName('topic', name);
  checkOptions(options, topicOptions, `topic "${name}"`);
  const definition = defineTopic(name, options);
  if (definition.types === undefined) return made(definition);
  const events = new Map(
    Object.keys(definition.types).map((type): [string, AnyTopic] => [type, made({ ...definition, event: type })]),
  );
  const event = (type: string): AnyTopic => {
    const found = events.get(type);
    if (found === undefined) {
      throw new ConfigError('type', `topic "${name}" has no event "${type}"; it has ${[...events.keys()].join(', ')}`);
    }
    return found;
  };
  return made(definition, { event });
}

/** A topic as the rest of core works with it. */
export interface TopicDefinition {
  readonly name: string;
  /** `undefined`: not declared, taken as it stands on the broker. */
  readonly ordered: boolean | undefined;
  readonly lanes: number | undefined;
  readonly codec: Codec | undefined;
  readonly schema: StandardSchema | undefined;
  readonly types: EventSchemas | undefined;
  /** The one type that this topic publishes: set by `topic.event(…)`. */
  readonly event: string | undefined;
  readonly key: ((data: unknown, type: string | undefined) => unknown) | undefined;
  readonly broker: BrokerOptions | undefined;
}

// The registry of symbols is shared by all copies of core in a process, so they know each other's topics.
const definitionOf: unique symbol = Symbol.for('waybill.topic') as never;
const consumerMark: unique symbol = Symbol.for('waybill.consumer') as never;

/** The options of all forms, as they are at run time. */
interface AnyTopicOptions extends CommonOptions {
  readonly schema?: StandardSchema;
  readonly types?: EventSchemas;
  readonly key?: (data: never, type: never) => unknown;
  readonly ordered?: boolean;
  readonly lanes?: number;
}

/** @throws ConfigError naming the option */
export function defineTopic(name: string, options: AnyTopicOptions): TopicDefinition {
  const { schema, types, key, ordered, lanes, codec, broker } = options;
  const wrong = (option: string, message: string): never => {
    throw new ConfigError(`topic "${name}".${option}`, message);
  };
  if (ordered !== undefined && typeof ordered !== 'boolean') wrong('ordered', 'is neither true nor false');
  if (key !== undefined && typeof key !== 'function') wrong('key', 'is not a function of the data');
  if (lanes !== undefined) {
    if (ordered !== true) wrong('lanes', 'belongs to an ordered topic; add ordered: true, or leave it out');
    if (!Number.isInteger(lanes) || lanes < 1 || lanes > 1_000) wrong('lanes', `${lanes} is not from 1 to 1,000`);
  }
  if (codec !== undefined && (typeof codec.encode !== 'function' || typeof codec.decode !== 'function')) {
    wrong('codec', 'has no encode and decode');
  }
  if (broker !== undefined && (typeof broker !== 'object' || broker === null)) {
    wrong('broker', 'is not an object with the options of an adapter under its name');
  }
  if (schema !== undefined && types !== undefined) wrong('types', 'cannot stand beside schema; give one of the two');
  if (schema !== undefined) checkSchema(schema, () => wrong('schema', notASchema));
  if (types !== undefined) {
    if (typeof types !== 'object' || types === null || Object.keys(types).length === 0) {
      wrong('types', 'is not an object with a schema for each type of event');
    }
    for (const [type, one] of Object.entries(types)) {
      const problem = checkType(type);
      if (problem !== undefined) wrong(`types.${type}`, problem);
      checkSchema(one, () => wrong(`types.${type}`, notASchema));
    }
  }
  return {
    name,
    ordered,
    lanes,
    codec,
    schema,
    types,
    event: undefined,
    key: key as TopicDefinition['key'],
    broker,
  };
}

const notASchema = 'is not a Standard Schema, such as those of zod, valibot or arktype';

function checkSchema(schema: StandardSchema, fail: () => never): void {
  // Schemas may be functions, as arktype's are.
  const standard = (schema as Partial<StandardSchema> | null | undefined)?.['~standard'];
  if (typeof standard?.validate !== 'function') fail();
}

function made(definition: TopicDefinition, more: object = {}): AnyTopic {
  return Object.freeze({ name: definition.name, [definitionOf]: definition, ...more }) as unknown as AnyTopic;
}

/**
 * What a topic stands for; a bare name is a topic as it stands on the broker.
 *
 * @throws ConfigError for a bad name, or something that `topic()` did not make
 */
export function resolveTopic(topic: AnyTopic | string): TopicDefinition {
  if (typeof topic === 'string') {
    checkName('topic', topic);
    return defineTopic(topic, {});
  }
  const definition = (topic as { [definitionOf]?: TopicDefinition } | null | undefined)?.[definitionOf];
  if (definition === undefined) {
    throw new ConfigError('topic', 'is neither a name nor made by topic(name, …)');
  }
  return definition;
}

/** The schema for messages of this type; `undefined` where there is none. */
export function schemaFor({ schema, types }: TopicDefinition, type: string | undefined): StandardSchema | undefined {
  if (types === undefined) return schema;
  return type !== undefined && Object.hasOwn(types, type) ? types[type] : undefined;
}

/** A subscription that has not been started: what `consumer()` makes and `bus.subscribe` takes. */
export interface Consumer {
  readonly topic: AnyTopic | string;
  readonly options: SubscribeOptions | (SubscribeOptions & InboxOption<unknown>);
  readonly handler: (message: Message, tx: unknown) => unknown;
}

/** Ties a handler to a topic at module level; nothing happens until `bus.subscribe(consumer)`. */
export function consumer<T extends AnyTopic | string, Tx>(
  topic: T,
  options: SubscribeOptions & InboxOption<Tx>,
  handler: InboxHandler<T, Tx>,
): Consumer;
export function consumer<T extends AnyTopic | string>(
  topic: T,
  options: SubscribeOptions,
  handler: Handler<T>,
): Consumer;
export function consumer(
  topic: AnyTopic | string,
  options: Consumer['options'],
  handler: (message: never, tx: never) => unknown,
): Consumer {
  resolveTopic(topic);
  // A subscription calls it only with messages of its own topic, whose type the caller has given.
  return Object.freeze({ topic, options, handler: handler as Consumer['handler'], [consumerMark]: true });
}

/** Whether `value` was made by `consumer()`, by this or another copy of core. */
export function isConsumer(value: unknown): value is Consumer {
  return typeof value === 'object' && value !== null && consumerMark in value;
}
