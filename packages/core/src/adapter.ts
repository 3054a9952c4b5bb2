/**
 * What core asks of a broker. An adapter speaks its broker and decides nothing: no retry, no waiting for more, no
 * attempt counting. Everything comes in batches, because batches are where brokers are fast, and whatever is received
 * is pulled, because then back-pressure is simply not asking.
 *
 * Rules that hold for every method:
 * - A promise that an adapter returns settles within its own time-outs, also when the broker is gone.
 * - A result is given per message; a rejection means that nothing is known about any of the batch.
 * - Errors are `WaybillError`s, name the adapter, and never hold a password.
 */
import type { Clock } from './clock.ts';
import type { WaybillError } from './errors.ts';
import type { Logger } from './logger.ts';
import type { DeadLetterDetails } from './wire.ts';

/** A configured adapter that is not connected yet: what `kafka({ … })` returns and `connect` opens. */
export interface Adapter {
  /** `kafka`, `rabbitmq`, …: also the key of its options under `broker: { … }`. */
  readonly name: string;
  /** Where it connects to, for logs and errors; without password. */
  readonly target: string;
  /**
   * Opens the connections. Tries once: core repeats it until `connectTimeout` while the error is a retryable
   * `ConnectionError`. What was opened before a failure is closed again.
   *
   * @throws ConnectionError that names the cause and the target (LIFE-04)
   */
  connect(context: AdapterContext): Promise<Connection>;
}

/** Makes adapters from URLs; `kafka`, `rabbitmq` … are factories that can be called with options as well. */
export interface AdapterFactory {
  readonly name: string;
  /** URL schemes without the colon, such as `['amqp', 'amqps']`. */
  readonly schemes: readonly string[];
  /** @throws ConfigError that names an unknown parameter or a wrong value (CFG-01) */
  fromUrl(url: string): Adapter;
}

/** What an adapter gets from the bus. */
export interface AdapterContext {
  /** The bus's name, for the broker's lists of clients. */
  readonly clientName: string;
  readonly names: NameOverrides;
  /** Put before every name that Waybill makes on the broker; escaped like the rest of the name. */
  readonly namePrefix: string;
  /** Whether the adapter may create what it needs for itself (delay levels, say): only with `create`. */
  readonly topology: Topology;
  /** Milliseconds that one try to connect may take. */
  readonly connectTimeout: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Aborts when the bus gives up connecting. */
  readonly signal: AbortSignal;
  readonly events: ConnectionEvents;
}

/** `create` makes what is missing, `verify` lists what is missing or different, `none` trusts (CFG-02). */
export type Topology = 'create' | 'verify' | 'none';

/** What a connection tells the bus; the adapter reconnects by itself, with back-off, until it is closed. */
export interface ConnectionEvents {
  /** Publishing is not possible at the moment. */
  interrupted(error: WaybillError): void;
  /** Publishing works again: core sends at once what waits. */
  restored(): void;
}

/** An open adapter. */
export interface Connection {
  /** Plain data, final once connected. */
  readonly capabilities: Capabilities;
  /** The client library's own objects, for `bus.native(…)`. */
  readonly native: unknown;

  /**
   * What the broker knows of a topic. Core compares it with what was declared (ORD-05) and asks before the first
   * publish and every subscribe. `undefined`: there is no such topic.
   */
  describeTopic(name: string): Promise<TopicInfo | undefined>;

  /**
   * Makes (`create`) or only checks (`verify`) topics and groups with all that belongs to them. Idempotent, and safe
   * beside others who do the same. Resolves when the group really exists: what is published from then on reaches it,
   * from `startAt` on where the group is new (SUB-02). Returns the differences it found, one sentence each; with
   * `create` only what can not be made good.
   */
  provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]>;

  /** Deletes a group and all that was made for it: retries, delays, dead letters (SUB-12). Absent is fine. */
  removeGroup(group: GroupRef): Promise<void>;

  /**
   * Stores messages durably for every group of their topics. The batch keeps to `capabilities.publish`. Messages with
   * one key of an ordered topic are stored in the order of the batch. No retry inside, no waiting for more.
   * With `deliverAt` the message reaches the groups at that time, not before it (DELAY-01).
   */
  publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]>;

  /**
   * Joins a group, which has been provisioned. Resolves once the member may get messages; from then on the receiver
   * keeps itself alive over lost connections and says what happens through `events`.
   */
  openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver>;

  /** How many dead letters a group has. */
  countDeadLetters(group: GroupRef): Promise<DeadLetterCount>;
  /** Reads a group's dead letters from the oldest on: those that are there now, none that come later. */
  openDeadLetters(group: GroupRef): Promise<DeadLetterScan>;

  /** This, `seek` and the dead letters reject with a ConfigError for a group that does not exist. */
  lag(group: GroupRef): Promise<Lag>;
  /** Moves a group; core has asked `capabilities.log` before. Members that run go on from there. */
  seek(group: GroupRef, to: Position): Promise<void>;
  /** A look without side effects at whether the broker answers; rejects with why not. */
  ping(): Promise<void>;
  /** Closes the connections. Receivers have been closed before. Never rejects. */
  close(): Promise<void>;
}

/** A topic as core asks for it; what is `undefined` was not declared and is taken as it stands on the broker. */
export interface TopicRef {
  readonly name: string;
  readonly ordered: boolean | undefined;
  /** How many ordered pieces to make; 8 unless declared. */
  readonly lanes: number | undefined;
  /** The topic's options for this adapter (`broker: { kafka: … }`), checked by the adapter. */
  readonly options: Readonly<Record<string, unknown>> | undefined;
}

/** A topic as it stands on the broker. A fact that the broker does not keep is `undefined`. */
export interface TopicInfo {
  readonly ordered: boolean | undefined;
  readonly lanes: number | undefined;
}

export interface GroupRef {
  readonly topic: TopicRef & { readonly ordered: boolean };
  readonly name: string;
  /** A broadcast's own group: removed at close, and by the broker some time after a crash (SUB-07). */
  readonly temporary: boolean;
}

export interface ProvisionItem {
  readonly topic: TopicRef & { readonly ordered: boolean };
  readonly groups: readonly {
    readonly name: string;
    readonly temporary: boolean;
    /** Where a new group starts; ignored, and logged by core, for one that exists. */
    readonly startAt: Position;
    /** The subscription's options for this adapter. */
    readonly options: Readonly<Record<string, unknown>> | undefined;
  }[];
}

export type Position = 'earliest' | 'latest' | Date | { readonly position: string };

/** A message on its way to the broker: validated, encoded, all defaults filled in. */
export interface OutgoingMessage {
  readonly topic: TopicRef & { readonly ordered: boolean };
  readonly id: string;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string;
  readonly body: Uint8Array;
  /** The user's headers; names in lower case, none of them with Waybill's prefix. */
  readonly headers: Readonly<Record<string, string>>;
  /** Milliseconds since the epoch. */
  readonly publishedAt: number;
  /** Milliseconds since the epoch; `undefined` or past: at once. */
  readonly deliverAt: number | undefined;
  /** Milliseconds since the epoch; adapters carry it, core acts on it. */
  readonly expiresAt: number | undefined;
  /** The publish's options for this adapter. */
  readonly options: Readonly<Record<string, unknown>> | undefined;
}

export type SendResult =
  | { readonly status: 'stored'; readonly position?: string }
  | {
      readonly status: 'failed';
      /** `not-sent`: the broker does not have it. `unknown`: it may have it. */
      readonly outcome: 'not-sent' | 'unknown';
      /** Whether the same message may succeed later. */
      readonly retryable: boolean;
      readonly error: WaybillError;
    };

/** What one member reads. */
export interface Source {
  readonly group: GroupRef;
  /** Milliseconds within which another member may take over from this one when it goes silent. */
  readonly lease: number;
  /** Most deliveries that core will have in hand and unsettled: prefetch for this many, not more. */
  readonly prefetch: number;
  /** Most bytes of bodies to hold ahead of `receive`; one message may always be held. */
  readonly prefetchBytes: number;
  readonly options: Readonly<Record<string, unknown>> | undefined;
}

/** What a receiver tells its subscription. Calls come in the order of the events and never re-enter the adapter. */
export interface ReceiverEvents {
  /** These lanes are ours now. For information; deliveries of a lane may come right after it. */
  assigned(lanes: readonly string[]): void;
  /**
   * These lanes are to be handed over. Core starts nothing of them any more, and resolves when nothing of them is in
   * hand, at the latest after `deadline` milliseconds; the adapter then lets go, and calls `lost` for what is left.
   */
  revoking(lanes: readonly string[], deadline: number): Promise<void>;
  /**
   * Every delivery in hand of these lanes now belongs to somebody else (lane revoked, connection gone): core aborts
   * their handlers and never settles them (ACK-04, GUAR-02). The same lane name may be delivered again afterwards.
   */
  lost(lanes: readonly string[], error: WaybillError): void;
  /** Nothing can be received at the moment; the adapter is reconnecting. */
  interrupted(error: WaybillError): void;
  /** Receiving works again. */
  restored(): void;
  /** The group's place was lost and the broker made it jump (RET-02): how far, in a sentence. */
  positionLost(lane: string, what: string): void;
  /** The receiver ends for good: the subscription fails with this error. */
  failed(error: WaybillError): void;
}

/** One member's hands. Core calls `receive` one at a time, and `settle` beside it. */
export interface Receiver {
  /**
   * Resolves with 1 to `max` deliveries as soon as there is one, with none when `finish` aborts or after a while.
   * `finish` means "come back soon with whatever you have": a fetch under way is never aborted, because the broker
   * hands its messages to a call that nobody reads (measured on SQS, Pub/Sub). Deliveries of one lane come in the
   * order they are stored, a redelivered one before the later ones of its key (ORD-03).
   * May reject with a retryable error; core backs off and calls again.
   */
  receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]>;

  /**
   * Settles deliveries of this receiver, a result for each. Never acks before the copy (retry, dead letter) is
   * confirmed, nor on another channel than the delivery's. `applied` means that the broker has it: after it the
   * message does not come back, not even when this process dies at once (ACK-02).
   */
  settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]>;

  /**
   * Renews leases of kind `delivery`: the new end of each (in `clock.monotonic()`), `undefined` for one that is lost.
   * Absent for the other kinds, which the adapter keeps alive by itself.
   */
  extend?(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]>;

  /**
   * Gets one message that was set apart by `giveBack({ alone: true })`, if there is one. Core calls it only when a
   * handler slot is free and starts the handler at once, so here the broker's count of deliveries counts attempts
   * (RETRY-07). Absent where `capabilities.countsDeliveries` is false.
   */
  receiveAlone?(): Promise<Delivery | undefined>;

  /**
   * Deliver nothing of this lane until `resumeLane`; keep it, and keep what is already in hand. A lane that was let go
   * or lost is not paused any more.
   */
  pauseLane(lane: string): void;
  resumeLane(lane: string): void;

  /** Leaves the group. Everything has been settled or abandoned before. Never rejects. */
  close(): Promise<void>;
}

/** A message in a member's hands. Adapters add what they need to settle it. */
export interface Delivery {
  /** The ordered piece it came from: a partition, a queue, a message group. */
  readonly lane: string;
  /** Waybill's id; absent on a foreign message. */
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  /** Milliseconds since the epoch; the broker's own time on a foreign message, `undefined` where there is none. */
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
  /** Which attempt its next handler call is, by what is written on the message: 1 unless it is a retry. */
  readonly attempt: number;
  /** How many times the broker has handed out this copy, this time included; `undefined` where it does not count. */
  readonly deliveries: number | undefined;
  /** True for one that came from `receiveAlone`. */
  readonly alone?: boolean;
  /** A place in the broker's log, or another name for the message that the broker keeps over redeliveries. */
  readonly position: string | undefined;
  /** When the client got it, in `clock.monotonic()`; absent: when core did. */
  readonly arrivedAt?: number;
  /** End of a lease of kind `delivery`, in `clock.monotonic()`, on the safe side. */
  readonly leaseUntil?: number;
  /** The client library's message. */
  readonly native: unknown;
}

/** What is to become of a delivery. */
export type Settlement =
  | { readonly verb: 'ack'; readonly delivery: Delivery }
  | {
      /**
       * Hand it out again to this group alone, not before `after` milliseconds, as attempt `attempt`: a retry, or,
       * with the attempt unchanged, a release. It comes as a new copy, whose `deliveries` start again. On an ordered topic its key waits for it. Core never gives back on an
       * ordered topic or to a temporary group where it can hold the message itself.
       */
      readonly verb: 'giveBack';
      readonly delivery: Delivery;
      readonly after: number;
      readonly attempt: number;
      /** Set it apart for `receiveAlone`. */
      readonly alone?: boolean;
    }
  | { readonly verb: 'deadLetter'; readonly delivery: Delivery; readonly details: DeadLetterDetails }
  /** Let go at once, as it came, at its old place: closing, or pausing. Best effort. */
  | { readonly verb: 'abandon'; readonly delivery: Delivery };

export type SettleResult =
  /** Done, and the broker has it. */
  | 'applied'
  /** The delivery is not ours any more; nothing was done. */
  | 'lost'
  /** Why it is not done, or not known to be. Core repeats the settlement for as long as the delivery is ours. */
  | WaybillError;

/** A walk over a group's dead letters. */
export interface DeadLetterScan {
  /** The next ones, 1 to `max`; none at the end. */
  next(max: number): Promise<readonly DeadLetterRecord[]>;
  /** Sends these to the group's own consumers, attempt 1, without expiry; gone from the dead letters only then. */
  redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]>;
  purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]>;
  /** Puts back what was neither redriven nor purged, in its old order. Never rejects. */
  close(): Promise<void>;
}

/** A dead letter as it is read back; `details.entry` names it. */
export interface DeadLetterRecord extends Omit<Delivery, 'lane' | 'attempt' | 'deliveries' | 'leaseUntil'> {
  readonly details: DeadLetterDetails;
}

export interface DeadLetterCount {
  readonly value: number;
  readonly exact: boolean;
}

export interface Lag {
  /** Messages that could be handed out now. */
  readonly waiting: number;
  /** Messages that wait for their time: delayed publishes and retries. 0 where the broker cannot tell. */
  readonly delayed: number;
  /** Messages in members' hands. */
  readonly inFlight: number;
  /** False where one of the three is an estimate, or cannot be told. */
  readonly exact: boolean;
}

/** Whether a broker can keep a promise, and why not. */
export type Support = { readonly supported: true } | { readonly supported: false; readonly reason: string };

/** What a broker can do: plain data. */
export interface Capabilities {
  readonly lease: {
    /**
     * `delivery`: each delivery has its own, renewed by core through `extend`. `lane` and `connection`: the adapter
     * keeps it, and its loss takes every delivery of the lane or of the receiver.
     */
    readonly kind: 'delivery' | 'lane' | 'connection';
    /** Milliseconds: the shortest and longest `lease` that can be asked for. */
    readonly min: number;
    readonly max: number;
    /**
     * Milliseconds that one delivery can be kept from its first handler call on; `Infinity` for no bound (ACK-03). Before
     * that it may have waited for a fifth of it, or longer in order or in a stream.
     */
    readonly maxHandling: number;
  };
  /** Bytes of the largest body, with a reserve kept for our own headers (PUB-03). */
  readonly maxMessageBytes: number;
  /** Milliseconds of the longest delay of a publish or a retry; `Infinity` for no bound. */
  readonly maxDelay: number;
  /** How core may call `publish`. */
  readonly publish: {
    readonly maxMessages: number;
    /** Bytes of a batch's bodies and headers together. */
    readonly maxBytes: number;
    /** Batches under way at once. */
    readonly maxInFlight: number;
  };
  /** Seek, and groups that start elsewhere than at the end. */
  readonly log: Support;
  /** Whether a topic can have several groups, and broadcasts, and a group gets nothing older than itself (SUB-01, SUB-02). */
  readonly groups: Support;
  /** Whether attempts on ordered topics outlive a crash (RETRY-02). */
  readonly orderedAttempts: Support;
  /**
   * Whether the broker counts deliveries, so that a message that kills its process ends as a dead letter (RETRY-07): on
   * topics without order, because setting a message apart would let its followers overtake it.
   */
  readonly countsDeliveries: Support;
  /** Whether a member that joins doubles nothing (SUB-06). */
  readonly cleanJoin: Support;
  /** Whether the broker remembers that a topic is ordered (ORD-05). */
  readonly knowsOrder: Support;
  /** Whether it shows when the broker has dropped what a group had still to read (RET-02); true where it never does. */
  readonly tellsLostPosition: Support;
  /** Whether `peek` leaves the entries visible for others meanwhile (DLQ-03). */
  readonly openPeek: Support;
  /** Milliseconds after a crash until a broadcast's group is gone (SUB-07). */
  readonly broadcastCleanup: number;
  /** What provisioning sets, in words, for the documentation (RET-01). */
  readonly retention: string;
}

/**
 * The names on the broker, each replaceable (CFG-04). What an adapter does not use it ignores; what is left out has
 * the adapter's default.
 */
export interface Names {
  topic(topic: string): string;
  group(topic: string, group: string): string;
  retry(topic: string, group: string): string;
  deadLetter(topic: string, group: string): string;
}
export type NameOverrides = Partial<Names>;
