import { setTimeout as wait } from 'node:timers/promises';
import type { Bus } from '@waybill/core';

/** Milliseconds that a timer may be late, and a publish may take, on a machine that is idle. */
const HICCUP = 150;
const EVERY = 50;

/**
 * Watches whether the machine is idle while something is measured, by a timer and by publishes to a topic that nobody
 * reads: what holds up either may hold up anything. A library that holds up itself looks the same, so this only says
 * whether it is worth measuring again.
 */
export class IdleWatch {
  readonly #stalls: (readonly [from: number, to: number])[] = [];
  #begun: number | undefined;
  #due = 0;

  /**
   * @param topic for nothing else
   * @param signal ends the watch
   */
  static async start(bus: Bus, topic: string, signal: AbortSignal): Promise<IdleWatch> {
    // The first publish opens what the others use.
    await bus.publish(topic, 0);
    const watch = new IdleWatch();
    void watch.#run(() => bus.publish(topic, 0), signal);
    return watch;
  }

  /** Whether nothing stood still in that time, in `performance.now()`. */
  wasIdle(from: number, to: number): boolean {
    const now = performance.now();
    const underWay = this.#begun !== undefined && now > this.#due ? [[this.#begun, now] as const] : [];
    return ![...this.#stalls, ...underWay].some(([begun, ended]) => begun < to && ended > from);
  }

  async #run(publish: () => Promise<unknown>, signal: AbortSignal): Promise<void> {
    const timed = async (work: Promise<unknown>, takes: number): Promise<void> => {
      this.#begun = performance.now();
      this.#due = this.#begun + takes + HICCUP;
      await work.catch(() => {});
      const ended = performance.now();
      if (ended > this.#due) this.#stalls.push([this.#begun, ended]);
      this.#begun = undefined;
    };
    while (!signal.aborted) {
      await timed(wait(EVERY, undefined, { signal }), EVERY);
      if (!signal.aborted) await timed(publish(), 0);
    }
  }
}
