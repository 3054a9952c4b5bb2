import { backOff, systemClock as clock, sleep } from '@waybill/core/adapter';
import { isTransient, type SqlDatabase } from '@waybill/sql';
import type { Failure, Statements } from '../statements.ts';
import type { Item } from './hand.ts';

/** Rows of one UPDATE. */
const most = 1_000;

export interface MarkerEvents {
  /** The table has it: these were sent, or have failed. */
  marked(items: readonly Item[], as: 'sent' | 'failed'): void;
  trouble(error: unknown): void;
  recovered(): void;
}

interface Failed {
  readonly item: Item;
  readonly failure: Failure;
}

/**
 * Writes down what became of messages. Load forms the batches: while one statement is under way, the next gathers. A
 * database that is away is asked again until it has it: only then is a message let go.
 */
export class Marker {
  readonly #database: SqlDatabase;
  readonly #events: MarkerEvents;
  readonly #stop = new AbortController();
  readonly #sent: Batches<Item>;
  /** By themselves, so that a failure that cannot be written down keeps no success from it. */
  readonly #failed: Batches<Failed>;

  constructor(database: SqlDatabase, statements: Statements, relay: string, keep: boolean, events: MarkerEvents) {
    this.#database = database;
    this.#events = events;
    const { signal } = this.#stop;
    this.#sent = new Batches(signal, (items) => {
      const ids = items.map(({ id }) => id);
      return this.#write(items, 'sent', () => statements.markSent(database, relay, ids, keep));
    });
    this.#failed = new Batches(signal, (failed) => {
      const failures = failed.map(({ failure }) => failure);
      const items = failed.map(({ item }) => item);
      return this.#write(items, 'failed', () => statements.markFailed(database, relay, failures));
    });
  }

  sent(item: Item): void {
    this.#sent.add(item);
  }

  failed(item: Item, failure: Failure): void {
    this.#failed.add({ item, failure });
  }

  /** What is not written yet will be found pending. */
  stop(): void {
    this.#stop.abort();
  }

  async #write(items: readonly Item[], as: 'sent' | 'failed', write: () => Promise<void>): Promise<void> {
    for (let tries = 1; !this.#stop.signal.aborted; tries++) {
      try {
        await write();
        if (tries > 1) this.#events.recovered();
        return this.#events.marked(items, as);
      } catch (error) {
        // A deadlock is no fault of the database.
        if (!isTransient(this.#database.dialect, error)) this.#events.trouble(error);
        await sleep(clock, backOff(tries, { initial: 50, max: 5_000 }), this.#stop.signal);
      }
    }
  }
}

/** Gathers what comes while a batch is being written. */
class Batches<T> {
  readonly #stop: AbortSignal;
  readonly #write: (batch: readonly T[]) => Promise<void>;
  #waiting: T[] = [];
  #running = false;

  constructor(stop: AbortSignal, write: (batch: readonly T[]) => Promise<void>) {
    this.#stop = stop;
    this.#write = write;
  }

  add(one: T): void {
    this.#waiting.push(one);
    if (this.#running) return;
    this.#running = true;
    // What ends in the same turn goes together.
    queueMicrotask(() => void this.#run());
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#stop.aborted) await this.#write(this.#waiting.splice(0, most));
    this.#running = false;
  }
}
