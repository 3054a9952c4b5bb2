import type { Clock, Timer } from '../src/clock.ts';

/** A clock that stands still until a test moves it. */
export class FakeClock implements Clock {
  #time = 0;
  #timers: { readonly at: number; readonly run: () => void }[] = [];
  readonly #epoch: number;

  constructor(epoch = Date.UTC(2030, 0, 1)) {
    this.#epoch = epoch;
  }

  now(): number {
    return this.#epoch + this.#time;
  }

  monotonic(): number {
    return this.#time;
  }

  setTimeout(run: () => void, ms: number): Timer {
    const timer = { at: this.#time + Math.max(0, ms), run };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  /** Timers that have not fired. */
  get timers(): number {
    return this.#timers.length;
  }

  /** Moves on by `ms`, firing on the way what is due in its order, with all that follows from it. */
  async advance(ms: number): Promise<void> {
    const until = this.#time + ms;
    await settled();
    for (let next = this.#next(until); next !== undefined; next = this.#next(until)) {
      this.#time = Math.max(this.#time, next.at);
      this.#timers = this.#timers.filter((timer) => timer !== next);
      next.run();
      await settled();
    }
    this.#time = until;
  }

  #next(until: number): { readonly at: number; readonly run: () => void } | undefined {
    const due = this.#timers.filter((timer) => timer.at <= until);
    return due.reduce<(typeof due)[number] | undefined>((a, b) => (a === undefined || b.at < a.at ? b : a), undefined);
  }
}

/** Resolves when nothing more follows from what has happened: all promise jobs have run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
