import type { Clock, GroupRef, Settlement, SettleResult, WaybillError } from '@waybill/core/adapter';
import { hopOf } from './delay.ts';
import type { Leases } from './leases.ts';
import { deadLetterCopy, PubsubDelivery, retryCopy } from './message.ts';
import type { GroupPlace } from './names.ts';
import type { Parcel, Sender, Sent } from './sender.ts';

export interface SettlingParts {
  readonly group: GroupRef;
  readonly place: GroupPlace;
  readonly clock: Clock;
  readonly leases: Leases;
  readonly sender: Sender;
  /** Whether the broker says so when an ack came too late: it does with exactly-once delivery. */
  readonly confirmsAcks: boolean;
  /** Whether this delivery is of the subscription as it stands now. */
  readonly lives: (delivery: PubsubDelivery) => boolean;
  /** Looks whether the dead letters stand, and makes them where that is ours to do; what is wrong when they do not. */
  readonly deadLettersStand: () => Promise<WaybillError | undefined>;
  /** Something of the group is gone. */
  readonly missing: () => void;
}

/** One settlement of a batch, and where its result belongs. */
interface Entry {
  readonly at: number;
  readonly settlement: Settlement;
  readonly delivery: PubsubDelivery;
}

/** Seconds after which the broker hands out again what it was given back. */
const atOnce = 0;
/** With 0 the broker puts a message of an ordered key behind the others of the key, measured; with 1 it does not. */
const soonInOrder = 1;

/** What becomes of a receiver's deliveries. */
export class Settling {
  readonly #parts: SettlingParts;

  constructor(parts: SettlingParts) {
    this.#parts = parts;
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const { clock, lives, group } = this.#parts;
    const results = new Array<SettleResult>(batch.length);
    const acks: Entry[] = [];
    const retries: Entry[] = [];
    const deadLetters: Entry[] = [];
    const released: Entry[] = [];
    const now = clock.monotonic();
    for (let at = 0; at < batch.length; at++) {
      const settlement = batch[at] as Settlement;
      const { delivery, verb } = settlement;
      // The broker takes an ack that comes too late without a word, and the message comes again all the same.
      if (!(delivery instanceof PubsubDelivery) || delivery.leaseUntil <= now || !lives(delivery)) results[at] = 'lost';
      else if (verb === 'ack' || delivery.copied === copyName(settlement)) acks.push({ at, settlement, delivery });
      else if (verb === 'deadLetter') deadLetters.push({ at, settlement, delivery });
      // In order core holds what is to come again; a copy would go behind the others of its key.
      else if (verb === 'abandon' || group.topic.ordered || group.temporary)
        released.push({ at, settlement, delivery });
      else retries.push({ at, settlement, delivery });
    }
    await Promise.all([
      this.#ack(acks, results),
      this.#retry(retries, results),
      this.#deadLetter(deadLetters, results),
      this.#release(released, results),
    ]);
    return results;
  }

  async #ack(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const { clock, leases, confirmsAcks } = this.#parts;
    const bySubscription = Map.groupBy(entries, ({ delivery }) => delivery.origin.subscription);
    await Promise.all(
      [...bySubscription].map(async ([subscription, some]) => {
        const answers = await leases.acknowledge(
          subscription,
          some.map(({ delivery }) => delivery.ackId),
        );
        const now = clock.monotonic();
        for (let i = 0; i < some.length; i++) {
          const { at, delivery } = some[i] as Entry;
          // Its lease has ended on the way: whether the broker took it before or after is not told.
          const unsure = answers[i] === 'applied' && delivery.leaseUntil <= now && !confirmsAcks;
          results[at] = unsure ? 'lost' : (answers[i] as SettleResult);
        }
      }),
    );
  }

  async #retry(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    const { place, clock } = this.#parts;
    if (entries.length === 0 || place.retry === undefined) return;
    const { topic } = place.retry;
    const now = clock.now();
    await this.#copyAndAck(entries, results, ({ settlement, delivery }) => {
      const { after, attempt } = settlement as Settlement & { readonly verb: 'giveBack' };
      return { topic, message: retryCopy(delivery.message, attempt, after > 0 ? now + after : undefined) };
    });
  }

  async #deadLetter(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const { place, deadLettersStand } = this.#parts;
    const { topic } = place.deadLetters;
    // A topic takes messages also when nobody keeps them: without its subscription they would be gone.
    const problem = await deadLettersStand();
    if (problem !== undefined) {
      for (const { at } of entries) results[at] = problem;
      return;
    }
    await this.#copyAndAck(entries, results, ({ settlement, delivery }) => {
      const { details } = settlement as Settlement & { readonly verb: 'deadLetter' };
      return { topic, message: deadLetterCopy(delivery.message, details) };
    });
  }

  /** The copy first; the ack only when the broker has confirmed it (RETRY-09, DLQ-02). */
  async #copyAndAck(
    entries: readonly Entry[],
    results: SettleResult[],
    copyOf: (entry: Entry) => Parcel,
  ): Promise<void> {
    const { sender, missing } = this.#parts;
    const sent = await sender.send(entries.map(copyOf));
    const acks: Entry[] = [];
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as Entry;
      const result = sent[i] as Sent;
      if (result.status === 'stored') {
        entry.delivery.copied = copyName(entry.settlement);
        acks.push(entry);
        continue;
      }
      if (result.missing) missing();
      results[entry.at] = result.error;
    }
    await this.#ack(acks, results);
  }

  async #release(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    const { group, leases } = this.#parts;
    for (const { delivery } of entries) delivery.released = true;
    const soonest = group.topic.ordered ? soonInOrder : atOnce;
    const bySeconds = Map.groupBy(entries, ({ settlement, delivery }) => {
      const seconds = settlement.verb === 'giveBack' && settlement.after > 0 ? hopOf(settlement.after) : soonest;
      return `${seconds} ${delivery.origin.subscription}`;
    });
    await Promise.all(
      [...bySeconds].map(async ([to, some]) => {
        const at = to.indexOf(' ');
        const answers = await leases.setDeadline(
          to.slice(at + 1),
          some.map(({ delivery }) => delivery.ackId),
          Number(to.slice(0, at)),
        );
        for (let i = 0; i < some.length; i++) results[(some[i] as Entry).at] = answers[i] as SettleResult;
      }),
    );
  }
}

/** What a copy stands for. */
function copyName(settlement: Settlement): string {
  if (settlement.verb === 'giveBack') return `attempt ${settlement.attempt}`;
  return settlement.verb === 'deadLetter' ? settlement.details.entry : '';
}
