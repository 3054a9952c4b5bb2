import {
  type Clock,
  ConnectionError,
  type Delivery,
  LeaseLostError,
  type Logger,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  sleep,
  type Timer,
  type WaybillError,
} from '@waybill/core/adapter';
import type { Channel, Options } from 'amqplib';
import type { ConfirmSender, Parcel, Sent } from './confirm-sender.ts';
import { delayExchange, delayRoute } from './delay.ts';
import { DeliveryChannel, type Ending } from './delivery-channel.ts';
import { adapterName, brokerText, requestFailure, textOf } from './errors.ts';
import { LaneSharing } from './lane-sharing.ts';
import type { Link } from './link.ts';
import { deadLetterCopy, retryCopy } from './message.ts';
import { addressOf, type BrokerNames, type GroupPlace } from './names.ts';
import { QueueReader, RabbitDelivery, type ReaderHost } from './reader.ts';
import { laneWindowOf } from './topology.ts';

/** Milliseconds in which the broker has to answer when a receiver leaves; without an answer it finds out by itself. */
const closePatience = 3_000;

export interface ReceiverParts {
  readonly source: Source;
  readonly events: ReceiverEvents;
  readonly place: GroupPlace;
  readonly consume: Link;
  readonly publish: Link;
  /** For retries and dead letters. */
  readonly copies: ConfirmSender;
  readonly names: BrokerNames;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly countsDeliveries: boolean;
  /** Milliseconds that a message may wait here before a handler has it. */
  readonly longestWait: number;
  /** Makes the group again after something of it was deleted. @throws ConfigError where that is not ours to do */
  readonly repair: () => Promise<void>;
  /** A copy found no queue: its destination is gone. */
  readonly missing: (what: 'delay' | 'dead letters') => void;
  readonly closed: (receiver: RabbitReceiver) => void;
}

interface Waiter {
  readonly max: number;
  readonly finish: AbortSignal;
  resolve(deliveries: readonly Delivery[]): void;
}

/** One member of a group: a reader per queue it reads, and what becomes of their messages. */
export class RabbitReceiver implements Receiver, ReaderHost {
  readonly link: Link;
  readonly clock: Clock;
  readonly receiveAlone?: () => Promise<Delivery | undefined>;
  readonly #parts: ReceiverParts;
  readonly #readers = new Map<string, QueueReader>();
  /** Readers that have lost their channel and not got another yet. */
  readonly #down = new Set<QueueReader>();
  #sharing: LaneSharing | undefined;
  #waiter: Waiter | undefined;
  #looking = false;
  #turn = 0;
  #alone: DeliveryChannel | undefined;
  #housekeeping: Timer | undefined;
  #repairing: Promise<void> | undefined;
  #closing = false;

  private constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.link = parts.consume;
    this.clock = parts.clock;
    const { topic, temporary } = parts.source.group;
    if (parts.countsDeliveries && !topic.ordered && !temporary) this.receiveAlone = () => this.#receiveAlone();
  }

  /** Resolves once the broker counts us as a consumer. */
  static async open(parts: ReceiverParts): Promise<RabbitReceiver> {
    const receiver = new RabbitReceiver(parts);
    try {
      await receiver.#open();
    } catch (error) {
      await receiver.close();
      const { topic, name } = parts.source.group;
      throw requestFailure(error, `group "${name}" of topic "${topic.name}" cannot be joined`);
    }
    return receiver;
  }

  receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    if (this.#closing || finish.aborted) return Promise.resolve([]);
    this.#sharing?.unretire();
    for (const reader of this.#readers.values()) reader.wake();
    const ready = this.#collect(max);
    if (ready.length > 0) return Promise.resolve(ready);
    return new Promise((resolve) => {
      const done = (): void => this.#answer();
      finish.addEventListener('abort', done, { once: true });
      this.#waiter = {
        max,
        finish,
        resolve: (deliveries) => {
          finish.removeEventListener('abort', done);
          this.#waiter = undefined;
          resolve(deliveries);
        },
      };
    });
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(batch.length);
    const acks: number[] = [];
    const copies: { readonly at: number; readonly parcel: Parcel }[] = [];
    const abandoned: number[] = [];
    for (let i = 0; i < batch.length; i++) {
      const { delivery, verb } = batch[i] as Settlement;
      if (!(delivery instanceof RabbitDelivery) || !delivery.from.alive) results[i] = 'lost';
      else if (verb === 'ack') acks.push(i);
      else if (verb === 'abandon') abandoned.push(i);
      else copies.push({ at: i, parcel: this.#copyOf(batch[i] as Settlement, delivery) });
    }
    await Promise.all([
      this.#ack(batch, acks, results),
      this.#copyAndAck(batch, copies, results),
      this.#abandon(batch, abandoned, results),
    ]);
    return results;
  }

  pauseLane(lane: string): void {
    const reader = this.#readers.get(lane);
    if (reader !== undefined) reader.paused = true;
  }

  resumeLane(lane: string): void {
    const reader = this.#readers.get(lane);
    if (reader === undefined) return;
    reader.paused = false;
    this.arrived();
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#housekeeping?.cancel();
    this.#waiter?.resolve([]);
    const patience = new AbortController();
    await Promise.race([this.#leave(), sleep(this.clock, closePatience, patience.signal)]);
    patience.abort();
    this.#parts.closed(this);
  }

  /** The group cannot be read any more: the subscription ends. */
  fail(error: WaybillError): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#parts.events.failed(error);
  }

  /** Makes the group again; only ends the receiver where that cannot be done. */
  repair(): Promise<void> {
    this.#repairing ??= this.#repair().finally(() => {
      this.#repairing = undefined;
    });
    return this.#repairing;
  }

  // ReaderHost

  arrived(): void {
    if (this.#waiter === undefined || this.#looking) return;
    this.#looking = true;
    // What came in the same piece from the socket goes along.
    queueMicrotask(() => {
      this.#looking = false;
      this.#answer();
    });
  }

  opened(reader: QueueReader): void {
    this.#parts.events.assigned([reader.options.origin.lane]);
    if (this.#down.delete(reader) && this.#down.size === 0) this.#parts.events.restored();
  }

  lost(reader: QueueReader, ending: Ending, handed: number): void {
    const { source, events } = this.#parts;
    const { origin, queue } = reader.options;
    const group = `group "${source.group.name}" of topic "${source.group.topic.name}"`;
    const why = endingText(ending, queue);
    if (handed > 0) {
      const what = `${group}: the messages in hand went back to the broker: ${why}`;
      events.lost([origin.lane], new LeaseLostError(what, { adapter: adapterName }));
    }
    // Closed by ourselves, to open again at once.
    if (ending.kind === 'closed' && ending.error === undefined && this.link.isUp) return;
    const wasUp = this.#down.size === 0;
    this.#down.add(reader);
    if (wasUp) events.interrupted(new ConnectionError(`${group} cannot be read: ${why}`, { adapter: adapterName }));
  }

  async queueMissing(): Promise<void> {
    await this.repair();
  }

  async #open(): Promise<void> {
    const { source, place, consume, publish, names, clock, logger, longestWait } = this.#parts;
    const lanes = place.queues;
    if (source.group.topic.ordered && !source.group.temporary) {
      this.#sharing = new LaneSharing({
        consume,
        publish,
        names,
        groupKey: names.membersKey(source.group),
        lanes: lanes.length,
        clock,
        logger,
        open: (lane) => this.#openReader(lanes[lane] as string, true),
        release: (lane) => this.#releaseLane(lanes[lane] as string),
      });
      await this.#sharing.start();
    } else {
      await this.#openReader(lanes[0] as string, source.group.topic.ordered);
    }
    const tidy = (): void => {
      for (const reader of this.#readers.values()) reader.giveBackOlderThan(longestWait / 2);
      this.#housekeeping = clock.setTimeout(tidy, longestWait / 4);
    };
    this.#housekeeping = clock.setTimeout(tidy, longestWait / 4);
  }

  async #openReader(queue: string, inOrder: boolean): Promise<void> {
    if (this.#closing) return;
    const { source, countsDeliveries } = this.#parts;
    const { prefetchBytes, group } = source;
    const prefetch = this.#sharing === undefined ? source.prefetch : laneWindowOf(group.topic);
    const origin = { lane: queue, counts: countsDeliveries && !group.temporary, alone: false };
    const reader = new QueueReader({ origin, queue, inOrder, prefetch, prefetchBytes }, this);
    this.#readers.set(queue, reader);
    try {
      await reader.start();
    } catch (error) {
      this.#readers.delete(queue);
      throw error;
    }
  }

  /** Hands a lane over: nothing of it starts any more, what runs may finish, and the rest goes back in order. */
  async #releaseLane(lane: string): Promise<void> {
    const { source, events } = this.#parts;
    const reader = this.#readers.get(lane);
    if (reader === undefined || this.#closing) return;
    reader.releasing = true;
    await events.revoking([lane], source.lease);
    const { handed } = reader;
    await reader.stop();
    this.#readers.delete(lane);
    this.#down.delete(reader);
    if (handed > 0 && !this.#closing) {
      const text = `lane ${lane} went to another member before its messages in hand were settled`;
      events.lost([lane], new LeaseLostError(text, { adapter: adapterName }));
    }
  }

  async #leave(): Promise<void> {
    // The lanes first: who takes them over finds them free.
    await Promise.all([...this.#readers.values()].map((reader) => reader.stop()));
    await this.#sharing?.stop();
    await this.#alone?.close();
    if (this.#parts.source.group.temporary && this.link.isUp) await this.#deleteTemporary();
  }

  #collect(max: number): RabbitDelivery[] {
    const ready: RabbitDelivery[] = [];
    const readers = [...this.#readers.values()];
    // Another one begins each time, so that no lane starves the others.
    const first = readers.length === 0 ? 0 : this.#turn++ % readers.length;
    for (let i = 0; i < readers.length && ready.length < max; i++) {
      readers[(first + i) % readers.length]?.take(max - ready.length, ready);
    }
    return ready;
  }

  #answer(): void {
    const waiter = this.#waiter;
    if (waiter === undefined) return;
    const ready = this.#closing ? [] : this.#collect(waiter.max);
    if (ready.length > 0 || waiter.finish.aborted || this.#closing) waiter.resolve(ready);
  }

  async #ack(batch: readonly Settlement[], at: readonly number[], results: SettleResult[]): Promise<void> {
    if (at.length === 0) return;
    const byChannel = new Map<DeliveryChannel, number[]>();
    for (const i of at) {
      const { from } = (batch[i] as Settlement).delivery as RabbitDelivery;
      const group = byChannel.get(from);
      if (group === undefined) byChannel.set(from, [i]);
      else group.push(i);
    }
    await Promise.all(
      [...byChannel].map(async ([channel, group]) => {
        const deliveries = group.map((i) => (batch[i] as Settlement).delivery as RabbitDelivery);
        const result = await channel.ack(deliveries.map(({ tag }) => tag));
        for (const i of group) results[i] = result;
        for (const delivery of deliveries) this.#settled(delivery);
      }),
    );
  }

  /** The copy first; the ack only when the broker has confirmed it (RETRY-09, DLQ-02). */
  async #copyAndAck(
    batch: readonly Settlement[],
    copies: readonly { readonly at: number; readonly parcel: Parcel }[],
    results: SettleResult[],
  ): Promise<void> {
    if (copies.length === 0) return;
    const sent = await this.#parts.copies.send(copies.map(({ parcel }) => parcel));
    const acks: number[] = [];
    for (let i = 0; i < copies.length; i++) {
      const { at } = copies[i] as (typeof copies)[number];
      const result = sent[i] as Sent;
      if (result.status === 'stored') acks.push(at);
      else if (result.status === 'unroutable') {
        this.#copyHasNoPlace(batch[at] as Settlement);
        results[at] = 'retryable';
      } else {
        results[at] = result.outcome === 'unknown' ? 'unknown' : 'retryable';
        this.#parts.logger.debug(`rabbitmq: ${result.error.message}`);
      }
    }
    await this.#ack(batch, acks, results);
  }

  #copyHasNoPlace(settlement: Settlement): void {
    if (settlement.verb === 'deadLetter') this.#parts.missing('dead letters');
    else if (settlement.verb === 'giveBack' && settlement.after > 0) this.#parts.missing('delay');
    else void this.repair();
  }

  async #abandon(batch: readonly Settlement[], at: readonly number[], results: SettleResult[]): Promise<void> {
    if (at.length === 0) return;
    const byReader = new Map<QueueReader, RabbitDelivery[]>();
    let keepsShare = false;
    for (const i of at) {
      results[i] = 'applied';
      const delivery = (batch[i] as Settlement).delivery as RabbitDelivery;
      const reader = this.#readers.get(delivery.lane);
      if (delivery.alone || reader === undefined) {
        delivery.from.requeue([delivery.tag]);
        continue;
      }
      if (reader.releasing) keepsShare = true;
      const group = byReader.get(reader);
      if (group === undefined) byReader.set(reader, [delivery]);
      else group.push(delivery);
    }
    // Core lets go of a lane's messages when the lane is asked for, or when it is about to close.
    if (!keepsShare) this.#sharing?.retire();
    await Promise.all([...byReader].map(([reader, deliveries]) => reader.abandon(deliveries)));
    // Somebody waits all the same: it was not the end.
    if (this.#waiter !== undefined) for (const reader of byReader.keys()) reader.wake();
  }

  #settled(delivery: RabbitDelivery): void {
    if (delivery.alone) return;
    const reader = this.#readers.get(delivery.lane);
    if (reader === undefined) delivery.from.handed--;
    else reader.settled(delivery);
  }

  #copyOf(settlement: Settlement, delivery: RabbitDelivery): Parcel {
    const { source, place, names } = this.#parts;
    const topic = source.group.topic.name;
    const { native } = delivery;
    const common = { topic, body: native.content };
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

  async #receiveAlone(): Promise<Delivery | undefined> {
    if (this.#closing || !this.link.isUp) return undefined;
    const { place, source, events } = this.#parts;
    try {
      let channel = this.#alone;
      if (channel?.alive !== true) {
        channel = new DeliveryChannel(await this.link.model.createChannel());
        this.#alone = channel;
        const opened = channel;
        void channel.ended.then(() => {
          if (opened.handed === 0 || this.#closing) return;
          const text = `group "${source.group.name}" of topic "${source.group.topic.name}": the channel was lost`;
          events.lost([place.alone], new LeaseLostError(text, { adapter: adapterName }));
        });
      }
      const message = await channel.channel.get(place.alone);
      if (message === false) return undefined;
      channel.handed++;
      const origin = { lane: place.alone, counts: true, alone: true };
      return new RabbitDelivery(message, channel, origin, this.clock.monotonic());
    } catch (error) {
      const failure = requestFailure(error, `messages set apart of group "${source.group.name}"`);
      if (failure.code === 'CONFIG') await this.repair();
      throw failure;
    }
  }

  async #repair(): Promise<void> {
    try {
      await this.#parts.repair();
    } catch (error) {
      const failure = requestFailure(error, 'the group cannot be made again');
      if (failure.code === 'CONFIG') this.fail(failure);
    }
  }

  async #deleteTemporary(): Promise<void> {
    const { place, logger } = this.#parts;
    try {
      const channel: Channel = await this.link.model.createChannel();
      channel.on('error', () => {});
      await channel.deleteQueue(place.queues[0] as string);
      await channel.close();
    } catch (error) {
      logger.debug('rabbitmq: a broadcast queue was not deleted; the broker does it after a while', { error });
    }
  }
}

function endingText(ending: Ending, queue: string): string {
  if (ending.kind === 'cancelled') return `queue "${queue}" was deleted`;
  return ending.error === undefined ? 'the channel or its connection was closed' : brokerText(textOf(ending.error));
}
