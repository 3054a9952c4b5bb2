import { backOff, type Clock, type Delivery, Fifo, sleep } from '@waybill/core/adapter';
import type { ChannelModel, Message } from 'amqplib';
import { DeliveryChannel, type Ending } from './delivery-channel.ts';
import { reply, replyCode } from './errors.ts';
import type { Link } from './link.ts';
import { type Content, deliveriesOf, fromMessage } from './message.ts';

const reopenDelay = { initial: 50, max: 5_000 };

/** What is asked for before anything is known about the size of messages, where it can be raised later. */
const firstCredit = 8;

/** Where a message was read. */
export interface Origin {
  readonly lane: string;
  /** Whether its queue counts deliveries. */
  readonly counts: boolean;
  /** Whether it was set apart. */
  readonly alone: boolean;
}

/** A message in this member's hands, with the channel it must be settled on. */
export class RabbitDelivery implements Delivery {
  readonly lane: string;
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
  readonly attempt: number;
  readonly deliveries: number | undefined;
  readonly alone: boolean;
  readonly position: string | undefined;
  readonly native: Message;
  readonly from: DeliveryChannel;
  readonly tag: number;
  /** Monotonic milliseconds. */
  readonly arrivedAt: number;

  constructor(message: Message, from: DeliveryChannel, origin: Origin, arrivedAt: number) {
    const content: Content = fromMessage(message);
    this.lane = origin.lane;
    this.id = content.id;
    this.key = content.key;
    this.type = content.type;
    this.contentType = content.contentType;
    this.body = content.body;
    this.headers = content.headers;
    this.publishedAt = content.publishedAt;
    this.expiresAt = content.expiresAt;
    this.attempt = content.attempt;
    this.deliveries = origin.counts ? deliveriesOf(message) : undefined;
    this.alone = origin.alone;
    this.position = content.position;
    this.native = message;
    this.from = from;
    this.tag = message.fields.deliveryTag;
    this.arrivedAt = arrivedAt;
  }
}

export interface ReaderOptions {
  readonly origin: Origin;
  readonly queue: string;
  /**
   * Whether order is kept by being the queue's single active consumer. Such a consumer may not be cancelled while its
   * messages are in hand: the next one would get the later ones at once. So it only ever lets go of all.
   */
  readonly inOrder: boolean;
  /** Whether the queue was made by the user, who may have given it a single active consumer all the same. */
  readonly given: boolean;
  /** Most messages that are ours and unsettled; in order it stays at that from the first to the last. */
  readonly prefetch: number;
  /** Most bytes of bodies ahead of `take`, not heeded in order; one message may always be there. */
  readonly prefetchBytes: number;
}

/** What a reader asks of its receiver. */
export interface ReaderHost {
  readonly link: Link;
  readonly clock: Clock;
  /** There is something to take. */
  arrived(): void;
  opened(reader: QueueReader): void;
  /** Its messages are not ours any more. `handed`: how many of them had been taken and were not settled. */
  lost(reader: QueueReader, ending: Ending, handed: number): void;
  /** Its queue does not exist: makes it again, or ends the receiver and resolves all the same. */
  queueMissing(reader: QueueReader): Promise<void>;
}

/**
 * Reads one queue, on a channel of its own, for as long as it is told to: over lost channels, lost connections and
 * deleted queues. What arrives waits here until it is taken; prefetch bounds it.
 */
export class QueueReader {
  readonly options: ReaderOptions;
  readonly #host: ReaderHost;
  readonly #stopping = new AbortController();
  readonly #buffer = new Fifo<RabbitDelivery>();
  #bytes = 0;
  #channel: DeliveryChannel | undefined;
  #running: Promise<void> | undefined;
  readonly #firstOpen = Promise.withResolvers<void>();
  /** Hands out nothing for the time being. */
  paused = false;
  /** Hands out nothing any more: it is about to be stopped. */
  releasing = false;
  /** In order: hands out nothing until all is settled, to open again. */
  #renewing = false;
  #averageBytes: number | undefined;
  #credit: number;
  #wanted: number;
  #consuming = 0;
  #adjusting: Promise<void> | undefined;
  #consumers = 0;
  /** Tags to give back once the consumer is cancelled. */
  #returning: number[] = [];
  /** What waits here goes back with them. */
  #returnsAll = false;

  constructor(options: ReaderOptions, host: ReaderHost) {
    this.options = options;
    this.#host = host;
    this.#credit = options.inOrder ? options.prefetch : Math.min(options.prefetch, firstCredit);
    this.#wanted = this.#credit;
  }

  /**
   * Resolves when the broker counts us as a consumer, or when stopped before that; from then on it opens again by
   * itself.
   *
   * @throws what the broker says against it; then it has ended
   */
  start(): Promise<void> {
    this.#running ??= this.#keepOpen();
    return this.#firstOpen.promise;
  }

  /** Messages that were taken and are not settled. */
  get handed(): number {
    return this.#channel?.handed ?? 0;
  }

  take(max: number, into: RabbitDelivery[]): void {
    if (this.paused || this.releasing || this.#renewing) return;
    // Its end may have come in the same piece from the socket: what waits here belongs to others already (GUAR-02).
    if (this.#channel?.alive !== true) return;
    for (let left = max; left > 0; left--) {
      const delivery = this.#buffer.shift();
      if (delivery === undefined) break;
      this.#bytes -= delivery.body.byteLength;
      delivery.from.handed++;
      into.push(delivery);
    }
    if (this.#wanted === 0 && !this.options.inOrder && this.#bytes <= this.options.prefetchBytes / 2) this.wake();
  }

  /** Reads on, where `abandon` or too many bytes had stopped it. */
  wake(): void {
    if (this.options.inOrder || this.#wanted > 0 || this.#bytes > this.options.prefetchBytes / 2) return;
    this.#wanted = this.#credit;
    this.#adjust();
  }

  /**
   * Lets go of messages that were taken. Without order everything goes back, what waits here included, and nothing is
   * read until `wake`: the broker would hand it to us again at once. In order they only return to their place here,
   * because the ones behind them are here; closing gives all back.
   */
  async abandon(deliveries: readonly RabbitDelivery[]): Promise<void> {
    const channel = this.#channel;
    const ours = deliveries.filter(({ from }) => from === channel && from.alive);
    if (channel === undefined || ours.length === 0) return;
    channel.handed -= ours.length;
    if (this.options.inOrder) {
      const sorted = [...ours, ...this.#emptyBuffer()].sort((a, b) => a.tag - b.tag);
      for (const delivery of sorted) this.#keep(delivery);
      this.#renewWhenFree(channel);
      this.#host.arrived();
    } else {
      for (const { tag } of ours) this.#returning.push(tag);
      this.#returnAll();
      await this.#adjusting;
    }
  }

  /** A delivery of ours was settled. */
  settled(delivery: RabbitDelivery): void {
    delivery.from.handed--;
    if (delivery.from === this.#channel) this.#renewWhenFree(delivery.from);
  }

  /**
   * Gives back what has waited here for longer than this many milliseconds: the broker counts the time from the
   * delivery on, and a handler needs its share of it.
   */
  giveBackOlderThan(ms: number): void {
    const oldest = this.#buffer.peek();
    if (oldest === undefined || this.#host.clock.monotonic() - oldest.arrivedAt <= ms) return;
    if (this.options.inOrder) this.#renew();
    else this.#returnAll();
  }

  /** Leaves the queue; what is unsettled goes back to its old place. Never rejects. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#channel?.close();
    await this.#running;
  }

  async #keepOpen(): Promise<void> {
    const { link, clock } = this.#host;
    const { signal } = this.#stopping;
    let opened = false;
    for (let failures = 0; !signal.aborted; ) {
      const model = await link.whenUp(signal);
      if (model === undefined) break;
      let ending: Ending;
      try {
        const channel = await this.#open(model);
        if (signal.aborted) await channel.close();
        failures = 0;
        opened = true;
        this.#firstOpen.resolve();
        this.#host.opened(this);
        ending = await channel.ended;
        await this.#let(channel, ending);
      } catch (error) {
        if (!opened) {
          this.#firstOpen.reject(error);
          return;
        }
        ending = { kind: 'closed', error };
        // It may have been closed in good order before, to open again: nobody knows yet that it cannot.
        if (!signal.aborted) this.#host.lost(this, ending, 0);
      }
      if (signal.aborted) break;
      if (ending.kind === 'cancelled' || replyCode(ending.error) === reply.notFound) {
        await this.#host.queueMissing(this);
        await sleep(clock, backOff(++failures, reopenDelay), signal);
      } else if (link.isUp && ending.error !== undefined) {
        await sleep(clock, backOff(++failures, reopenDelay), signal);
      }
    }
    this.#firstOpen.resolve();
  }

  async #open(model: ChannelModel): Promise<DeliveryChannel> {
    const { origin, queue, inOrder, given } = this.options;
    const arrived = (message: Message): void => {
      // All was let go of, for others. Where only bytes are too many one more is kept: each return of it is counted.
      const letGo = this.#wanted === 0 && (this.#returnsAll || this.#buffer.size === 0);
      if (letGo) channel.requeue([message.fields.deliveryTag]);
      else this.#arrive(channel, message);
    };
    const channel: DeliveryChannel = new DeliveryChannel(
      await model.createChannel(),
      origin.counts ? { queue, byConsumer: inOrder || given, arrived } : undefined,
    );
    this.#channel = channel;
    this.#renewing = false;
    this.#wanted = this.#credit;
    this.#consuming = 0;
    try {
      await this.#consume(channel, this.#wanted);
    } catch (error) {
      await channel.close();
      throw error;
    }
    return channel;
  }

  /** Forgets a channel that has ended, with all that came from it. */
  async #let(channel: DeliveryChannel, ending: Ending): Promise<void> {
    const { handed } = channel;
    this.#emptyBuffer();
    this.#returning = [];
    this.#returnsAll = false;
    this.#consuming = 0;
    if (ending.kind === 'cancelled') await channel.close();
    if (!this.#stopping.signal.aborted) this.#host.lost(this, ending, handed);
  }

  /** Messages come before this resolves, and can change what is wanted; so what it does is noted before. */
  async #consume(channel: DeliveryChannel, credit: number): Promise<void> {
    this.#consuming = credit;
    const consumerTag = this.#tag(++this.#consumers);
    const hear = (message: Message | null): void => {
      if (message === null) channel.end({ kind: 'cancelled' });
      else this.#arrive(channel, message);
    };
    await Promise.all([channel.prefetch(credit), channel.channel.consume(this.options.queue, hear, { consumerTag })]);
  }

  #tag(consumer: number): string {
    return `waybill-${consumer}`;
  }

  #arrive(channel: DeliveryChannel, message: Message): void {
    if (channel !== this.#channel || !channel.alive) return;
    const { clock } = this.#host;
    this.#keep(new RabbitDelivery(message, channel, this.options.origin, clock.monotonic()));
    this.#weigh(message.content.length);
    this.#host.arrived();
  }

  /**
   * Chooses how much to ask for, by the size of what came lately. The broker counts only messages, and what it has
   * sent off comes in any case, so the bound in bytes is kept on the average.
   */
  #weigh(size: number): void {
    const { prefetch, prefetchBytes, inOrder } = this.options;
    if (inOrder) return;
    this.#averageBytes =
      this.#averageBytes === undefined ? size : this.#averageBytes + (size - this.#averageBytes) / 16;
    const fitting = Math.max(1, Math.min(prefetch, Math.floor(prefetchBytes / Math.max(1, this.#averageBytes))));
    if (this.#bytes > prefetchBytes && this.#buffer.size > 1) {
      this.#credit = Math.min(this.#credit, fitting);
      this.#wanted = 0;
      this.#adjust();
    } else if (this.#credit < fitting / 2 && this.#buffer.size + this.handed >= this.#credit) {
      this.#credit = fitting;
      if (this.#wanted > 0) this.#wanted = this.#credit;
      this.#adjust();
    }
  }

  #returnAll(): void {
    this.#wanted = 0;
    this.#returnsAll = true;
    this.#adjust();
  }

  /** In order: opens again as soon as nothing is in hand. */
  #renew(): void {
    this.#renewing = true;
    if (this.#channel !== undefined) this.#renewWhenFree(this.#channel);
  }

  #renewWhenFree(channel: DeliveryChannel): void {
    if (this.#renewing && channel.handed === 0) void channel.close();
  }

  /** Brings the consumer to what is wanted, one step after the other. */
  #adjust(): void {
    const channel = this.#channel;
    if (channel === undefined || !this.#isToAdjust(channel)) return;
    this.#adjusting ??= this.#step(channel).then((done) => {
      this.#adjusting = undefined;
      // What is wanted may have changed since its last look.
      if (done || channel !== this.#channel) this.#adjust();
    });
  }

  #isToAdjust(channel: DeliveryChannel): boolean {
    return channel.alive && (this.#consuming !== this.#wanted || this.#returnsAll);
  }

  /** @returns false when the channel has ended: then everything goes back by itself */
  async #step(channel: DeliveryChannel): Promise<boolean> {
    try {
      while (this.#isToAdjust(channel)) {
        if (this.#consuming > 0) await channel.channel.cancel(this.#tag(this.#consumers));
        this.#consuming = 0;
        if (this.#returnsAll) {
          channel.requeue([...this.#returning, ...this.#emptyBuffer().map(({ tag }) => tag)]);
          this.#returning = [];
          this.#returnsAll = false;
        }
        if (this.#wanted > 0) await this.#consume(channel, this.#wanted);
      }
      return true;
    } catch {
      return false;
    }
  }

  #keep(delivery: RabbitDelivery): void {
    this.#buffer.push(delivery);
    this.#bytes += delivery.body.byteLength;
  }

  #emptyBuffer(): RabbitDelivery[] {
    this.#bytes = 0;
    return this.#buffer.takeWhere(() => true);
  }
}
