import { backOff, systemClock as clock } from '@waybill/core/adapter';
import { shut } from './hand.ts';

/** Between two probes of a topic whose broker is away, in milliseconds. */
const probeAfter = { initial: 250, max: 10_000 } as const;
/** A probe that has not ended within this many milliseconds is taken for lost. */
const probeLasts = 45_000;
/** Keys of one probe, more from probe to probe: it may be one message, or one key, that the topic is away for. */
const mostProbed = 64;

interface Storm {
  tries: number;
  until: number;
  /** Rows of passes before this one are not taken. */
  opensAt: number;
  /** Some messages may go, to see whether one gets through. */
  probing: boolean;
  /** How many have gone. */
  probed: number;
  readonly problem: string;
}

/**
 * Topics that the broker cannot be reached for at the moment. They are left out of what is read, so that they neither
 * fill our hands nor hold up other topics; from time to time a few messages are tried.
 */
export class Weather {
  readonly #storms = new Map<string, Storm>();

  /** The last fault of a broker that is still away. */
  get problem(): string | undefined {
    let last: string | undefined;
    for (const { problem, probing, opensAt } of this.#storms.values()) if (probing || opensAt === shut) last = problem;
    return last;
  }

  /** A send found nobody. Returns when the next one may be tried, or `undefined` when that is known already. */
  away(topic: string, problem: string): number | undefined {
    const known = this.#storms.get(topic);
    const now = clock.monotonic();
    if (known !== undefined && !known.probing) return undefined;
    const tries = (known?.tries ?? 0) + 1;
    const until = now + backOff(tries, probeAfter);
    this.#storms.set(topic, { tries, until, opensAt: shut, probing: false, probed: 0, problem });
    return until;
  }

  /** The broker has answered. Returns true when the topic was left out: another pass will find its rows. */
  answered(topic: string, pass: number): boolean {
    const storm = this.#storms.get(topic);
    if (storm === undefined || (storm.opensAt === pass + 1 && !storm.probing)) return false;
    storm.probing = false;
    storm.until = 0;
    storm.opensAt = pass + 1;
    return true;
  }

  /**
   * A pass begins. Returns the topics that it leaves out.
   *
   * @param whole whether the pass before came to the end of the table
   */
  begin(pass: number, whole: boolean): readonly string[] {
    if (this.#storms.size === 0) return [];
    const now = clock.monotonic();
    const leftOut: string[] = [];
    for (const [topic, storm] of this.#storms) {
      if (storm.opensAt <= pass && !storm.probing) this.#storms.delete(topic);
      // Nothing of it was there to be tried.
      else if (storm.probing && storm.probed === 0 && whole) this.#storms.delete(topic);
      else if (storm.until > now && (!storm.probing || storm.probed > 0)) leftOut.push(topic);
      else {
        storm.probing = true;
        storm.probed = 0;
        storm.opensAt = pass;
        storm.until = now + probeLasts;
      }
    }
    return leftOut;
  }

  /** Whether a row of this topic may be taken; of a topic that is being tried only the first ones of a few keys. */
  admits(topic: string, pass: number, behindAnother: boolean): boolean {
    const storm = this.#storms.get(topic);
    if (storm === undefined) return true;
    if (storm.opensAt > pass) return false;
    if (!storm.probing) return true;
    if (behindAnother || storm.probed >= Math.min(mostProbed, 4 ** storm.tries)) return false;
    storm.probed++;
    return true;
  }
}
