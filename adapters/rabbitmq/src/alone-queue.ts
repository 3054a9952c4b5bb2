import { type Clock, type Delivery, LeaseLostError, type WaybillError } from '@waybill/core/adapter';
import { DeliveryChannel } from './delivery-channel.ts';
import { adapterName, requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import { RabbitDelivery } from './reader.ts';

/** In hand at once: so few that the broker's channel holds back none of their acks. */
const maxInHand = 16;

export interface AloneQueueHost {
  /** Its messages in hand are not ours any more. */
  lost(error: WaybillError): void;
  /** Makes the queue again. */
  queueMissing(): Promise<void>;
}

/**
 * The messages of a group that were set apart. They are got one by one, when a handler is free: so the broker's count
 * of deliveries counts attempts, and not what waited in a buffer when its process died (RETRY-07).
 */
export class AloneQueue {
  readonly #queue: string;
  readonly #link: Link;
  readonly #clock: Clock;
  readonly #host: AloneQueueHost;
  #channel: DeliveryChannel | undefined;
  #closed = false;

  constructor(queue: string, link: Link, clock: Clock, host: AloneQueueHost) {
    this.#queue = queue;
    this.#link = link;
    this.#clock = clock;
    this.#host = host;
  }

  /** @throws ConnectionError when the broker cannot be asked */
  async get(): Promise<Delivery | undefined> {
    if (this.#closed || !this.#link.isUp) return undefined;
    try {
      const channel = this.#channel?.alive === true ? this.#channel : await this.#open();
      if (channel.handed >= maxInHand) return undefined;
      const message = await channel.channel.get(this.#queue);
      if (message === false) return undefined;
      channel.handed++;
      const origin = { lane: this.#queue, counts: true, alone: true };
      return new RabbitDelivery(message, channel, origin, this.#clock.monotonic());
    } catch (error) {
      const failure = requestFailure(error, 'messages set apart cannot be asked for');
      if (failure.code === 'CONFIG') await this.#host.queueMissing();
      throw failure;
    }
  }

  /** Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#channel?.close();
  }

  async #open(): Promise<DeliveryChannel> {
    const channel = new DeliveryChannel(await this.#link.model.createChannel());
    this.#channel = channel;
    void channel.ended.then(() => {
      if (channel.handed === 0 || this.#closed) return;
      this.#host.lost(new LeaseLostError('the channel of messages set apart was lost', { adapter: adapterName }));
    });
    return channel;
  }
}
