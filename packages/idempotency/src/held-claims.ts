import { Alarm, type Clock, LeaseLostError } from '@waybill/core/adapter';
import type { ClaimTable, Wanted } from './table.ts';

interface Held {
  readonly wanted: Wanted;
  readonly controller: AbortController;
  /** When the next renewal is due, in `clock.monotonic()`. */
  renewAt: number;
  /** Until when it is ours for certain. */
  until: number;
  /** Since when the last renewal that was asked for is under way. */
  asking: number | undefined;
}

/**
 * Renews the leases of the claims that work is running under: all that are due, or soon will be, in one statement, on
 * one timer. What could not be renewed in time, or has passed to somebody else, is lost: its signal aborts.
 */
export class HeldClaims {
  readonly #table: ClaimTable;
  readonly #clock: Clock;
  readonly #held = new Set<Held>();
  readonly #alarm: Alarm;

  constructor(table: ClaimTable, clock: Clock) {
    this.#table = table;
    this.#clock = clock;
    this.#alarm = new Alarm(clock, () => this.#ring());
  }

  /** @param since when its lease began at the latest */
  hold(wanted: Wanted, since: number): { readonly signal: AbortSignal; drop(): void } {
    const { lease } = wanted.claim;
    const controller = new AbortController();
    const held: Held = { wanted, controller, renewAt: since + lease / 3, until: since + lease, asking: undefined };
    this.#held.add(held);
    this.#alarm.at(held.renewAt);
    return { signal: controller.signal, drop: () => this.#drop(held) };
  }

  #drop(held: Held): void {
    this.#held.delete(held);
    // A process that has nothing to do must be free to end.
    if (this.#held.size === 0) this.#alarm.off();
  }

  #lose(held: Held): void {
    this.#drop(held);
    held.controller.abort(new LeaseLostError('the claim has passed to somebody else, or could not be renewed in time'));
  }

  #ring(): void {
    const now = this.#clock.monotonic();
    const due: Held[] = [];
    let next = Number.POSITIVE_INFINITY;
    for (const held of this.#held) {
      const { lease } = held.wanted.claim;
      const patience = held.asking === undefined ? held.renewAt - lease / 6 : held.asking + lease / 3;
      if (patience <= now) {
        // After a process was stopped for long the claim may be ours still: nobody but the store knows.
        if (held.asking !== undefined && held.until <= now) {
          this.#lose(held);
          continue;
        }
        // Also when there is no answer: the connection under it may have died without a word, and others have not.
        held.asking = now;
        due.push(held);
      }
      next = Math.min(next, held.asking === undefined ? held.renewAt : held.asking + lease / 3);
    }
    if (due.length > 0) void this.#renew(due, now);
    if (next !== Number.POSITIVE_INFINITY) this.#alarm.at(next);
  }

  async #renew(due: readonly Held[], since: number): Promise<void> {
    let results: readonly boolean[] | undefined;
    try {
      results = await this.#table.renew(due.map(({ wanted }) => wanted));
    } catch {
      // Tried again below, for as long as it is ours.
    }
    const now = this.#clock.monotonic();
    for (const [at, held] of due.entries()) {
      if (!this.#held.has(held)) continue;
      const { lease } = held.wanted.claim;
      held.asking = undefined;
      if (results?.[at] === true) {
        held.until = Math.max(held.until, since + lease);
        held.renewAt = held.until - (2 * lease) / 3;
      } else if (results !== undefined || now >= held.until) {
        this.#lose(held);
        continue;
      } else held.renewAt = now + Math.min(1_000, lease / 10);
      this.#alarm.at(held.renewAt);
    }
  }
}
