/**
 * The one source of time in Waybill. Core, the memory broker and the adapters ask it and nothing else, so a test
 * that owns the clock owns every delay, lease, time-out and back-off.
 */
export interface Clock {
  /** Wall time in milliseconds since the epoch, whole or not (adapters write whole ones): for what is written on messages. */
  now(): number;
  /** Monotonic milliseconds: for leases, time-outs and measuring. Goes on while the process is stopped. */
  monotonic(): number;
  /** Calls `run` once after `ms` milliseconds; the timer keeps the process alive. */
  setTimeout(run: () => void, ms: number): Timer;
}

export interface Timer {
  cancel(): void;
}

/** `setTimeout` overflows above this and fires at once (Node's documented limit). */
const LONGEST_TIMEOUT = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  setTimeout(run, ms) {
    let handle: NodeJS.Timeout;
    const arm = (left: number): void => {
      handle =
        left > LONGEST_TIMEOUT
          ? setTimeout(() => arm(left - LONGEST_TIMEOUT), LONGEST_TIMEOUT)
          : setTimeout(run, Math.max(0, left));
    };
    arm(ms);
    return { cancel: () => clearTimeout(handle) };
  },
};

/**
 * Resolves after `ms`; a signal that aborts ends the wait early and resolves too, because every caller looks at its
 * own state after a wait anyway.
 */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      timer.cancel();
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = clock.setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
