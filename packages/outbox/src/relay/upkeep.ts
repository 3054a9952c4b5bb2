import { ConfigError, ConnectionError, systemClock as clock, sleep } from '@waybill/core/adapter';
import type { SqlDatabase } from '@waybill/sql';
import type { Statements } from '../statements.ts';
import { textOf } from './refusal.ts';

export interface UpkeepSetup {
  readonly database: SqlDatabase;
  readonly statements: Statements;
  /** Milliseconds; 0 when nothing that was sent is kept. */
  readonly keepSent: number;
  readonly lease: number;
  /** One relay sweeps for all. */
  readonly chosen: () => boolean;
  readonly observeEvery: number | undefined;
  readonly observe: () => Promise<void>;
  readonly trouble: (error: unknown) => void;
  readonly warn: (text: string) => void;
}

/** Rows that one statement looks at: few enough not to hold up anybody. */
const batch = 1_000;
const longestWait = 60_000;
/** Milliseconds. Partitions are there for days ahead, and dropping one may hold up publishers. */
const partitionsEvery = 3_600_000;

/** What has to be done from time to time. */
export class Upkeep {
  readonly #setup: UpkeepSetup;
  readonly #stop = new AbortController();
  #running: Promise<unknown> = Promise.resolve();
  #swept = false;
  #partitionsDue = 0;
  /** Where rows are deleted one by one; `undefined`, the whole table, until something is known of partitions. */
  #byRows: readonly (string | undefined)[] = [undefined];
  readonly #warned = new Set<string>();

  constructor(setup: UpkeepSetup) {
    this.#setup = setup;
  }

  start(): void {
    const { keepSent, observeEvery, observe } = this.#setup;
    const every = keepSent === 0 ? longestWait : Math.min(longestWait, Math.max(1_000, keepSent / 4));
    const works = [this.#repeat(every, () => this.#sweep())];
    if (observeEvery !== undefined) works.push(this.#repeat(observeEvery, observe));
    this.#running = Promise.all(works);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #repeat(every: number, work: () => Promise<void>): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await sleep(clock, every, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      // What fails here fails elsewhere too, and is told there.
      await work().catch(() => {});
    }
  }

  async #sweep(): Promise<void> {
    const { database, statements, keepSent, lease, chosen } = this.#setup;
    if (!chosen()) return;
    await statements.forgetRelays(database, 10 * lease);
    await this.#maintainPartitions();
    // Where nothing is kept, only an earlier setting may have left something.
    if (keepSent === 0 && this.#swept) return;
    for (const partition of this.#byRows) await this.#sweepRows(partition);
    this.#swept = true;
  }

  async #sweepRows(partition: string | undefined): Promise<void> {
    const { database, statements, keepSent } = this.#setup;
    try {
      for (let after: number | undefined = 0; after !== undefined && !this.#stop.signal.aborted; ) {
        after = await statements.sweep(database, after, keepSent, batch, partition);
      }
    } catch (error) {
      // Of a single partition nobody else tells, and the others go on. One that is missing was dropped meanwhile.
      if (partition === undefined || ConnectionError.is(error, 'CONNECTION')) throw error;
      if (!ConfigError.is(error, 'CONFIG')) this.#warnOnce(`outbox: ${partition} is not cleaned: ${textOf(error)}`);
    }
  }

  async #maintainPartitions(): Promise<void> {
    const { database, statements, keepSent } = this.#setup;
    if (statements.maintainPartitions === undefined || clock.monotonic() < this.#partitionsDue) return;
    // Also when it fails: it may hold up publishers.
    this.#partitionsDue = clock.monotonic() + partitionsEvery;
    const { byRows, warnings } = await statements.maintainPartitions(database, keepSent);
    this.#byRows = byRows;
    for (const text of warnings) this.#warnOnce(text);
  }

  #warnOnce(text: string): void {
    if (this.#warned.has(text)) return;
    this.#warned.add(text);
    this.#setup.warn(text);
  }
}
