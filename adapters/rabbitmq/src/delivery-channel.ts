import type { SettleResult } from '@waybill/core/adapter';
import type { Channel, Message } from 'amqplib';
import { AckWindow } from './ack-window.ts';
import { closeChannel } from './channel.ts';
import { requestFailure } from './errors.ts';

/**
 * How many acks may be under way before the queue itself is asked whether it has them. The broker's channel keeps acks
 * to itself while more than 32 of its commands wait for a quorum queue, and loses those when it ends, although it
 * answers requests meanwhile (`SOFT_LIMIT` and `unsent_commands` in its `rabbit_fifo_client`; 151 of 800 acks came back,
 * measured on 4.0). Some fewer, because one frame makes a command for each consumer whose messages it acks.
 */
const maxUnproven = 24;
const probeTag = 'waybill-probe';

/** How a quorum queue is asked whether it has our acks: by a request that it answers in its turn. */
export interface Probe {
  readonly queue: string;
  /**
   * By a consumer that joins and leaves, instead of `basic.get`: a queue with a single active consumer refuses that, and
   * every queue keeps apart what a `get` took, and puts it back in no order when the connection is lost.
   */
  readonly byConsumer: boolean;
  /** Takes the message that came along, if there was one. */
  readonly arrived: (message: Message) => void;
}

/** Why a channel can be used no more. */
export type Ending =
  | { readonly kind: 'closed'; readonly error: unknown }
  /** The broker ended the consumer: its queue was deleted, or moved. */
  | { readonly kind: 'cancelled' };

/**
 * A channel that messages are read from. Each delivery keeps its own, because a delivery tag means nothing on another
 * channel: there it would settle somebody else's message (ACK-07).
 */
export class DeliveryChannel {
  readonly channel: Channel;
  /** Resolves once; the channel's messages belong to others then. */
  readonly ended: Promise<Ending>;
  /** Messages that were handed out and are not settled. */
  handed = 0;
  #alive = true;
  readonly #window = new AckWindow();
  readonly #end: (ending: Ending) => void;
  /** As it was last set; asking for it again is our round trip. */
  #prefetch = 0;
  readonly #probe: Probe | undefined;
  /** Frames that settle, sent since the last probe began. */
  #unproven = 0;
  /** The request that will answer for what is acked now, as long as it has not begun. */
  #next: Promise<void> | undefined;
  /** The last one that was begun, or waits to begin. */
  #request: Promise<void> = Promise.resolve();

  /** @param probe absent where acks reach the queue at once: on classic queues, and where few are in hand */
  constructor(channel: Channel, probe?: Probe) {
    this.channel = channel;
    this.#probe = probe;
    const { promise, resolve } = Promise.withResolvers<Ending>();
    this.ended = promise;
    this.#end = resolve;
    let last: unknown;
    channel.on('error', (error) => {
      last = error;
    });
    channel.on('close', () => this.end({ kind: 'closed', error: last }));
  }

  get alive(): boolean {
    return this.#alive;
  }

  async prefetch(count: number): Promise<void> {
    this.#prefetch = count;
    await this.channel.prefetch(count);
  }

  /**
   * Acks, in as few frames as can be, and waits for the broker's answer to a request behind them: acks have no answer
   * of their own, and what is still in our socket is lost with this process (ACK-02). One such request is under way at
   * a time; the next one answers for all that was acked meanwhile.
   */
  async ack(tags: readonly number[]): Promise<SettleResult> {
    if (!this.#alive) return 'lost';
    try {
      const { upTo, single } = this.#window.ack(tags);
      if (upTo !== undefined) this.channel.ack(tagged(upTo), true);
      for (const tag of single) this.channel.ack(tagged(tag), false);
      this.#unproven += single.length + (upTo === undefined ? 0 : 1);
      if (this.#next === undefined) {
        this.#next = this.#request.then(() => this.#askForAnswer());
        this.#request = this.#next.catch(() => {});
      }
      await this.#next;
      return 'applied';
    } catch (error) {
      return requestFailure(error, 'the broker did not answer to acks');
    }
  }

  async #askForAnswer(): Promise<void> {
    this.#next = undefined;
    if (this.#probe !== undefined && this.#unproven > maxUnproven) await this.#prove(this.#probe);
    await this.channel.prefetch(this.#prefetch);
  }

  /**
   * Ends when the queue has answered a request behind all acks. What the broker's channel has held back it sends off
   * when it hears that the rest is done, which is before any later request.
   */
  async #prove({ queue, byConsumer, arrived }: Probe): Promise<void> {
    const frames = this.#unproven;
    const { channel } = this;
    if (byConsumer) {
      const hear = (message: Message | null): void => {
        if (message !== null) arrived(message);
      };
      await Promise.all([channel.prefetch(1), channel.consume(queue, hear, { consumerTag: probeTag })]);
      await channel.cancel(probeTag);
    } else {
      const message = await channel.get(queue);
      if (message !== false) arrived(message);
    }
    this.#unproven -= frames;
  }

  /** Gives messages back to the head of the queue, where quorum queues put them in the order of their return. */
  requeue(tags: readonly number[]): void {
    if (!this.#alive) return;
    try {
      for (const tag of [...tags].sort((a, b) => a - b)) {
        this.#window.settled(tag);
        this.channel.nack(tagged(tag), false, true);
        this.#unproven++;
      }
    } catch {
      // The channel is closing: then they go back by themselves.
    }
  }

  end(ending: Ending): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#end(ending);
  }

  /** Closes the channel; the broker puts what is not settled back at its old place. Never rejects. */
  async close(): Promise<void> {
    this.end({ kind: 'closed', error: undefined });
    await closeChannel(this.channel);
  }
}

/** amqplib takes a message where it wants a tag. */
function tagged(deliveryTag: number): Parameters<Channel['ack']>[0] {
  const fields = { deliveryTag, redelivered: false, exchange: '', routingKey: '' };
  return { fields, content: nothing, properties: noProperties };
}

const nothing = Buffer.alloc(0);
const noProperties = {} as Parameters<Channel['ack']>[0]['properties'];
