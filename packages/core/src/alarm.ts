import type { Clock, Timer } from './clock.ts';

/**
 * One timer for any number of due times: it rings at the earliest that was asked for, and whoever listens looks
 * through its own records and asks for the next. So a message never owns a timer.
 */
export class Alarm {
  readonly #clock: Clock;
  readonly #ring: () => void;
  #timer: Timer | undefined;
  #due = Number.POSITIVE_INFINITY;
  #stopped = false;

  constructor(clock: Clock, ring: () => void) {
    this.#clock = clock;
    this.#ring = ring;
  }

  /** Rings at this time of `clock.monotonic()` or, when it is set to ring before, then. */
  at(time: number): void {
    if (time >= this.#due || this.#stopped) return;
    this.#timer?.cancel();
    this.#due = time;
    // Timers may fire a fraction of a millisecond early; rounding up spares a second, empty ring.
    this.#timer = this.#clock.setTimeout(
      () => {
        this.#timer = undefined;
        this.#due = Number.POSITIVE_INFINITY;
        this.#ring();
      },
      Math.max(0, Math.ceil(time - this.#clock.monotonic())),
    );
  }

  /** Rings no more, whatever is asked for. */
  stop(): void {
    this.#stopped = true;
    this.off();
  }

  off(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#due = Number.POSITIVE_INFINITY;
  }
}
