import type { Channel } from 'amqplib';
import { AckWindow } from './ack-window.ts';

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

  constructor(channel: Channel) {
    this.channel = channel;
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
   * of their own, and what is still in our socket is lost with this process (ACK-02).
   */
  async ack(tags: readonly number[]): Promise<'applied' | 'lost' | 'unknown'> {
    if (!this.#alive) return 'lost';
    try {
      const { upTo, single } = this.#window.ack(tags);
      if (upTo !== undefined) this.channel.ack(tagged(upTo), true);
      for (const tag of single) this.channel.ack(tagged(tag), false);
      await this.channel.prefetch(this.#prefetch);
      return 'applied';
    } catch {
      return 'unknown';
    }
  }

  /** Gives messages back to the head of the queue, where quorum queues put them in the order of their return. */
  requeue(tags: readonly number[]): void {
    if (!this.#alive) return;
    try {
      for (const tag of [...tags].sort((a, b) => a - b)) {
        this.#window.settled(tag);
        this.channel.nack(tagged(tag), false, true);
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
    await this.channel.close().catch(() => {});
  }
}

/** amqplib takes a message where it wants a tag. */
function tagged(deliveryTag: number): Parameters<Channel['ack']>[0] {
  const fields = { deliveryTag, redelivered: false, exchange: '', routingKey: '' };
  return { fields, content: nothing, properties: noProperties };
}

const nothing = Buffer.alloc(0);
const noProperties = {} as Parameters<Channel['ack']>[0]['properties'];
