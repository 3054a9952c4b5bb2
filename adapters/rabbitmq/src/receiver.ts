import {
  type Clock,
  ConnectionError,
  type Delivery,
  LeaseLostError,
  type Logger,
  nameOfGroup,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  sleep,
  type Timer,
  type WaybillError,
} from '@waybill/core/adapter';
import { AloneQueue } from './alone-queue.ts';
import { onScratchChannel } from './channel.ts';
import type { ConfirmSender } from './confirm-sender.ts';
import type { Ending } from './delivery-channel.ts';
import { adapterName, brokerText, reply, replyCode, requestFailure } from './errors.ts';
import { LaneSharing } from './lane-sharing.ts';
import type { Link } from './link.ts';
import type { BrokerNames, GroupPlace } from './names.ts';
import { QueueReader, type RabbitDelivery, type ReaderHost } from './reader.ts';
import { Settling } from './settling.ts';
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
  readonly #settling: Settling;
  #alone: AloneQueue | undefined;
  #housekeeping: Timer | undefined;
  #repairing: Promise<void> | undefined;
  #closing = false;

  private constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.link = parts.consume;
    this.clock = parts.clock;
    this.#settling = new Settling({
      ...parts,
      readers: this.#readers,
      missing: (what) => (what === 'group' ? void this.repair() : parts.missing(what)),
      leaving: () => this.#sharing?.retire(),
    });
    const { group } = parts.source;
    if (!parts.countsDeliveries || group.topic.ordered || group.temporary) return;
    const alone = new AloneQueue(parts.place.alone, parts.consume, parts.clock, {
      lost: (error) => parts.events.lost([parts.place.alone], error),
      queueMissing: () => this.repair(),
    });
    this.#alone = alone;
    this.receiveAlone = () => alone.get();
  }

  /** Resolves once the broker counts us as a consumer. */
  static async open(parts: ReceiverParts): Promise<RabbitReceiver> {
    const receiver = new RabbitReceiver(parts);
    try {
      await receiver.#open();
    } catch (error) {
      await receiver.close();
      throw requestFailure(error, `${nameOfGroup(parts.source.group)} cannot be joined`);
    }
    return receiver;
  }

  receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    if (this.#closing || finish.aborted) return Promise.resolve([]);
    this.#sharing?.unretire();
    this.#wake();
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
    const results = await this.#settling.settle(batch);
    // Something was let go of, and somebody waits for more all the same.
    if (this.#waiter !== undefined) this.#wake();
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
    this.#upAgain(reader);
  }

  lost(reader: QueueReader, ending: Ending, handed: number): void {
    const { source, events } = this.#parts;
    const { origin, queue } = reader.options;
    const group = nameOfGroup(source.group);
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

  async queueMissing(reader: QueueReader): Promise<void> {
    const { source, events } = this.#parts;
    if (source.group.temporary) {
      const what = 'the broadcast queue was gone; what was published meanwhile does not come';
      events.positionLost(reader.options.origin.lane, what);
    }
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
    const { source, place, countsDeliveries } = this.#parts;
    const { prefetchBytes, group } = source;
    const prefetch = this.#sharing === undefined ? source.prefetch : laneWindowOf(group.topic);
    const origin = { lane: queue, counts: countsDeliveries && !group.temporary, alone: false };
    const reader = new QueueReader({ origin, queue, inOrder, given: place.given, prefetch, prefetchBytes }, this);
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
    // It may be the last one that was missed: the others are read already.
    this.#upAgain(reader);
    if (handed > 0 && !this.#closing) {
      const text = `lane ${lane} went to another member before its messages in hand were settled`;
      events.lost([lane], new LeaseLostError(text, { adapter: adapterName }));
    }
  }

  /** No longer waited for: it is open again, or somebody else's. */
  #upAgain(reader: QueueReader): void {
    if (this.#down.delete(reader) && this.#down.size === 0 && !this.#closing) this.#parts.events.restored();
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

  #wake(): void {
    for (const reader of this.#readers.values()) reader.wake();
  }

  #answer(): void {
    const waiter = this.#waiter;
    if (waiter === undefined) return;
    const ready = this.#closing ? [] : this.#collect(waiter.max);
    if (ready.length > 0 || waiter.finish.aborted || this.#closing) waiter.resolve(ready);
  }

  async #repair(): Promise<void> {
    try {
      await this.#parts.repair();
    } catch (error) {
      const failure = requestFailure(error, 'the group cannot be made again');
      // Somebody who deletes while we make it again has to come to an end first.
      const raced = replyCode(failure.cause) === reply.notFound;
      if (failure.code === 'CONFIG' && !raced) this.fail(failure);
    }
  }

  async #deleteTemporary(): Promise<void> {
    const { place, logger } = this.#parts;
    try {
      await onScratchChannel(this.link, (channel) => channel.deleteQueue(place.queues[0] as string));
    } catch (error) {
      logger.debug('rabbitmq: a broadcast queue was not deleted; the broker does it after a while', { error });
    }
  }
}

function endingText(ending: Ending, queue: string): string {
  if (ending.kind === 'cancelled') return `queue "${queue}" was deleted`;
  return ending.error === undefined ? 'the channel or its connection was closed' : brokerText(ending.error);
}
