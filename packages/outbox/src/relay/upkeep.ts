import { systemClock as clock, sleep } from '@waybill/core/adapter';
import type { SqlDatabase } from '@waybill/sql';
import type { Statements } from '../statements.ts';

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
}

/** Rows that one statement looks at: few enough not to hold up anybody. */
const batch = 1_000;
const longestWait = 60_000;

/** What has to be done from time to time. */
export class Upkeep {
  readonly #setup: UpkeepSetup;
  readonly #stop = new AbortController();
  #running: Promise<unknown> = Promise.resolve();
  #swept = false;

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
    // Where nothing is kept, only an earlier setting may have left something.
    if (keepSent === 0 && this.#swept) return;
    for (let after: number | undefined = 0; after !== undefined && !this.#stop.signal.aborted; ) {
      after = await statements.sweep(database, after, keepSent, batch);
    }
    this.#swept = true;
  }
}
