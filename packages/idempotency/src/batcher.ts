import { type Clock, ConnectionError, type Timer } from '@waybill/core/adapter';

interface Item<T, R> {
  readonly what: T;
  readonly since: number;
  readonly resolve: (result: R) => void;
  readonly reject: (error: unknown) => void;
}

export interface BatcherOptions<T, R> {
  readonly clock: Clock;
  /** Milliseconds after which an item rejects that has no answer. */
  readonly timeout: number;
  /** Called with the answer to an item that had been given up. */
  readonly late?: (what: T, result: R) => void;
}

/** Batches under way at once: one is filled while another travels. */
const maxInFlight = 2;
const maxBatch = 500;

/**
 * Brings many small questions to a store in few statements. Load forms the batches: what comes in one turn of the event
 * loop, or gathers while others are under way, goes together; nothing ever waits for company.
 */
export class Batcher<T, R> {
  readonly #send: (items: readonly T[]) => Promise<readonly R[]>;
  readonly #options: BatcherOptions<T, R>;
  #waiting: Item<T, R>[] = [];
  /** All without an answer, the oldest first. */
  readonly #open = new Set<Item<T, R>>();
  #inFlight = 0;
  #scheduled = false;
  #timer: Timer | undefined;

  constructor(send: (items: readonly T[]) => Promise<readonly R[]>, options: BatcherOptions<T, R>) {
    this.#send = send;
    this.#options = options;
  }

  add(what: T): Promise<R> {
    return new Promise((resolve, reject) => {
      const item = { what, since: this.#options.clock.monotonic(), resolve, reject };
      this.#waiting.push(item);
      this.#open.add(item);
      this.#watch();
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= maxInFlight || this.#waiting.length === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#inFlight < maxInFlight && this.#waiting.length > 0) {
        const batch = this.#waiting.splice(0, maxBatch).filter((item) => this.#open.has(item));
        if (batch.length > 0) void this.#carry(batch);
      }
    });
  }

  async #carry(batch: readonly Item<T, R>[]): Promise<void> {
    this.#inFlight++;
    try {
      const results = await this.#send(batch.map(({ what }) => what));
      for (const [at, item] of batch.entries()) {
        const result = results[at] as R;
        if (this.#open.delete(item)) item.resolve(result);
        else this.#options.late?.(item.what, result);
      }
    } catch (error) {
      for (const item of batch) if (this.#open.delete(item)) item.reject(error);
    }
    this.#inFlight--;
    if (this.#open.size === 0) {
      this.#timer?.cancel();
      this.#timer = undefined;
    }
    this.#schedule();
  }

  /** One timer for all of them, at the time of the oldest. */
  #watch(): void {
    if (this.#timer !== undefined) return;
    const { clock, timeout } = this.#options;
    const [oldest] = this.#open;
    if (oldest === undefined) return;
    this.#timer = clock.setTimeout(
      () => {
        this.#timer = undefined;
        const now = clock.monotonic();
        for (const item of this.#open) {
          if (item.since + timeout > now) break;
          this.#open.delete(item);
          item.reject(new ConnectionError(`the store has not answered within ${timeout} ms`));
        }
        // What was never sent must not pile up behind a question that hangs.
        this.#waiting = this.#waiting.filter((item) => this.#open.has(item));
        this.#watch();
      },
      Math.max(1, Math.ceil(oldest.since + timeout - clock.monotonic())),
    );
  }
}
