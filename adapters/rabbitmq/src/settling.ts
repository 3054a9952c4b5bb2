import type { Settlement, SettleResult, Source } from '@waybill/core/adapter';
import type { Options } from 'amqplib';
import type { ConfirmSender, Parcel, Sent } from './confirm-sender.ts';
import { delayExchange, delayRoute } from './delay.ts';
import type { DeliveryChannel } from './delivery-channel.ts';
import { reply, replyCode, unroutable } from './errors.ts';
import { deadLetterCopy, retryCopy } from './message.ts';
import { addressOf, type BrokerNames, type GroupPlace } from './names.ts';
import { type QueueReader, RabbitDelivery } from './reader.ts';

/** Where a copy goes. */
type Destination = 'delay' | 'dead letters' | 'group';

export interface SettlingParts {
  readonly source: Source;
  readonly place: GroupPlace;
  readonly names: BrokerNames;
  /** For retries and dead letters. */
  readonly copies: ConfirmSender;
  /** By lane. */
  readonly readers: ReadonlyMap<string, QueueReader>;
  /** A copy found no queue: its destination is gone. */
  readonly missing: (what: Destination) => void;
  /** Core lets go of what nobody asked for: it is about to close. */
  readonly leaving: () => void;
}

/** One settlement of a batch, and where its result belongs. */
interface Entry {
  readonly at: number;
  readonly settlement: Settlement;
  readonly delivery: RabbitDelivery;
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
    const copies: Entry[] = [];
    const abandoned: Entry[] = [];
    const { ordered } = this.#parts.source.group.topic;
    for (let at = 0; at < batch.length; at++) {
      const settlement = batch[at] as Settlement;
      const { delivery, verb } = settlement;
      if (!(delivery instanceof RabbitDelivery) || !delivery.from.alive) results[at] = 'lost';
      else if (verb === 'ack') acks.push({ at, settlement, delivery });
      // In order core holds what is to come again; a copy would go behind the others of its key.
      else if (verb === 'abandon' || (verb === 'giveBack' && ordered)) abandoned.push({ at, settlement, delivery });
      else copies.push({ at, settlement, delivery });
    }
    await Promise.all([this.#ack(acks, results), this.#copyAndAck(copies, results), this.#abandon(abandoned, results)]);
    return results;
  }

  async #ack(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const byChannel = Map.groupBy(entries, ({ delivery }) => delivery.from);
    await Promise.all([...byChannel].map(([channel, group]) => this.#ackOn(channel, group, results)));
  }

  async #ackOn(channel: DeliveryChannel, entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    const result = await channel.ack(entries.map(({ delivery }) => delivery.tag));
    for (const { at, delivery } of entries) {
      results[at] = result;
      const reader = delivery.alone ? undefined : this.#parts.readers.get(delivery.lane);
      if (reader === undefined) delivery.from.handed--;
      else reader.settled(delivery);
    }
  }

  /** The copy first; the ack only when the broker has confirmed it (RETRY-09, DLQ-02). */
  async #copyAndAck(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const sent = await this.#parts.copies.send(entries.map((entry) => this.#copyOf(entry)));
    const acks: Entry[] = [];
    const missing = new Set<Destination>();
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as Entry;
      const result = sent[i] as Sent;
      if (result.status === 'stored') {
        acks.push(entry);
        continue;
      }
      const to = destinationOf(entry.settlement);
      // Only delays have an exchange that can be gone; others fail along when the channel is closed for that.
      const gone =
        result.status === 'unroutable' || (to === 'delay' && replyCode(result.error.cause) === reply.notFound);
      if (gone) missing.add(to);
      results[entry.at] = result.status === 'unroutable' ? unroutable(to) : result.error;
    }
    for (const what of missing) this.#parts.missing(what);
    await this.#ack(acks, results);
  }

  async #abandon(entries: readonly Entry[], results: SettleResult[]): Promise<void> {
    if (entries.length === 0) return;
    const { readers, leaving } = this.#parts;
    let asked = false;
    const byReader = new Map<QueueReader, RabbitDelivery[]>();
    for (const { at, settlement, delivery } of entries) {
      results[at] = 'applied';
      const reader = delivery.alone ? undefined : readers.get(delivery.lane);
      if (reader === undefined) {
        delivery.from.requeue([delivery.tag]);
        delivery.from.handed--;
        continue;
      }
      if (reader.releasing || settlement.verb !== 'abandon') asked = true;
      const group = byReader.get(reader);
      if (group === undefined) byReader.set(reader, [delivery]);
      else group.push(delivery);
    }
    if (!asked) leaving();
    await Promise.all([...byReader].map(([reader, deliveries]) => reader.abandon(deliveries)));
  }

  #copyOf({ settlement, delivery }: Entry): Parcel {
    const { source, place, names } = this.#parts;
    const { native } = delivery;
    const common = { topic: source.group.topic.name, body: native.content };
    const mandatory = (properties: Options.Publish): Options.Publish => ({ ...properties, mandatory: true });
    if (settlement.verb === 'deadLetter') {
      const properties = mandatory(deadLetterCopy(native, settlement.details));
      return { ...common, exchange: '', routingKey: place.deadLetters, properties };
    }
    const { after, attempt, alone } = settlement as Settlement & { readonly verb: 'giveBack' };
    const properties = mandatory(retryCopy(native, attempt));
    const queue = alone === true ? place.alone : delivery.alone ? (place.queues[0] as string) : delivery.lane;
    if (after <= 0) return { ...common, exchange: '', routingKey: queue, properties };
    const { level, routingKey } = delayRoute(after, addressOf('queue', queue));
    return { ...common, exchange: delayExchange(names, level), routingKey, properties };
  }
}

function destinationOf(settlement: Settlement): Destination {
  if (settlement.verb === 'deadLetter') return 'dead letters';
  return settlement.verb === 'giveBack' && settlement.after > 0 ? 'delay' : 'group';
}
