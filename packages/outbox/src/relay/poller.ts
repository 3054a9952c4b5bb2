import { systemClock as clock, sleep } from '@waybill/core/adapter';

/** Milliseconds until the second look after something was there, or may be; doubled from look to look. */
const soon = 10;
/** Of the time between two looks at most a third goes into looking. */
const restPerWork = 2;
const longestRest = 500;
/** A relay that is about to wait for longer than this wants to be woken. */
const quiet = 250;

/** Decides when a relay looks at its table. */
export class Poller {
  readonly #interval: number;
  #wait: number = soon;
  #woken = false;
  #stopped = false;
  #ring = new AbortController();
  /** How long the last look took: a table that is slow to read is not read in a circle. */
  #cost = 0;

  constructor(interval: number) {
    this.#interval = interval;
  }

  /** There is something to be read. */
  wake(): void {
    this.#woken = true;
    this.#ring.abort();
  }

  /** There may be something to be read soon. */
  stir(): void {
    if (this.#wait <= soon) return;
    this.#wait = soon;
    this.#ring.abort();
  }

  stop(): void {
    this.#stopped = true;
    this.#ring.abort();
  }

  /** Whether the next wait is a long one. */
  get quiet(): boolean {
    return !this.#woken && this.#wait * 2 >= Math.min(quiet, this.#interval);
  }

  took(milliseconds: number): void {
    this.#cost = milliseconds;
  }

  /** Resolves when it is time for the next look. */
  async next(found: boolean): Promise<void> {
    this.#wait = found ? soon : Math.min(this.#interval, this.#wait * 2);
    const rest = Math.min(longestRest, this.#cost * restPerWork);
    if (rest >= 1) await this.#sleep(rest, false);
    while (!this.#woken && !this.#stopped) {
      const wait = this.#wait;
      await this.#sleep(wait, true);
      // Stirred: from now on in short steps again.
      if (this.#wait >= wait) break;
    }
    this.#woken = false;
  }

  /** After a failure, whatever calls. */
  async rest(milliseconds: number): Promise<void> {
    await this.#sleep(milliseconds, false);
  }

  async #sleep(milliseconds: number, wakeable: boolean): Promise<void> {
    if (this.#stopped) return;
    const until = clock.monotonic() + milliseconds;
    do {
      if (this.#ring.signal.aborted) this.#ring = new AbortController();
      if (wakeable && this.#woken) return;
      await sleep(clock, until - clock.monotonic(), this.#ring.signal);
    } while (!wakeable && !this.#stopped && clock.monotonic() < until - 0.5);
  }
}
