import type { Claim, ClaimOutcome, Fence, IdempotencyStore } from '@waybill/core';
import { type Clock, ConnectionError, systemClock } from '@waybill/core/adapter';
import { Batcher } from './batcher.ts';
import { Cleaner } from './cleaner.ts';
import { HeldClaims } from './held-claims.ts';
import { type Answer, type ClaimTable, claimId, tokens, type Wanted } from './table.ts';

/** What is beyond it waits for the end of its lease. */
const mostUnsure = 10_000;

/** An idempotency store on a table of claims that many processes share. */
export class LeasedStore implements IdempotencyStore {
  readonly #clock: Clock;
  readonly #claims: Batcher<Wanted, Answer>;
  readonly #marks: Batcher<Wanted, boolean>;
  readonly #releases: Batcher<Wanted, undefined>;
  readonly #held: HeldClaims;
  /** Ours, from the question on: what this process is at is busy without asking. */
  readonly #ours = new Set<string>();
  /** Tokens of claims that had no answer, by name: if they are held, then by us, and by no work. */
  readonly #unsure = new Map<string, string>();
  readonly #token = tokens();
  readonly #cleaner: Cleaner;

  /** @param timeout milliseconds after which a question counts as unanswered */
  constructor(table: ClaimTable, timeout: number, clock: Clock = systemClock) {
    this.#clock = clock;
    const options = { clock, timeout };
    this.#releases = new Batcher(async (held) => {
      await table.release(held);
      return held.map(() => undefined);
    }, options);
    this.#marks = new Batcher((held) => table.mark(held), options);
    this.#claims = new Batcher((wanted) => table.claim(wanted), {
      ...options,
      // Nobody works under it any more: somebody else may.
      late: (wanted, answer) => {
        if (this.#unsure.get(wanted.name) !== wanted.token) return;
        this.#unsure.delete(wanted.name);
        if (answer === 'won') this.#release(wanted).catch(() => {});
      },
    });
    this.#held = new HeldClaims(table, clock);
    this.#cleaner = new Cleaner(table, clock);
  }

  async run(claim: Claim, work: (fence: Fence) => Promise<boolean>): Promise<ClaimOutcome> {
    const id = claimId(claim);
    const name = id.toString('latin1');
    if (this.#ours.has(name)) return 'busy';
    this.#ours.add(name);
    const wanted = { claim, id, name, token: this.#unsure.get(name) ?? this.#token() };
    this.#unsure.delete(name);
    try {
      this.#cleaner.nowAndThen();
      const since = this.#clock.monotonic();
      const answer = await this.#ask(wanted);
      if (answer !== 'won') return answer;
      if (this.#clock.monotonic() - since < claim.lease) return await this.#runHeld(wanted, since, work);
      // It may have passed to somebody else already.
      this.#release(wanted).catch(() => {});
      throw new ConnectionError(`the store took longer to answer than the lease of ${claim.lease} ms`);
    } finally {
      this.#ours.delete(name);
    }
  }

  async #ask(wanted: Wanted): Promise<Answer> {
    try {
      return await this.#claims.add(wanted);
    } catch (error) {
      this.#unsure.set(wanted.name, wanted.token);
      const [oldest] = this.#unsure.keys();
      if (oldest !== undefined && this.#unsure.size > mostUnsure) this.#unsure.delete(oldest);
      throw error;
    }
  }

  async #runHeld(wanted: Wanted, since: number, work: (fence: Fence) => Promise<boolean>): Promise<ClaimOutcome> {
    const held = this.#held.hold(wanted, since);
    try {
      const succeeded = await work({ signal: held.signal });
      if (held.signal.aborted) return 'failed';
      if (succeeded) return (await this.#marks.add(wanted)) ? 'ran' : 'failed';
    } finally {
      held.drop();
    }
    // If the store cannot be told, the lease tells.
    await this.#release(wanted).catch(() => {});
    return 'failed';
  }

  #release(wanted: Wanted): Promise<undefined> {
    return this.#releases.add(wanted);
  }
}
