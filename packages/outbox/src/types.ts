import type {
  AnyTopic,
  Bus,
  CloseOptions,
  Codec,
  Duration,
  InputOf,
  Publisher,
  PublishMiddleware,
  PublishOptions,
  PublishResult,
  Receipt,
} from '@waybill/core';
import type { Logger, Selection } from '@waybill/core/adapter';
import type { SqlClient } from '@waybill/sql';

export interface OutboxOptions<Tx> {
  /** How statements get into your transaction. Default: the one of the driver itself. */
  readonly client?: SqlClient<Tx>;
  /** The name of the table; its two companions are called after it. Default: `waybill_outbox`. */
  readonly table?: string;
  /** Where the tables are. Default: where the connection looks first. Not on SQLite. */
  readonly schema?: string;
  /** How data becomes bytes, for topics without a codec of their own. Default: JSON. */
  readonly codec?: Codec;
  /** Runs around every publish into the outbox, as a bus's publish middleware does; the relay's bus runs none. */
  readonly middleware?: readonly PublishMiddleware[];
}

/**
 * Messages that are published by the transaction that writes the data: both are there when it commits, neither when it
 * does not. A relay sends them afterwards, each at least once.
 */
export interface Outbox<Tx> {
  /**
   * Writes one message within the caller's transaction. Checked and encoded now, as `bus.publish` would; the time of
   * the publish is now, too. Resolves when the row is written: what becomes of it is for the commit to say. A `signal`
   * counts until then.
   *
   * @throws InvalidMessageError, ConfigError at the call; PublishError when its signal has aborted; nothing is written
   * @throws ConfigError when `tx` is not a transaction that is open, or the tables are missing
   */
  publish<T extends AnyTopic | string>(
    tx: Tx,
    topic: T,
    data: NoInfer<InputOf<T>>,
    options?: PublishOptions,
  ): Promise<Receipt>;
  /**
   * Writes many in as few statements as the database allows; a result each, in the order given. One that is invalid, or
   * called off by its signal, is left out and says so in its result, as does one whose middleware throws.
   *
   * @throws what the database says: then none of them is written, and the transaction should be rolled back
   */
  publishBatch<T extends AnyTopic | string>(
    tx: Tx,
    topic: T,
    items: readonly ({ readonly data: NoInfer<InputOf<T>> } & PublishOptions)[],
  ): Promise<PublishResult[]>;
  /** A publisher for this transaction, for code that takes any. */
  in(tx: Tx): Publisher;

  /**
   * Starts to send what is in the outbox. Any number of relays may run, in any process; they share the work. Resolves
   * when the relay is known to the others and has begun.
   *
   * @throws ConfigError for a wrong option, and when the tables are missing
   * @throws ConnectionError when the database is away
   */
  relay(bus: Bus, options?: RelayOptions): Promise<Relay>;

  /** How much waits, and the first messages that were given up on. */
  status(options?: { readonly limit?: number; readonly where?: (dead: DeadMessage) => boolean }): Promise<OutboxStatus>;
  /** Lets dead messages be sent again, attempts from 1; those of a key in their old order. Resolves with how many. */
  retry(select: DeadSelection): Promise<number>;
  /** Deletes dead messages; what waited behind them goes on. Resolves with how many. */
  purge(select: DeadSelection): Promise<number>;

  /** Makes the tables, or brings them up to this version. Any number of processes may call it at once. */
  migrate(): Promise<void>;
  /** The same as SQL, for migrations of your own. */
  schema(): string;
}

export interface RelayOptions {
  /**
   * Messages that are read and not yet with the broker, at most; and no more than about 32 MiB of them. Default:
   * 2,000.
   */
  readonly maxInFlight?: number;
  /**
   * After how long, and at most a third more, others take over from a relay that fell silent; told by the database's
   * clock. Default: 30 s, at least 1 s.
   */
  readonly lease?: Duration;
  /** How long an idle relay waits between two looks at the table, where nothing wakes it. Default: 2 s. */
  readonly pollInterval?: Duration;
  /** Sends that the broker refuses before a message is dead. A broker that is away uses up none. Default: 15. */
  readonly maxAttempts?: number;
  /** The wait after a refusal: doubles from `initial` to `max`. Default: 1 s and 15 min. */
  readonly retryDelay?: { readonly initial?: Duration; readonly max?: Duration };
  /**
   * What becomes of the later messages of a dead message's key: they wait until it is retried or purged, or go on
   * without it. Default: `hold`.
   */
  readonly whenDead?: 'hold' | 'release';
  /**
   * How long a message that was sent stays in the table, to be looked at; 0 deletes it at once, which is also the
   * fastest. With partitions it counts from the end of the UTC day. Default: 1 h, because a day of a busy service is a
   * large table that nobody reads.
   */
  readonly keepSent?: Duration;
  /** Gets the relay's figures, every `observeEvery`. */
  readonly observe?: (stats: RelayStats) => void;
  /** Default: 15 s. Each time costs a count of what waits. */
  readonly observeEvery?: Duration;
  /** Default: warnings and errors to the console; `false` for silence. */
  readonly logger?: Logger | false;
}

export type RelayState =
  | 'running'
  /** The database is away; the relay tries again, with back-off. */
  | 'recovering'
  | 'draining'
  | 'closed'
  | 'failed';

export interface RelayStats {
  readonly state: RelayState;
  /** Why it is not simply running: the database's fault, or the broker's. */
  readonly problem?: string;
  /** Messages that the broker has confirmed to this relay. */
  readonly sent: number;
  /** Sends that the broker refused. */
  readonly failed: number;
  /** Messages that this relay has given up on. */
  readonly dead: number;
  readonly inFlight: number;
  /** Of 64: its share among the relays. */
  readonly lanes: number;
  /** What waits in the whole outbox, as last counted; `undefined` while the database does not answer. */
  readonly backlog: OutboxBacklog | undefined;
}

export interface OutboxBacklog {
  /** Messages that are committed and not sent. */
  readonly pending: number;
  /** Of these, the ones that the broker has refused. */
  readonly retrying: number;
  readonly dead: number;
  /** Milliseconds since the oldest pending message was published, by the database's clock; 0 when none is. */
  readonly oldest: number;
}

export interface Relay extends AsyncDisposable {
  readonly state: RelayState;
  /** Counts what waits, and tells what the relay does. Never rejects. */
  stats(): Promise<RelayStats>;
  /** Resolves after `close`; rejects when the relay ends by itself, because its bus was closed. */
  readonly closed: Promise<void>;
  /** Stops reading, lets what is on its way end and be marked, and gives its share to the others. Default: 25 s. */
  close(options?: CloseOptions): Promise<void>;
}

export interface OutboxStatus extends OutboxBacklog {
  /** The oldest dead messages, at most `limit` (default 100). */
  readonly letters: readonly DeadMessage[];
}

/** A message that was given up on. */
export interface DeadMessage {
  /** Its place in the outbox; two messages with one id are two entries. */
  readonly entry: string;
  readonly id: string;
  readonly topic: string;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly contentType: string;
  readonly body: Uint8Array;
  readonly publishedAt: Date;
  readonly attempts: number;
  /** What the broker said last. */
  readonly error: string;
  /** When it was given up on. */
  readonly at: Date;
}

/** Which dead messages. */
export type DeadSelection = Selection<DeadMessage>;
