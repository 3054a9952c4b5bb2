/** The public surface: what a service sees of Waybill, whatever the broker. */
import type { Capabilities, DeadLetterCount, Lag, NameOverrides, Position, Topology } from './adapter.ts';
import type { Clock } from './clock.ts';
import type { Codec } from './codec.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { Duration } from './duration.ts';
import type { WaybillError } from './errors.ts';
import type { IdempotencyStore, Inbox } from './idempotency.ts';
import type { Logger } from './logger.ts';
import type { AnyTopic, Consumer, InputOf, MessageOf } from './topic.ts';

export interface BusOptions {
  /** The name under which the broker lists this client. Default: `waybill`. */
  readonly name?: string;
  /** Put before the name of everything on the broker, such as `staging-`. Default: none. */
  readonly namePrefix?: string;
  /** Replaces the mapping of names, to use topics and groups that exist already (CFG-04). */
  readonly names?: NameOverrides;
  /** What to do about topics and groups that are missing (CFG-02). Default: `create`. */
  readonly topology?: Topology;
  /** How long `connect` may try (LIFE-04). Default: 10 s. */
  readonly connectTimeout?: Duration;
  /** How long a publish may wait for its confirmation, reconnects included (PUB-06). Default: 30 s. */
  readonly publishTimeout?: Duration;
  /** Publishes that may wait at once; above it `publish` waits for room (PUB-06). Default: 10,000. */
  readonly maxPendingPublishes?: number;
  /** How data becomes bytes, for topics without a codec of their own. Default: JSON. */
  readonly codec?: Codec;
  /** Runs around every publish and every attempt of this bus; the first in the list is outermost. */
  readonly middleware?: {
    readonly publish?: readonly PublishMiddleware[];
    readonly consume?: readonly ConsumeMiddleware[];
  };
  /** The store for idempotent consuming of every subscription that names none. Default: none. */
  readonly idempotency?: IdempotencyStore;
  /** Default: warnings and errors to the console; `false` for silence. */
  readonly logger?: Logger | false;
  /** The source of time. Default: the system's. */
  readonly clock?: Clock;
}

export interface PublishOptions {
  /** Up to 128 bytes. Default: a new UUID each call. */
  readonly id?: string;
  /** Up to 512 bytes. Default: what the topic's `key` function says. */
  readonly key?: string;
  /** The event type; set by `topic.event(…)`. */
  readonly type?: string;
  /** Up to 64, names of token characters (kept in lower case), values of up to 4 KiB of any Unicode. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Default: the codec's. */
  readonly contentType?: string;
  /** Deliver after this time (DELAY-01); not together with `deliverAt`, not on ordered topics. */
  readonly delay?: Duration;
  readonly deliverAt?: Date;
  /** Do not hand out after this time from the publish on (DELAY-03); not together with `expiresAt`. */
  readonly ttl?: Duration;
  readonly expiresAt?: Date;
  /** Cancels the publish while it has not been handed to the broker (PUB-07). */
  readonly signal?: AbortSignal;
  /** What one broker needs beyond it, by adapter name; the others ignore it. */
  readonly broker?: BrokerOptions;
}

export type BrokerOptions = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

export interface Receipt {
  readonly id: string;
  /** The place in the broker's log, where there is one. */
  readonly position?: string;
}

export type PublishResult =
  | { readonly ok: true; readonly receipt: Receipt }
  | { readonly ok: false; readonly error: WaybillError };

export interface Publisher {
  /**
   * Publishes one message; resolves when the broker has stored it for every group that exists (PUB-01). Bytes given
   * as data are not copied: leave them unchanged until then.
   *
   * @throws InvalidMessageError, MessageTooLargeError, ConfigError, UnsupportedError at the call, nothing is sent
   * @throws PublishTimeoutError after `publishTimeout`; `outcome` says whether it may be stored
   * @throws PublishError when the broker refuses it, or `signal` cancels it
   * @throws ClosedError after `close`
   */
  publish<T extends AnyTopic | string>(topic: T, data: NoInfer<InputOf<T>>, options?: PublishOptions): Promise<Receipt>;
  /** Publishes many; never rejects for one of them: a result each, in the order given (PUB-05). */
  publishBatch<T extends AnyTopic | string>(
    topic: T,
    items: readonly ({ readonly data: NoInfer<InputOf<T>> } & PublishOptions)[],
  ): Promise<PublishResult[]>;
}

/** A message as middleware sees it on its way out; `headers` may be added to. */
export interface Outgoing {
  readonly topic: string;
  readonly data: unknown;
  readonly id: string;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly headers: Record<string, string>;
}
export type PublishMiddleware = (outgoing: Outgoing, next: () => Promise<Receipt>) => Promise<Receipt>;

/** What consume middleware runs around: one attempt of one message, or of one batch. */
export type ConsumeDelivery =
  | { readonly kind: 'single'; readonly message: Message }
  | { readonly kind: 'batch'; readonly messages: readonly Message[] };
/** Once per attempt: inside retry and idempotency. What it throws counts as the handler's failure. */
export type ConsumeMiddleware = (delivery: ConsumeDelivery, next: () => Promise<void>) => Promise<void>;

/** A message in a handler's hands. */
export interface Message<T = unknown, Type extends string | undefined = string | undefined> {
  readonly id: string;
  readonly topic: string;
  readonly group: string;
  readonly type: Type;
  readonly key: string | undefined;
  /** Decoded, and as the schema's output where there is a schema. */
  readonly data: T;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly contentType: string;
  readonly publishedAt: Date;
  /** 1 for the first call of the handler, 2 for the first retry, … */
  readonly attempt: number;
  readonly position: string | undefined;
  /** Aborts when the message is not ours any more, when `timeout` has passed, and when `close` runs out of time. */
  readonly signal: AbortSignal;
  /** The client library's message. */
  readonly native: unknown;
  /**
   * Settles it as done; resolves when the broker has it (ACK-02).
   * @throws AlreadySettledError, LeaseLostError
   */
  ack(): Promise<void>;
  /** Counts the attempt as failed: again after the policy's delay or `after`, or to the dead letters after the last. */
  retry(options?: { after?: Duration }): Promise<void>;
  /** To the dead letters at once. */
  reject(reason?: string): Promise<void>;
  /**
   * Gives this attempt that much time from now on, instead of what is left of `timeout`. Where retries wait in place, no
   * longer than the adapter's `maxHandling` after the message's first call.
   */
  extend(by: Duration): void;
}

export interface RetryPolicy {
  /** Handler calls in all, the first included. Default: 8. */
  readonly attempts?: number;
  /**
   * How long to wait after attempt n. Default: 1 s, tripled each time, at most 15 min, with jitter. A list gives the
   * waits in turn and repeats its last; a function gets the attempt that failed and its error.
   */
  readonly delay?:
    | Duration
    | readonly Duration[]
    | ((attempt: number, error: unknown) => Duration)
    | {
        readonly initial?: Duration;
        readonly factor?: number;
        readonly max?: Duration;
        /** Spread evenly over the upper half of the wait. */
        readonly jitter?: boolean;
      };
}

export interface IdempotencyOptions<Store = IdempotencyStore> {
  readonly store: Store;
  /**
   * What makes two messages the same: a text; anything else fails the attempt. Default: the message id; for foreign
   * messages the broker's position.
   */
  readonly key?: (message: Message) => string;
  /** How long a handled message is remembered. Default: 7 d. */
  readonly window?: Duration;
  /** Raise it to let a replay run again. Default: 0. */
  readonly epoch?: number;
  /** What to do with a message that nothing identifies (IDEM-07). Default: it goes to the dead letters. */
  readonly unidentified?: 'handle';
}

interface CommonSubscribeOptions {
  /** Handlers at once (SUB-04, SUB-05). Default: 16. */
  readonly concurrency?: number;
  /** Bound of the take-over from a member that went silent. Default: 30 s; at least 1 s, and in the adapter's range. */
  readonly lease?: Duration;
  /**
   * Of one attempt (ACK-09). Default: 15 min, or the adapter's `maxHandling` if that is less, which is also the longest;
   * `false` for none, where `maxHandling` has no bound. When it has passed the attempt has failed; a handler that goes on
   * all the same, against its signal, holds neither a place among `concurrency` nor its key any more.
   */
  readonly timeout?: Duration | false;
  readonly retry?: RetryPolicy;
  /** After the last attempt. Default: `dead-letter`; for broadcast `drop`, which is counted and warned about. */
  readonly whenExhausted?: 'dead-letter' | 'drop';
  /** A body that does not decode or fails the schema (SUB-10). Default: `dead-letter`. */
  readonly invalid?: 'dead-letter' | 'retry' | 'stop';
  /** An event type that the topic does not list. Default: `dead-letter`. */
  readonly unknownType?: 'dead-letter' | 'skip';
  /** Handle each message once (IDEM-01). Default: the bus's; `false` for none. */
  readonly idempotency?: IdempotencyStore | IdempotencyOptions | false;
  /** Where a new group starts. Default: `latest`; a group that exists keeps its place. */
  readonly startNewGroupAt?: Position;
  readonly middleware?: readonly ConsumeMiddleware[];
  readonly broker?: BrokerOptions;
}

/** A named group, or a broadcast in which every subscription gets every message (SUB-07). */
export type SubscribeOptions = CommonSubscribeOptions &
  ({ readonly group: string; readonly broadcast?: never } | { readonly broadcast: true; readonly group?: never });

/** Instead of `idempotency`: the handler's second argument is the transaction that holds the mark (IDEM-05). */
export interface InboxOption<Tx> {
  readonly inbox: Inbox<Tx> | IdempotencyOptions<Inbox<Tx>>;
  readonly idempotency?: never;
}

export interface BatchOptions {
  readonly batch: {
    /** Most messages of a batch. */
    readonly size: number;
    /** How long a batch may wait to fill up after its first message. Default: not at all. */
    readonly wait?: Duration;
  };
}

export type Handler<T> = (message: MessageOf<T>) => unknown;
/**
 * Runs in a transaction that is committed when it returns, and before the ack; when it throws, or calls `retry` or
 * `reject`, it is rolled back. `ack()` takes effect with the commit, and does not wait for it.
 */
export type InboxHandler<T, Tx> = (message: MessageOf<T>, tx: Tx) => unknown;
/** `signal` aborts when a message of the batch is lost, or the time is up. */
export type BatchHandler<T> = (messages: readonly MessageOf<T>[], signal: AbortSignal) => unknown;

export type SubscriptionState = 'starting' | 'running' | 'paused' | 'recovering' | 'draining' | 'closed' | 'failed';

export interface SubscriptionStats {
  readonly received: number;
  readonly acked: number;
  readonly retried: number;
  readonly deadLettered: number;
  readonly dropped: number;
  readonly duplicates: number;
  /** Handled although nothing identifies them (IDEM-07). */
  readonly unidentified: number;
  readonly expired: number;
  readonly givenBack: number;
  /** Messages whose handler runs. */
  readonly inFlight: number;
  /** Messages that wait for a handler. */
  readonly buffered: number;
  /** Messages that wait behind a failing one of their key (ORD-02). */
  readonly heldBack: number;
}

export interface Subscription extends AsyncDisposable {
  readonly topic: string;
  readonly group: string;
  readonly state: SubscriptionState;
  /** Stops new deliveries and keeps the membership (SUB-08). Resolves when no handler will be started any more. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  stats(): SubscriptionStats;
  /** Drains: running handlers finish, the rest is given back (LIFE-01). `timeout` default 25 s. */
  close(options?: CloseOptions): Promise<void>;
  /** Resolves after `close`; rejects when the subscription ends by itself (LIFE-06). */
  readonly closed: Promise<void>;
}

export interface CloseOptions {
  readonly timeout?: Duration;
}

/** Messages by `for await`; nothing is settled by itself, and closing gives back what is unsettled (ACK-06). */
export interface MessageStream<T> extends AsyncIterable<MessageOf<T>>, Subscription {}

export interface Health {
  readonly status: 'up' | 'degraded' | 'down';
  readonly reason?: string;
  readonly subscriptions: readonly {
    readonly topic: string;
    readonly group: string;
    readonly state: SubscriptionState;
    /** Why it is not simply running. */
    readonly error?: string;
  }[];
}

export interface ProvisionPlanItem {
  readonly topic: AnyTopic | string;
  readonly groups: readonly string[];
}

/** The client libraries' own objects; adapters add theirs by declaration merging. */
// biome-ignore lint/suspicious/noEmptyInterface: filled by declaration merging
export interface NativeClients {}

export interface Bus extends Publisher, AsyncDisposable {
  /**
   * Handles the messages of a topic. Resolves when the group exists and this member has joined (SUB-02).
   *
   * @throws ConfigError, UnsupportedError at the call
   */
  subscribe<T extends AnyTopic | string, Tx>(
    topic: T,
    options: SubscribeOptions & InboxOption<Tx>,
    handler: InboxHandler<T, Tx>,
  ): Promise<Subscription>;
  subscribe<T extends AnyTopic | string>(
    topic: T,
    options: SubscribeOptions,
    handler: Handler<T>,
  ): Promise<Subscription>;
  subscribe(consumer: Consumer): Promise<Subscription>;
  /** Handles messages in batches; outcomes are per message (ACK-08). */
  subscribeBatch<T extends AnyTopic | string>(
    topic: T,
    options: SubscribeOptions & BatchOptions,
    handler: BatchHandler<T>,
  ): Promise<Subscription>;
  messages<T extends AnyTopic | string>(topic: T, options: SubscribeOptions): Promise<MessageStream<T>>;
  /** A group's dead letters (DLQ-03). */
  deadLetters(topic: AnyTopic | string, group: string): DeadLetters;
  lag(topic: AnyTopic | string, group: string): Promise<Lag>;
  /** @throws UnsupportedError where the broker keeps no log (POS-02) */
  seek(topic: AnyTopic | string, group: string, to: Position): Promise<void>;
  /**
   * Makes topics and groups ahead of time, or with `topology: 'verify'` checks them: everything that is missing or
   * different stands in one ConfigError (CFG-02).
   */
  provision(plan: readonly (Consumer | ProvisionPlanItem)[]): Promise<void>;
  /** Deletes a group and all that was made for it (SUB-12). */
  removeGroup(topic: AnyTopic | string, group: string): Promise<void>;
  health(): Promise<Health>;
  /** Resolves when nothing is pending, buffered, running or due in this bus: for scripts and tests. */
  idle(): Promise<void>;
  readonly capabilities: Capabilities;
  native<K extends keyof NativeClients>(adapter: K): NativeClients[K];
  readonly closed: Promise<void>;
  /** Drains and closes everything (LIFE-01, LIFE-02). `timeout` default 25 s. */
  close(options?: CloseOptions): Promise<void>;
}

export type { DeadLetterCount, Lag, Position };
