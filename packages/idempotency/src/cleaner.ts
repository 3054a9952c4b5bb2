import type { Clock } from '@waybill/core/adapter';
import type { ClaimTable } from './table.ts';

/** Milliseconds between two batches. */
const every = 3_000;
const smallest = 500;
const largest = 8_000;

/** Deletes what has ended in batches beside the work, and only while there is some: an idle service asks nothing. */
export class Cleaner {
  readonly #table: ClaimTable;
  readonly #clock: Clock;
  #due: number;
  #most = smallest;

  constructor(table: ClaimTable, clock: Clock) {
    this.#table = table;
    this.#clock = clock;
    // Processes that started together do not clean together.
    this.#due = clock.monotonic() + every * Math.random();
  }

  /** To be called with each piece of work. */
  nowAndThen(): void {
    const now = this.#clock.monotonic();
    if (now < this.#due) return;
    // Never two at once: where the database does not answer, they would take up all of its connections.
    this.#due = Number.POSITIVE_INFINITY;
    const most = this.#most;
    this.#table
      .clean?.(most)
      .then(
        (cleaned) => {
          // As much as ends, with a bound on each batch: more while it does not do, less when it does.
          this.#most = cleaned >= most ? Math.min(most * 2, largest) : Math.max(most / 2, smallest);
        },
        // What is left stands until the next time; a fault of the database shows in the work.
        () => {},
      )
      .finally(() => {
        this.#due = this.#clock.monotonic() + every;
      });
  }
}
