import {
  type Clock,
  checkOptions,
  InvalidMessageError,
  type Logger,
  laneOf,
  type OutgoingMessage,
  PublishError,
  type SendResult,
} from '@waybill/core/adapter';
import type { ConfirmSender, Parcel, Sent } from './confirm-sender.ts';
import { delayExchange, delayRoute, maxDelay } from './delay.ts';
import { adapterName, reply, replyCode, requestFailure } from './errors.ts';
import { toBuffer, toProperties } from './message.ts';
import { addressOf, type BrokerNames } from './names.ts';
import type { Topology } from './topology.ts';

/** Topics whose routes are remembered; more than a service has. */
const maxRoutes = 10_000;

const stored: SendResult = { status: 'stored' };

/** What does not change from one message of a topic to the next. */
interface Route {
  readonly routingKey: string;
  /** By lane; empty for a topic without order. */
  readonly laneKeys: readonly string[];
  readonly address: string;
  /** The log has been told that nobody listens; nothing comes back to us any more. */
  unheard: boolean;
}

export interface PublisherParts {
  readonly sender: ConfirmSender;
  readonly names: BrokerNames;
  readonly topology: Topology;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Something that messages are sent to is gone. */
  readonly missing: (what: 'exchange' | 'delay') => void;
}

/** Core's batches as AMQP messages, and the broker's answers as results. */
export class Publisher {
  readonly #parts: PublisherParts;
  readonly #routes = new Map<string, Route>();

  constructor(parts: PublisherParts) {
    this.#parts = parts;
  }

  /** Lanes may have changed while we were away. */
  forgetRoutes(): void {
    this.#routes.clear();
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const results = new Array<SendResult>(batch.length);
    const parcels: Parcel[] = [];
    const places: number[] = [];
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i] as OutgoingMessage;
      try {
        const route = this.#routes.get(message.topic.name) ?? (await this.#learn(message.topic));
        parcels.push(this.#parcel(message, route));
        places.push(i);
      } catch (cause) {
        const error = requestFailure(cause, `topic "${message.topic.name}" cannot be published to`);
        results[i] = { status: 'failed', outcome: 'not-sent', retryable: error.code === 'CONNECTION', error };
      }
    }
    const sent = await this.#parts.sender.send(parcels);
    for (let i = 0; i < sent.length; i++) {
      const place = places[i] as number;
      results[place] = this.#result(batch[place] as OutgoingMessage, parcels[i] as Parcel, sent[i] as Sent);
    }
    return results;
  }

  async #learn(topic: OutgoingMessage['topic']): Promise<Route> {
    const { names, topology } = this.#parts;
    const lanes = topic.ordered ? await topology.lanesOf(topic) : 0;
    const route: Route = {
      routingKey: names.routingKey(topic.name),
      laneKeys: Array.from({ length: lanes }, (_, lane) => names.laneKey(topic.name, lane)),
      address: addressOf('topic', topic.name),
      unheard: false,
    };
    if (this.#routes.size >= maxRoutes) this.#routes.clear();
    this.#routes.set(topic.name, route);
    return route;
  }

  #parcel(message: OutgoingMessage, route: Route): Parcel {
    const { names, clock } = this.#parts;
    const { topic, key } = message;
    if (message.options !== undefined) checkOptions(message.options, [], 'broker.rabbitmq');
    const properties = toProperties(message);
    const common = { topic: topic.name, body: toBuffer(message.body), properties };
    const delay = message.deliverAt === undefined ? 0 : message.deliverAt - clock.now();
    if (delay > 0) {
      if (delay > maxDelay) throw new InvalidMessageError('delay', `${delay} ms is over the longest of ${maxDelay} ms`);
      const { level, routingKey } = delayRoute(delay, route.address);
      properties.mandatory = true;
      return { ...common, exchange: delayExchange(names, level), routingKey };
    }
    properties.mandatory = !route.unheard;
    const { laneKeys } = route;
    const laneKey = key === undefined || laneKeys.length === 0 ? undefined : laneKeys[laneOf(key, laneKeys.length)];
    return { ...common, exchange: names.topics, routingKey: laneKey ?? route.routingKey };
  }

  #result(message: OutgoingMessage, parcel: Parcel, sent: Sent): SendResult {
    const { names, logger, missing } = this.#parts;
    if (sent.status === 'stored') return stored;
    const delayed = parcel.exchange !== names.topics;
    if (sent.status === 'failed') {
      if (replyCode(sent.error.cause) === reply.notFound) missing(delayed ? 'delay' : 'exchange');
      return sent;
    }
    if (delayed) {
      missing('delay');
      return {
        status: 'failed',
        outcome: 'not-sent',
        retryable: true,
        error: new PublishError(`topic "${message.topic.name}": a delay level is missing on the broker`, {
          adapter: adapterName,
          outcome: 'not-sent',
        }),
      };
    }
    const route = this.#routes.get(message.topic.name);
    if (route !== undefined && !route.unheard) {
      route.unheard = true;
      logger.warn(
        `rabbitmq: no group is subscribed to topic "${message.topic.name}" yet; what is published is dropped`,
      );
    }
    return stored;
  }
}
