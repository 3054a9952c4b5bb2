import {
  type AdapterContext,
  backOff,
  type Clock,
  type ConnectionError,
  sleep,
  type Timer,
} from '@waybill/core/adapter';
import { type Database, openDatabase } from './database.ts';
import {
  closedFile,
  fileFailure,
  fileGone,
  isBusy,
  isFull,
  isOutage,
  isSqliteError,
  leavesFileOpen,
  leavesGap,
  notBegun,
} from './errors.ts';
import type { Settings } from './options.ts';
import { Wake } from './wake.ts';

/** A piece of a transaction. It may throw a WaybillError, which undoes it alone. */
export type Work<T> = (database: Database) => T;

interface Queued {
  readonly work: Work<unknown>;
  /** Whether it is confirmed only when it is on the disk. */
  readonly lasting: boolean;
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

interface Flushed {
  /** Where it was committed. */
  readonly database: Database;
  done(): void;
  failed(error: unknown): void;
}

/** What a store tells those who use it. */
export interface StoreListener {
  /** The file cannot be used; the store goes on trying. */
  interrupted(error: ConnectionError): void;
  /** It can be used again. `replaced`: another file stands at the path. */
  restored(replaced: boolean): void;
  /** Somebody wrote something: of this topic, or `undefined` where it is not known. */
  changed(topic: number | undefined): void;
}

/** Milliseconds that a transaction may take before what else is queued goes into the next: the event loop waits. */
const longestTransaction = 12;
/** Between two tries for the write lock. */
const busyBackOff = { initial: 2, max: 25 };
const reopenBackOff = { initial: 50, max: 2_000 };
/** The same, where others are in the way: among many writers a try that comes every two seconds may never get through. */
const lockedOutBackOff = { initial: 5, max: 100 };

/**
 * The file, as one connection of the bus has it. Writes are queued, and all that are there go into one transaction; so
 * are flushes, and all that was committed meanwhile shares one. Neither another process nor the disk is waited for with
 * the event loop standing still.
 */
export class Store {
  readonly settings: Settings;
  readonly clock: Clock;
  /** Counts what was written, by anybody, as far as we know: who saw nothing at a count need not look again. */
  changes = 0;
  readonly #database: { current: Database };
  readonly #listeners = new Set<StoreListener>();
  readonly #wake: Wake;
  readonly #closing = new AbortController();
  #queue: Queued[] = [];
  /** Calls to be made once all that is committed is on the disk. */
  #unflushed: Flushed[] = [];
  #flushing: Promise<void> | undefined;
  /** Whether the write-ahead log may have a gap. */
  #torn = false;
  #scheduled = false;
  #waitingForLock: Timer | undefined;
  /** When the first try for the lock failed, in monotonic milliseconds. */
  #lockedSince: number | undefined;
  #lockTries = 0;
  #problem: ConnectionError | undefined;
  /** Outages since the last commit: one that comes back at once (a disk that is full) is not asked for every moment. */
  #outages = 0;
  #reopening: Promise<void> | undefined;

  /** @throws ConnectionError */
  constructor(settings: Settings, context: Pick<AdapterContext, 'clock' | 'topology'>) {
    this.settings = settings;
    this.clock = inWholeMilliseconds(context.clock);
    this.#database = { current: openDatabase(settings, context.topology === 'create') };
    try {
      this.#wake = new Wake(settings, this.clock, {
        version: () => this.#database.current.version(),
        look: () => this.#checkPlace(),
        changed: () => this.#changed(undefined),
      });
    } catch (error) {
      this.#database.current.close();
      throw fileFailure(error, settings.target);
    }
  }

  get problem(): ConnectionError | undefined {
    return this.#problem;
  }

  /** The open file, for the programs of users (`bus.native`). */
  get database(): Database {
    return this.#database.current;
  }

  listen(listener: StoreListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @throws ConnectionError while the file cannot be used */
  check(): void {
    if (this.#problem !== undefined) throw this.#problem;
  }

  /**
   * Reads as of now; readers wait for nobody.
   *
   * @throws ConnectionError, and whatever `work` throws
   */
  read<T>(work: Work<T>): T {
    this.#checkPlace();
    this.check();
    try {
      return work(this.#database.current);
    } catch (error) {
      if (!isSqliteError(error)) throw error;
      const failure = fileFailure(error, this.settings.target);
      if (isOutage(error) && !isBusy(error)) this.#away(failure);
      throw failure;
    }
  }

  /**
   * Resolves when it is committed and, by the option `synchronous`, on the disk. Rejects with a ConnectionError when it
   * is not: nothing of it was done then, unless its cause is an `isUnclear` one.
   */
  write<T>(work: Work<T>): Promise<T> {
    return this.#enqueue(work, this.settings.synchronous === 'full');
  }

  /** The same, for what a power cut may undo: it ends leases anyway, and with them whatever members have in hand. */
  writeLoosely<T>(work: Work<T>): Promise<T> {
    return this.#enqueue(work, false);
  }

  #enqueue<T>(work: Work<T>, lasting: boolean): Promise<T> {
    if (this.#problem !== undefined) return Promise.reject(notBegun(this.#problem));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ work, lasting, resolve: resolve as (value: unknown) => void, reject });
      this.#schedule();
    });
  }

  /** Writes what is queued, and closes the file. */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    while (this.#problem === undefined && (this.#queue.length > 0 || this.#flushing !== undefined)) {
      await (this.#flushing ?? this.writeLoosely(() => {}).catch(() => {}));
    }
    this.#closing.abort();
    this.#waitingForLock?.cancel();
    this.#wake.close();
    this.#problem ??= closedFile(this.settings.target);
    this.#listeners.clear();
    await this.#reopening;
    this.#database.current.close();
  }

  #schedule(): void {
    if (this.#scheduled || this.#waitingForLock !== undefined) return;
    this.#scheduled = true;
    // After the work of this turn, so that all that it wants to write shares a transaction.
    setImmediate(() => {
      this.#scheduled = false;
      this.#drain();
    });
  }

  #drain(): void {
    if (this.#queue.length === 0 || this.#problem !== undefined || !this.#begin()) return;
    const database = this.#database.current;
    const { clock } = this;
    const until = clock.monotonic() + longestTransaction;
    const done: { readonly one: Queued; readonly value?: unknown; readonly error?: unknown }[] = [];
    let one: Queued | undefined;
    try {
      do {
        one = this.#queue.shift();
        if (one === undefined) break;
        done.push({ one, ...attempt(database, one.work) });
      } while (clock.monotonic() < until);
      one = undefined;
      database.run('COMMIT');
    } catch (error) {
      database.touched.clear();
      undo(database);
      const failure = this.#failure(error);
      for (const { one: failed } of done) failed.reject(failure);
      one?.reject(failure);
      if (isSqliteError(error)) this.#away(fileFailure(error, this.settings.target));
      else if (this.#queue.length > 0) this.#schedule();
      return;
    }
    this.#outages = 0;
    const touched = [...database.touched];
    database.touched.clear();
    for (const { one: finished, value, error } of done) {
      if (error !== undefined) finished.reject(this.#failure(error));
      else if (!finished.lasting) finished.resolve(value);
      else this.#unflushed.push({ database, done: () => finished.resolve(value), failed: finished.reject });
    }
    this.#flush();
    if (touched.length > 0) {
      this.#wake.all(() => {
        for (const topic of touched) this.#changed(topic);
      });
    }
    if (this.#queue.length > 0) this.#schedule();
  }

  /** One flush at a time: all that is committed meanwhile shares the next one. */
  #flush(): void {
    const database = this.#unflushed[0]?.database;
    if (this.#flushing !== undefined || database === undefined) return;
    const committed = this.#takeUnflushed(database);
    const failed = (cause: unknown): void => {
      const error = fileFailure(cause, this.settings.target);
      // The system tells of a failure once. What was committed meanwhile may be behind the gap, or in it, and a flush
      // of its own would succeed all the same.
      for (const one of [...committed, ...this.#takeUnflushed(database)]) one.failed(error);
      if (!leavesGap(cause)) return;
      this.#torn = true;
      this.#away(error);
    };
    this.#flushing = database
      .flush()
      .then(() => {
        for (const one of committed) one.done();
      }, failed)
      .then(() => {
        this.#flushing = undefined;
        this.#flush();
      });
  }

  /** The file may have been opened again in between, so not all need be of the same one. */
  #takeUnflushed(database: Database): readonly Flushed[] {
    const taken = this.#unflushed.filter((one) => one.database === database);
    this.#unflushed = this.#unflushed.filter((one) => one.database !== database);
    return taken;
  }

  #failure(error: unknown): unknown {
    return isSqliteError(error) ? fileFailure(error, this.settings.target) : error;
  }

  /** Takes the write lock; where another process has it, comes back to it a little later. */
  #begin(): boolean {
    if (!this.#checkPlace()) return false;
    try {
      this.#database.current.run('BEGIN IMMEDIATE');
      this.#lockedSince = undefined;
      this.#lockTries = 0;
      return true;
    } catch (error) {
      const now = this.clock.monotonic();
      this.#lockedSince ??= now;
      if (!isBusy(error) || now - this.#lockedSince > this.settings.busyTimeout) {
        this.#away(fileFailure(error, this.settings.target));
      } else {
        this.#waitingForLock = this.clock.setTimeout(
          () => {
            this.#waitingForLock = undefined;
            this.#drain();
          },
          backOff(++this.#lockTries, busyBackOff),
        );
      }
      return false;
    }
  }

  /** A file that is moved away under us would go on taking messages that nobody finds again. */
  #checkPlace(): boolean {
    if (this.#problem !== undefined) return false;
    if (this.#database.current.inPlace) return true;
    this.#away(fileGone(this.settings.target));
    return false;
  }

  #changed(topic: number | undefined): void {
    this.changes++;
    for (const listener of this.#listeners) listener.changed(topic);
  }

  /** The file cannot be used: says so, and tries to open it again until it can. */
  #away(error: ConnectionError): void {
    if (this.#problem !== undefined) return;
    this.#problem = error;
    this.#lockedSince = undefined;
    this.#lockTries = 0;
    this.#outages++;
    const queue = this.#queue;
    this.#queue = [];
    for (const one of queue) one.reject(notBegun(error));
    for (const listener of this.#listeners) listener.interrupted(error);
    this.#reopening = this.#reopen().finally(() => {
      this.#reopening = undefined;
    });
  }

  async #reopen(): Promise<void> {
    const { clock, settings } = this;
    const { signal } = this.#closing;
    let replaced = false;
    let reopen = !leavesFileOpen(this.#problem?.cause);
    for (let tries = this.#outages; !signal.aborted; tries++) {
      const locked = isBusy(this.#problem?.cause);
      await sleep(clock, backOff(tries, locked ? lockedOutBackOff : reopenBackOff), signal);
      if (signal.aborted) return;
      const before = this.#database.current;
      try {
        if (reopen || !before.inPlace || before.handle.isTransaction) {
          // Never made anew under a running process: who moved the file away may put it back.
          this.#database.current = openDatabase(settings, false);
          replaced ||= !before.inPlace;
          reopen = false;
          before.close();
        }
        // What is written behind a gap in the log is lost with a power cut, flushed or not.
        if (this.#torn) this.#database.current.emptyLog();
        this.#torn = false;
        if (isFull(this.#problem?.cause)) makeRoom(this.#database.current);
        probe(this.#database.current);
        this.#wake.reopened();
        this.#problem = undefined;
        for (const listener of this.#listeners) {
          if (this.problem !== undefined) return; // away again: another round has begun
          listener.restored(replaced);
        }
        this.#changed(undefined);
        return;
      } catch (error) {
        this.#problem = fileFailure(error, settings.target);
      }
    }
  }
}

/** Times in the file are whole numbers, whatever a clock counts. */
function inWholeMilliseconds(clock: Clock): Clock {
  return {
    now: () => Math.floor(clock.now()),
    monotonic: () => clock.monotonic(),
    setTimeout: (run, ms) => clock.setTimeout(run, ms),
  };
}

/** Runs one piece so that it can be undone alone. */
function attempt(database: Database, work: Work<unknown>): { value: unknown } | { error: unknown } {
  database.run('SAVEPOINT piece');
  try {
    const value = work(database);
    database.run('RELEASE piece');
    return { value };
  } catch (error) {
    if (isOutage(error) || !database.handle.isTransaction) throw error;
    database.run('ROLLBACK TO piece');
    database.run('RELEASE piece');
    return { error };
  }
}

function undo(database: Database): void {
  try {
    if (database.handle.isTransaction) database.run('ROLLBACK');
  } catch {
    // What could not be undone is not committed either; the file is opened again.
  }
}

/** What fills the disk may be the log itself: one that an endless transaction has kept from beginning anew. */
function makeRoom(database: Database): void {
  try {
    database.emptyLog();
  } catch {
    // Then others have to; the next write tells.
  }
}

/** A write that must get through: a file that can only be read is no broker. */
function probe(database: Database): void {
  database.run('BEGIN IMMEDIATE');
  try {
    database.run("INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT DO UPDATE SET value = value + 1");
    database.run('COMMIT');
  } catch (error) {
    undo(database);
    throw error;
  }
}
