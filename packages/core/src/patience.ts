import { type Clock, sleep } from './clock.ts';
import { WaybillError } from './errors.ts';
import { backOff } from './retry.ts';

/**
 * Asks again while the connection is away and coming back: a reconnect under way is no reason to fail a call that
 * can wait for it. Any other error, and the last one when the time is up, is thrown as it is.
 *
 * @param patience milliseconds
 */
export async function patiently<T>(clock: Clock, patience: number, ask: () => Promise<T>): Promise<T> {
  const until = clock.monotonic() + patience;
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      const wait = backOff(tries, { initial: 50, max: 2_000 });
      if (!isRetryable(error) || clock.monotonic() + wait > until) throw error;
      await sleep(clock, wait);
    }
  }
}

/** Whether the connection is away for now: another try may help. */
export function isRetryable(error: unknown): boolean {
  return WaybillError.is(error, 'CONNECTION') && (error as { retryable?: boolean }).retryable === true;
}
