import { Alarm, type Clock } from '@waybill/core/adapter';

interface Beating {
  readonly every: number;
  readonly beat: () => void;
  due: number;
}

/** Calls many things now and then, on one timer. */
export class Heartbeats {
  readonly #clock: Clock;
  readonly #alarm: Alarm;
  readonly #beating = new Set<Beating>();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#alarm = new Alarm(clock, () => this.#ring());
  }

  /** Calls `beat` every so many milliseconds, until the returned function is called. */
  start(every: number, beat: () => void): () => void {
    const beating = { every, beat, due: this.#clock.monotonic() + every };
    this.#beating.add(beating);
    this.#alarm.at(beating.due);
    return () => {
      this.#beating.delete(beating);
      if (this.#beating.size === 0) this.#alarm.off();
    };
  }

  #ring(): void {
    const now = this.#clock.monotonic();
    let next = Number.POSITIVE_INFINITY;
    for (const beating of this.#beating) {
      if (beating.due <= now) {
        beating.due = now + beating.every;
        beating.beat();
      }
      next = Math.min(next, beating.due);
    }
    if (next !== Number.POSITIVE_INFINITY) this.#alarm.at(next);
  }
}
