import type { Message } from '@aws-sdk/client-sqs';
import type { Clock, Delivery, Settlement, SettleResult, Source } from '@waybill/core/adapter';
import { deadLetterCopy, hopCopy, retryCopy } from './message.ts';
import { messageGroupOf } from './names.ts';
import {
  type Done,
  delaySecondsOf,
  type Handle,
  maxQueueBytes,
  maxVisibility,
  type Parcel,
  type Requests,
  settled,
} from './requests.ts';
import type { GroupPlace } from './topology.ts';

/** Milliseconds that SQS hides a message longer than we count on: for what it takes to learn of it. */
export const guard = 1_000;

/** A delivery, with what it takes to settle it. */
export interface SqsDelivery extends Delivery, Handle {
  readonly native: Message;
  /** When it was received, in `clock.monotonic()`: SQS bears no more than twelve hours from then on. */
  readonly receivedAt: number;
  /** End of the lease as renewed last. */
  until: number;
  /** Its copy (retry, dead letter) is stored: what is left of the settlement is to delete it. */
  copied: boolean;
}

export interface SettlingParts {
  readonly source: Source;
  readonly place: () => GroupPlace;
  readonly requests: Requests;
  readonly clock: Clock;
  /** Milliseconds for which SQS may still answer polls that nobody reads any more. */
  readonly deadPolls: () => number;
  /** A copy found no queue, or a delivery's own queue is gone. */
  readonly missing: () => void;
}

interface Entry {
  readonly at: number;
  readonly settlement: Settlement;
  readonly delivery: SqsDelivery;
}

interface Copy extends Entry {
  readonly parcel: Parcel;
}

/** What becomes of a receiver's deliveries. */
export class Settling {
  readonly #parts: SettlingParts;

  constructor(parts: SettlingParts) {
    this.#parts = parts;
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(batch.length);
    const acks: Entry[] = [];
    const copies: Copy[] = [];
    const shown: Entry[] = [];
    const now = this.#parts.clock.monotonic();
    for (let at = 0; at < batch.length; at++) {
      const settlement = batch[at] as Settlement;
      const entry = { at, settlement, delivery: settlement.delivery as SqsDelivery };
      // SQS takes the word of anybody who ever had the message; only the clock knows whether it is still ours.
      if (entry.delivery.until <= now) results[at] = 'lost';
      else if (settlement.verb === 'ack' || entry.delivery.copied) acks.push(entry);
      else if (settlement.verb === 'abandon' || (settlement.verb === 'giveBack' && this.#ordered)) shown.push(entry);
      else {
        const parcel = this.#parcel(entry);
        // A foreign message that fills the limit: hidden it comes again all the same, only not as its next attempt.
        if (parcel.wire.bytes > maxQueueBytes && settlement.verb === 'giveBack') shown.push(entry);
        else copies.push({ ...entry, parcel });
      }
    }
    await Promise.all([this.#delete(acks, results), this.#copyAndDelete(copies, results), this.#show(shown, results)]);
    return results;
  }

  /** Renews leases: the new end of each, `undefined` for one that is lost. */
  async extend(deliveries: readonly SqsDelivery[]): Promise<readonly (number | undefined)[]> {
    const { clock, requests, source } = this.#parts;
    const now = clock.monotonic();
    const ends = new Array<number | undefined>(deliveries.length);
    const asked: { readonly at: number; readonly delivery: SqsDelivery; readonly ms: number }[] = [];
    for (let at = 0; at < deliveries.length; at++) {
      const delivery = deliveries[at] as SqsDelivery;
      // What is left of the twelve hours.
      const left = (maxVisibility - 1) * 1_000 - (now - delivery.receivedAt) - guard;
      if (delivery.until > now && left >= 1_000) asked.push({ at, delivery, ms: Math.min(source.lease, left) });
    }
    const done = await requests.hide(
      asked.map(({ delivery }) => delivery),
      (at) => visibilityOf((asked[at] as { readonly ms: number }).ms),
    );
    for (let i = 0; i < asked.length; i++) {
      const { at, delivery, ms } = asked[i] as (typeof asked)[number];
      if (done[i] === 'applied') delivery.until = now + ms;
      else if (done[i] === 'lost' || done[i] === 'missing') delivery.until = now;
      // Where nothing is known, the lease runs on as it was.
      ends[at] = delivery.until > now ? delivery.until : undefined;
    }
    return ends;
  }

  /** Lets go of what nobody was given. Best effort. */
  async release(deliveries: readonly SqsDelivery[]): Promise<void> {
    const now = this.#parts.clock.monotonic();
    const ours = deliveries.filter(({ until }) => until > now);
    if (ours.length > 0) await this.#parts.requests.hide(ours, () => 0);
  }

  /** Sends on what waits for longer than SQS can delay it. */
  async hop(deliveries: readonly { readonly delivery: SqsDelivery; readonly left: number }[]): Promise<void> {
    const { requests, place } = this.#parts;
    const sent = await requests.send(
      place().queueUrl,
      deliveries.map(({ delivery, left }) => ({ wire: hopCopy(delivery.native), delaySeconds: delaySecondsOf(left) })),
    );
    // What was not sent stays hidden, and comes again.
    await requests.deleteCopied(deliveries.flatMap(({ delivery }, at) => (sent[at] === 'applied' ? [delivery] : [])));
  }

  get #ordered(): boolean {
    return this.#parts.source.group.topic.ordered;
  }

  async #delete(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    // A renewal meanwhile finds nothing where the delete was done, and takes the lease for lost.
    const ends = entries.map(({ delivery }) => delivery.until);
    const done = await this.#parts.requests.delete(entries.map(({ delivery }) => delivery));
    const now = this.#parts.clock.monotonic();
    for (let i = 0; i < entries.length; i++) {
      const { at, delivery } = entries[i] as Entry;
      const result = done[i] as Done;
      const until = Math.max(ends[i] as number, delivery.until);
      // A delete that came after the end of the lease is answered all the same, and may have done nothing.
      results[at] = result === 'missing' || (result === 'applied' && until + guard <= now) ? 'lost' : result;
      if (result === 'missing') this.#parts.missing();
    }
  }

  /** The copy first; the delete only when it is stored (RETRY-09, DLQ-02). */
  async #copyAndDelete(entries: readonly Copy[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const { requests, missing } = this.#parts;
    const stored: Entry[] = [];
    const sends = [...Map.groupBy(entries, (entry) => this.#destinationOf(entry))].map(async ([queueUrl, group]) => {
      const sent = await requests.send(
        queueUrl,
        group.map(({ parcel }) => parcel),
      );
      for (let i = 0; i < group.length; i++) {
        const entry = group[i] as Copy;
        const result = sent[i] as Done;
        if (result === 'applied') {
          entry.delivery.copied = true;
          stored.push(entry);
        } else {
          results[entry.at] = settled(result, `queue ${queueUrl}`);
          if (result === 'missing') missing();
        }
      }
    });
    await Promise.all(sends);
    await this.#delete(stored, results);
  }

  async #show(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const done = await this.#parts.requests.hide(
      entries.map(({ delivery }) => delivery),
      (at) => {
        const { settlement } = entries[at] as Entry;
        return settlement.verb === 'giveBack' ? Math.min(maxVisibility, Math.ceil(settlement.after / 1_000)) : 0;
      },
    );
    for (let i = 0; i < entries.length; i++) {
      const { at, delivery } = entries[i] as Entry;
      const result = done[i] as Done;
      results[at] = result === 'missing' ? 'lost' : result;
      if (results[at] === 'applied') delivery.until = 0;
    }
  }

  #destinationOf({ settlement }: Entry): string {
    const { queueUrl, deadUrl, aloneUrl } = this.#parts.place();
    // Where a queue is missing its group's own takes the copy: there it is at least not lost.
    if (settlement.verb === 'deadLetter') return deadUrl ?? queueUrl;
    return (settlement.verb === 'giveBack' && settlement.alone === true ? aloneUrl : undefined) ?? queueUrl;
  }

  #parcel({ settlement, delivery }: Entry): Parcel {
    const { native } = delivery;
    if (settlement.verb === 'deadLetter') {
      const wire = deadLetterCopy(native, settlement.details, maxQueueBytes);
      // Not by key: of a message group that has one out, SQS shows nothing more, and a look takes them all out.
      return { wire, messageGroup: this.#ordered ? messageGroupOf(settlement.details.entry) : undefined };
    }
    const { after, attempt, alone } = settlement as Settlement & { readonly verb: 'giveBack' };
    const deliverAt = after > 0 ? Math.ceil(this.#parts.clock.now() + after) : undefined;
    // A copy that such a poll gets is hidden for a whole lease.
    const clear = Math.ceil(this.#parts.deadPolls() / 1_000);
    return { wire: retryCopy(native, attempt, deliverAt, alone), delaySeconds: Math.max(delaySecondsOf(after), clear) };
  }
}

/** The seconds for which SQS is to hide what we count on for so many milliseconds. */
export function visibilityOf(ms: number): number {
  return Math.min(maxVisibility, Math.ceil((ms + guard) / 1_000));
}
