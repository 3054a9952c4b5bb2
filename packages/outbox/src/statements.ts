import type { SqlDatabase, SqlRunner, SqlValue } from '@waybill/sql';
import type { RawRow } from './row.ts';
import type { OutboxBacklog } from './types.ts';

/** The tables of one outbox, quoted, and with their schema. */
export interface Tables {
  readonly outbox: string;
  readonly lanes: string;
  readonly relays: string;
  /** The name of an index of the outbox, quoted, without a schema. */
  index(name: string): string;
  /** A function or a partition that is called after the outbox: quoted, and with its schema. */
  companion(name: string): string;
}

/** A lane as one relay holds it; each change of hands raises the fence. */
export interface HeldLane {
  readonly lane: number;
  readonly fence: number;
}

export interface Heartbeat {
  readonly lanes: readonly HeldLane[];
  /** Relays that live, this one included. */
  readonly living: number;
  /** How many of them come before this one, by name. */
  readonly earlier: number;
}

/** What becomes of a row whose send failed. */
export interface Failure {
  readonly id: number;
  readonly attempts: number;
  /** Milliseconds until the next attempt; ignored when `dead`. */
  readonly after: number;
  readonly error: string;
  readonly dead: boolean;
  /** Later messages of its key wait until it is gone. */
  readonly holds: boolean;
}

export interface PageRequest {
  readonly relay: string;
  readonly lanes: readonly number[];
  /** Only rows after this id. */
  readonly after: number;
  /** Only rows up to this id. */
  readonly upTo: number;
  readonly limit: number;
  /** Rows that the relay has already; among those after `after`. */
  readonly idsLeftOut: readonly number[];
  readonly topicsLeftOut: readonly string[];
  readonly keysLeftOut: readonly (readonly [topic: string, key: string])[];
}

/** What became of the partitions. */
export interface PartitionsMaintained {
  /** Partitions whose rows are deleted one by one, or the whole table. */
  readonly byRows: readonly string[];
  /** What could not be done; the same in the same words. */
  readonly warnings: readonly string[];
}

/**
 * What an outbox asks of its database: one object a dialect. All times are the database's own, so the clocks of the
 * processes do not matter. Every method may be repeated. What relays do of themselves takes no transaction of several
 * round trips: a machine that is gone in the middle of one would leave its locks, and all relays waiting for them.
 */
export interface Statements {
  readonly migrations: readonly (readonly string[])[];
  /** How many rows one INSERT takes. */
  readonly rowsPerInsert: number;
  insert(rows: number): string;
  /** @throws ConfigError when the table was made with partitions and should have none, or without; where a dialect has them */
  checkPartitioning?(db: SqlDatabase): Promise<void>;
  /** Where an insert wakes the relays that rest, when its transaction commits. */
  readonly channel: string | undefined;

  /** Renews the relay and its lanes, and makes the relay known when it is new. */
  heartbeat(db: SqlDatabase, relay: string, lease: number): Promise<Heartbeat>;
  /**
   * Takes lanes that are nobody's. Makes them where they are missing: tests like to empty all tables, and what has no
   * lane would never be sent.
   */
  claim(db: SqlDatabase, relay: string, lease: number, count: number): Promise<number>;
  giveBack(db: SqlDatabase, relay: string, lanes: readonly number[]): Promise<void>;
  leave(db: SqlDatabase, relay: string): Promise<void>;
  /** Whether this relay wants to be woken. Absent where there is no channel. */
  rest?(db: SqlDatabase, relay: string, resting: boolean): Promise<void>;
  /** Relays that have been silent for longer than this many milliseconds are forgotten. */
  forgetRelays(db: SqlDatabase, silence: number): Promise<void>;

  /**
   * Pending rows that are due, the oldest first, each with the `fence` of its lane; those held up by their key are left
   * out. `newest` is the last id of all rows that this statement could see, `size` the bytes of the body, which is NULL
   * here when it has more than `largeBody`.
   */
  page(db: SqlDatabase, request: PageRequest): Promise<readonly RawRow[]>;
  /** `id` and `body` of those rows that are still there. */
  bodies(db: SqlDatabase, ids: readonly number[]): Promise<readonly RawRow[]>;
  /**
   * Whoever holds the lane by now: that a message is with the broker stays true. Only what another relay has marked
   * failed since stays as it is, and is sent once more: marked, it would free its key in the middle of that one's pass.
   */
  markSent(db: SqlDatabase, relay: string, ids: readonly number[], keep: boolean): Promise<void>;
  /** Only in lanes that are still the relay's. */
  markFailed(db: SqlDatabase, relay: string, failures: readonly Failure[]): Promise<void>;
  /**
   * Deletes what was sent more than `age` milliseconds ago among the first `limit` rows after the id. Returns the last
   * id it looked at; `undefined` when none of them is that old, so that nothing behind them can be. In one partition,
   * when it is given.
   */
  sweep(db: SqlDatabase, after: number, age: number, limit: number, partition?: string): Promise<number | undefined>;
  /**
   * Makes the partitions of the days to come; with an age also drops those that ended that many milliseconds ago and of
   * which all was sent. What cannot be done now is left for the next time, and what is still there a day later is for
   * `sweep`. Holds up publishers for half a second at most. Absent where there are none.
   */
  maintainPartitions?(db: SqlDatabase, age?: number): Promise<PartitionsMaintained>;

  backlog(db: SqlRunner): Promise<OutboxBacklog>;
  /** Dead rows after the id, the oldest first. */
  dead(db: SqlRunner, after: number, limit: number): Promise<readonly RawRow[]>;
  /** Makes dead rows pending again. Returns how many. */
  revive(db: SqlDatabase, ids: readonly number[]): Promise<number>;
  /** Deletes dead rows, and lets relays know that keys have become free by raising the fences. */
  purge(db: SqlDatabase, ids: readonly number[]): Promise<number>;
}

export type { SqlValue };
