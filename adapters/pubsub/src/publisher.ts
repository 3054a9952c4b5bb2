import {
  type Clock,
  checkOptions,
  InvalidMessageError,
  type Logger,
  type OutgoingMessage,
  type SendResult,
  WaybillError,
} from '@waybill/core/adapter';
import { maxDelay } from './delay.ts';
import { requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import { toMessage } from './message.ts';
import type { BrokerNames } from './names.ts';
import type { Parcel, Sender, Sent } from './sender.ts';

/** Topics whose names are remembered; more than a service has. */
const maxRoutes = 10_000;

export interface PublisherParts {
  readonly link: Link;
  readonly sender: Sender;
  readonly names: BrokerNames;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A topic that is published to is gone. */
  readonly missing: (topic: OutgoingMessage['topic']) => void;
}

/** Core's batches as Pub/Sub messages, and the broker's answers as results. */
export class Publisher {
  readonly #parts: PublisherParts;
  /** Full names by topic. */
  readonly #routes = new Map<string, string>();

  constructor(parts: PublisherParts) {
    this.#parts = parts;
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const results = new Array<SendResult>(batch.length);
    const parcels: Parcel[] = [];
    const places: number[] = [];
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i] as OutgoingMessage;
      try {
        parcels.push(this.#parcel(message));
        places.push(i);
      } catch (error) {
        if (!WaybillError.is(error)) throw error;
        results[i] = { status: 'failed', outcome: 'not-sent', retryable: false, error };
      }
    }
    const now = this.#parts.clock.now();
    const sent = await this.#parts.sender.send(parcels);
    for (let i = 0; i < sent.length; i++) {
      const place = places[i] as number;
      results[place] = this.#result(batch[place] as OutgoingMessage, sent[i] as Sent, now);
    }
    return results;
  }

  #parcel(message: OutgoingMessage): Parcel {
    if (message.options !== undefined) checkOptions(message.options, [], 'broker.pubsub');
    if (message.deliverAt !== undefined) {
      const delay = message.deliverAt - this.#parts.clock.now();
      if (delay > maxDelay) throw new InvalidMessageError('delay', `${delay} ms is over the longest of ${maxDelay} ms`);
    }
    return { topic: this.#routeOf(message.topic.name), message: toMessage(message) };
  }

  #routeOf(topic: string): string {
    const known = this.#routes.get(topic);
    if (known !== undefined) return known;
    const route = this.#parts.names.topic(topic);
    if (this.#routes.size >= maxRoutes) this.#routes.clear();
    this.#routes.set(topic, route);
    void this.#tellUnheard(topic, route);
    return route;
  }

  #result({ topic }: OutgoingMessage, sent: Sent, now: number): SendResult {
    // The broker tells the message's id but not its publish time, by which it seeks: this is close to it.
    if (sent.status === 'stored') return { status: 'stored', position: `~${now}:${sent.messageId}` };
    if (sent.missing) this.#parts.missing(topic);
    const { outcome, retryable, error } = sent;
    return { status: 'failed', outcome, retryable, error };
  }

  /** What is published to a topic without subscription is kept for nobody (PUB-09). */
  async #tellUnheard(topic: string, route: string): Promise<void> {
    const { link, logger } = this.#parts;
    try {
      const subscriptions = await link.call((one) =>
        one.publisher.listTopicSubscriptions({ topic: route, pageSize: 1 }, { ...one.once(), autoPaginate: false }),
      );
      if (subscriptions.length > 0) return;
      logger.warn(`pubsub: no group is subscribed to topic "${topic}" yet; what is published is kept for none`);
    } catch (error) {
      logger.debug(`pubsub: ${requestFailure(error, `who reads topic "${topic}" cannot be asked`).message}`);
    }
  }
}
