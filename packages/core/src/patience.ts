import { type Clock, sleep } from './clock.ts';
import { ConnectionError, WaybillError } from './errors.ts';
import { backOff } from './retry.ts';

/** Lets a bus wait for its connection: woken when it is back, and given up when the bus closes. */
export class Patience {
  readonly #clock: Clock;
  #round = new AbortController();
  #over = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Asks again while the connection is away and coming back: a reconnect under way is no reason to fail a call that
   * can wait for it. Any other error, and the last one when the time is up, is thrown as it is.
   *
   * @param ms how long to go on
   */
  async ask<T>(ms: number, ask: () => Promise<T>): Promise<T> {
    const until = this.#clock.monotonic() + ms;
    for (let tries = 1; ; tries++) {
      try {
        return await ask();
      } catch (error) {
        const left = until - this.#clock.monotonic();
        if (!isRetryable(error) || left <= 0 || this.#over) throw error;
        await sleep(this.#clock, Math.min(backOff(tries, { initial: 50, max: 2_000 }), left), this.#round.signal);
      }
    }
  }

  /**
   * The answer, or after so many milliseconds an error that is worth another try: a lost reply must not hold up for
   * ever whoever shares the question.
   */
  within<T>(ms: number, answer: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const giveUp = (): void =>
        reject(new ConnectionError(`the broker did not answer within ${ms} ms`, { retryable: true }));
      const timer = this.#clock.setTimeout(giveUp, ms);
      answer.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  /** The connection is back: whoever waits asks at once. */
  wake(): void {
    const round = this.#round;
    this.#round = new AbortController();
    round.abort();
  }

  /** Nobody waits any longer. */
  end(): void {
    this.#over = true;
    this.wake();
  }
}

/** Whether the connection is away for now: another try may help. */
export function isRetryable(error: unknown): boolean {
  return WaybillError.is(error, 'CONNECTION') && (error as { retryable?: boolean }).retryable === true;
}
