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

/**
 * Writes down what became of messages. Load forms the batches: while one statement is under way, the next gathers. A
 * database that is away is asked again until it has it: only then is a message let go.
 */
export class Marker {
  readonly #database: SqlDatabase;
  readonly #statements: Statements;
  readonly #relay: string;
  readonly #keep: boolean;
  readonly #events: MarkerEvents;
  readonly #stop = new AbortController();
  #sent: Item[] = [];
  #failed: { readonly item: Item; readonly failure: Failure }[] = [];
  #running = false;

  constructor(database: SqlDatabase, statements: Statements, relay: string, keep: boolean, events: MarkerEvents) {
    this.#database = database;
    this.#statements = statements;
    this.#relay = relay;
    this.#keep = keep;
    this.#events = events;
  }

  sent(item: Item): void {
    this.#sent.push(item);
    this.#begin();
  }

  failed(item: Item, failure: Failure): void {
    this.#failed.push({ item, failure });
    this.#begin();
  }

  /** What is not written yet will be found pending. */
  stop(): void {
    this.#stop.abort();
  }

  #begin(): void {
    if (this.#running) return;
    this.#running = true;
    // What ends in the same turn goes together.
    queueMicrotask(() => void this.#run());
  }

  async #run(): Promise<void> {
    while (this.#sent.length + this.#failed.length > 0 && !this.#stop.signal.aborted) {
      const sent = this.#sent.splice(0, most);
      if (sent.length > 0) {
        const ids = sent.map(({ id }) => id);
        await this.#write(sent, 'sent', () => this.#statements.markSent(this.#database, ids, this.#keep));
      }
      const failed = this.#failed.splice(0, most);
      if (failed.length > 0) {
        const failures = failed.map(({ failure }) => failure);
        const items = failed.map(({ item }) => item);
        await this.#write(items, 'failed', () => this.#statements.markFailed(this.#database, this.#relay, failures));
      }
    }
    this.#running = false;
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
