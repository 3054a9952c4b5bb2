import { type Clock, systemClock } from './clock.ts';
import { ConfigError } from './errors.ts';
import { Heap } from './heap.ts';
import { checkOptions } from './url.ts';

/** A wish to be the only one that handles a message (IDEM-01 to IDEM-04). */
export interface Claim {
  /** Topic, group and epoch: claims of two scopes know nothing of each other (IDEM-03). */
  readonly scope: string;
  /** What is handled once within the scope: the message's id unless the user names something else. */
  readonly key: string;
  /** Milliseconds after which the claim of a holder that died is free; the store renews it while the work runs. */
  readonly lease: number;
  /** Milliseconds for which the outcome is remembered. */
  readonly window: number;
  /**
   * For inboxes: aborts when the attempt has been given up though its handler may still run. Its transaction must come
   * to nothing then, and no statement of it may reach a connection that serves somebody else.
   */
  readonly signal?: AbortSignal;
}

/**
 * How a run ended.
 *
 * - `ran`: the work succeeded, and the key is marked as done.
 * - `failed`: the work did not succeed; the key is free again (IDEM-02).
 * - `duplicate`: somebody succeeded within the window; the work was not called.
 * - `busy`: somebody else is at it; the work was not called (IDEM-04).
 */
export type ClaimOutcome = 'ran' | 'failed' | 'duplicate' | 'busy';

/** What a store tells the work that it runs. */
export interface Fence {
  /**
   * Aborts when the claim has passed to somebody else, because it could not be renewed: the work should stop, and its
   * outcome is not marked. Absent where a store cannot lose a claim.
   */
  readonly signal?: AbortSignal;
}

/** Remembers what has been handled. Stores may be shared by any number of buses and, most of them, processes. */
export interface IdempotencyStore {
  /**
   * Runs the work unless it has been done or is being done. `work` resolves with whether it succeeded, and never
   * rejects. A rejection of `run` means that the store failed: nothing is known, and where the work has run it may run
   * again (IDEM-06).
   */
  run(claim: Claim, work: (fence: Fence) => Promise<boolean>): Promise<ClaimOutcome>;
}

/**
 * Remembers what has been handled in the handler's own transaction: effects and mark are committed together, or neither
 * is (IDEM-05).
 */
export interface Inbox<Tx> {
  /**
   * Handlers that may run at once, where each takes a connection of a pool. A subscription's `concurrency` above it is
   * a ConfigError, and its default the smaller of the two.
   */
  readonly maxConcurrency?: number;
  /**
   * Begins a transaction, claims the key in it and runs the work, unless that has been done or is being done. `work`
   * resolves with whether to commit, once the handler has returned, and never rejects.
   *
   * @throws what keeps it from the work, which then was not called (IDEM-06)
   * @throws ConnectionError when the commit was not confirmed: it may have happened
   * @throws what else keeps the commit from happening; it counts as the handler's failure
   */
  run(claim: Claim, work: (tx: Tx, fence: Fence) => Promise<boolean>): Promise<ClaimOutcome>;
}

export interface MemoryStoreOptions {
  /** Default: the system's. */
  readonly clock?: Clock;
  /** Outcomes to remember; above it those that would end first are forgotten early. Default: 100,000. */
  readonly maxEntries?: number;
}

interface Done {
  readonly id: string;
  /** In `clock.monotonic()`. */
  readonly until: number;
}

/**
 * An idempotency store in this process: for tests, and for services that are alone and may handle a message again
 * after a restart. Here a claim needs no lease, because it lives and dies with its holder: as long as the work runs,
 * the key is busy.
 *
 * @throws ConfigError for an option that is unknown or out of range
 */
export function memoryStore(options: MemoryStoreOptions = {}): IdempotencyStore {
  checkOptions(options, ['clock', 'maxEntries'], '');
  const { clock = systemClock, maxEntries = 100_000 } = options;
  if (!Number.isInteger(maxEntries) || maxEntries < 1) {
    throw new ConfigError('maxEntries', `${maxEntries} is not a whole number above 0`);
  }
  const busy = new Set<string>();
  const done = new Map<string, Done>();
  const ends = new Heap<Done>((a, b) => a.until < b.until);

  const forget = (): void => {
    const now = clock.monotonic();
    for (let first = ends.peek(); first !== undefined; first = ends.peek()) {
      if (first.until > now && done.size <= maxEntries) return;
      ends.pop();
      done.delete(first.id);
    }
  };

  return {
    async run(claim, work) {
      forget();
      // The length tells where the scope ends, so that no two pairs look alike.
      const id = `${claim.scope.length}:${claim.scope}${claim.key}`;
      if (done.has(id)) return 'duplicate';
      if (busy.has(id)) return 'busy';
      busy.add(id);
      try {
        if (!(await work({}))) return 'failed';
        const entry = { id, until: clock.monotonic() + claim.window };
        done.set(id, entry);
        ends.push(entry);
        forget();
        return 'ran';
      } finally {
        busy.delete(id);
      }
    },
  };
}
