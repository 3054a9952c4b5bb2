/** Lets a number of pieces of work run at once, in the order in which they came. */
export class Permits {
  readonly most: number;
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(most: number) {
    this.most = most;
    this.#free = most;
  }

  /** Resolves with what gives the permit back. Rejects with the signal's reason. */
  async take(signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    if (this.#free > 0) this.#free--;
    else await this.#wait(signal);
    return () => {
      const [next] = this.#waiting;
      if (next === undefined) this.#free++;
      else next();
    };
  }

  #wait(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const next = (): void => {
        this.#waiting.delete(next);
        signal?.removeEventListener('abort', giveUp);
        resolve();
      };
      const giveUp = (): void => {
        this.#waiting.delete(next);
        reject(signal?.reason);
      };
      this.#waiting.add(next);
      signal?.addEventListener('abort', giveUp, { once: true });
    });
  }
}

const permitsOf = new WeakMap<object, Permits>();

/**
 * The permits of a pool, one set for all inboxes over it. One connection less than there are, where there are two: it is
 * left for what handlers ask beside their transaction, which would otherwise wait for each other for ever.
 */
export function sharedPermits(pool: object, connections: number): Permits {
  const permits = permitsOf.get(pool) ?? new Permits(Math.max(1, connections - 1));
  permitsOf.set(pool, permits);
  return permits;
}
