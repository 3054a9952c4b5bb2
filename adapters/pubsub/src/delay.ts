import { Alarm, type Clock, Heap } from '@waybill/core/adapter';

/**
 * Milliseconds of the longest delay. A message waits in its subscription, which keeps it for seven days at least; one
 * day is left for consumers that are late.
 */
export const maxDelay = 6 * 86_400_000;

/** Milliseconds that the broker hides a message at most; longer waits hop. */
const longestHop = 600_000;

/**
 * Below this many milliseconds a member waits with the message in its hands, because the broker counts in whole
 * seconds. It is less than the deadline that every delivery begins with, so nothing has to be renewed meanwhile.
 */
const waitHere = 5_000;

/** Most messages that wait here, and most bytes of them; the rest is left to the broker and up to a second late. */
const room = { count: 1_000, bytes: 8 * 1_024 * 1_024 };

/** One that waits here. */
export interface Waiting {
  /** Monotonic milliseconds. */
  readonly dueAt: number;
  readonly bytes: number;
}

/** Whole seconds for which the broker is to hide a message that is due in so many milliseconds. */
export function hopOf(ms: number): number {
  // What is left of a second is waited for here, after the last hop.
  return Math.max(1, Math.floor(Math.min(ms, longestHop) / 1_000));
}

/**
 * The last seconds of delays. They count neither as fetched nor as in hand, so whatever waits takes nothing from what
 * a consumer may have.
 */
export class WaitingRoom<T extends Waiting> {
  readonly #waiting = new Heap<T>((a, b) => a.dueAt < b.dueAt);
  readonly #alarm: Alarm;
  readonly #clock: Clock;
  #bytes = 0;

  constructor(clock: Clock, due: () => void) {
    this.#clock = clock;
    this.#alarm = new Alarm(clock, due);
  }

  /** Whether this one may wait here. */
  takes(ms: number, bytes: number): boolean {
    return ms <= waitHere && this.#waiting.size < room.count && this.#bytes + bytes <= room.bytes;
  }

  add(one: T): void {
    this.#waiting.push(one);
    this.#bytes += one.bytes;
    this.#alarm.at(one.dueAt);
  }

  /** Those whose time has come, the earliest first; and rings for the next. */
  takeDue(): T[] {
    const taken: T[] = [];
    const now = this.#clock.monotonic();
    for (let next = this.#waiting.peek(); next !== undefined; next = this.#waiting.peek()) {
      if (next.dueAt > now) {
        this.#alarm.at(next.dueAt);
        break;
      }
      this.#waiting.pop();
      this.#bytes -= next.bytes;
      taken.push(next);
    }
    return taken;
  }

  takeAll(): T[] {
    this.#bytes = 0;
    return this.#waiting.takeWhere(() => true);
  }

  stop(): void {
    this.#alarm.stop();
  }
}
