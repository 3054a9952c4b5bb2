import type { Clock } from './clock.ts';
import type { Logger } from './logger.ts';

/** Milliseconds for which a kind of notice is told once. */
const quiet = 10_000;

/**
 * Warnings about single messages. The first of a kind is told at once; in a storm of failures one every ten seconds,
 * with the number of those left out, so that a log stays readable and no disk fills up.
 */
export class Notices<Kind extends string> {
  readonly #logger: Logger;
  readonly #clock: Clock;
  readonly #kinds = new Map<Kind, { quietUntil: number; untold: number }>();

  constructor(logger: Logger, clock: Clock) {
    this.#logger = logger;
    this.#clock = clock;
  }

  tell(kind: Kind, text: string, details: object): void {
    const now = this.#clock.monotonic();
    const last = this.#kinds.get(kind);
    if (last !== undefined && now < last.quietUntil) {
      last.untold++;
      return;
    }
    const untold = last?.untold ?? 0;
    this.#kinds.set(kind, { quietUntil: now + quiet, untold: 0 });
    this.#logger.warn(untold === 0 ? text : `${text} (${untold} more like it went untold)`, details);
  }
}
