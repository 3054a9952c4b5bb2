import { type Clock, ConfigError, type Logger, type Position } from '@waybill/core/adapter';
import { adapterName, isNotFound, requestFailure, status, statusOf, textOf } from './errors.ts';
import type { Link } from './link.ts';
import { limits, type PubsubMessage, type ReceivedMessage, storedAt } from './message.ts';
import type { BrokerNames } from './names.ts';
import { noAnswer, pull } from './pull.ts';
import { ignoreMissing, type Topology } from './topology.ts';

/** Milliseconds after which an empty subscription has to say so; the emulator does a second before. */
const emptyWait = 1_300;
/** Milliseconds: the clocks of publishers and of the broker differ by less, as a rule. */
const skews = [5_000, 60_000] as const;
/** Milliseconds that any topic can keep its messages. */
const longestRetention = 31 * 86_400_000;

/** What is looked at is asked after each message whether to go on. */
export type Visit = (received: ReceivedMessage) => boolean;

/** Where a subscription can be moved to. */
export type Target = { readonly snapshot: string } | { readonly time: Timestamp };

interface Timestamp {
  readonly seconds: number;
  readonly nanos: number;
}

export interface SurveyParts {
  readonly link: Link;
  readonly names: BrokerNames;
  readonly topology: Topology;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Looks into subscriptions without taking anything from them. Pub/Sub tells no numbers and shows nothing; but a
 * snapshot of a subscription can be read through another one, which nobody else knows of.
 */
export class Survey {
  readonly #parts: SurveyParts;

  constructor(parts: SurveyParts) {
    this.#parts = parts;
  }

  /** Visits what a subscription has not settled, in hands or not. Rejects with the broker's error. */
  async visit(subscription: string, topic: string, visit: Visit): Promise<void> {
    const { link, names } = this.#parts;
    const look = names.look();
    try {
      // One after the other: when one fails, nothing of the other may come to be after it was looked for.
      await link.call((one) => one.subscriber.createSnapshot({ name: look.snapshot, subscription }, one.once()));
      await this.#parts.topology.makeLook(look.subscription, topic);
      await this.move(look.subscription, { snapshot: look.snapshot });
      await pullAll(link, look.subscription, visit);
    } finally {
      await this.#forget(look);
    }
  }

  /** Moves a subscription. @throws ConfigError for a position that does not exist */
  async seek(subscription: string, topic: string, to: Position): Promise<void> {
    const target = await this.target(topic, to);
    if (target === undefined) await this.#seekEnd(subscription, topic);
    else await this.move(subscription, target);
  }

  /** Where a seek goes to; `undefined`: the end. @throws ConfigError for a position that does not exist */
  async target(topic: string, to: Position): Promise<Target | undefined> {
    if (to === 'latest' || (to instanceof Date && to.getTime() >= this.#parts.clock.now())) return undefined;
    if (typeof to === 'object' && !(to instanceof Date) && to.position.startsWith(snapshotPrefix)) {
      return { snapshot: this.#parts.names.snapshot(to.position.slice(snapshotPrefix.length)) };
    }
    return { time: timestamp(await this.#timeOf(topic, to)) };
  }

  async move(subscription: string, target: Target): Promise<void> {
    await this.#parts.link.call((one) => one.subscriber.seek({ subscription, ...target }, one.once()));
  }

  async #timeOf(topic: string, to: Exclude<Position, 'latest'>): Promise<number> {
    if (to === 'earliest') return this.#parts.clock.now() - longestRetention;
    if (to instanceof Date) return to.getTime();
    const match = /^(~?)(\d{1,15}):(.+)$/.exec(to.position);
    if (match === null) throw noPosition(to.position, 'is not a position of Pub/Sub');
    const time = Number(match[2]);
    if (match[1] === '') return time;
    for (const skew of skews) {
      const found = await this.#find(topic, match[3] as string, time - skew, time + skew);
      if (found !== undefined) return found;
    }
    throw noPosition(to.position, 'names a message that the topic does not keep any more');
  }

  /** The publish time of a message, by the broker's clock. */
  async #find(topic: string, messageId: string, from: number, to: number): Promise<number | undefined> {
    const { link, names, topology } = this.#parts;
    const { subscription } = names.look();
    let found: PubsubMessage | undefined;
    try {
      await topology.makeLook(subscription, topic);
      await this.move(subscription, { time: timestamp(from) });
      await pullAll(link, subscription, ({ message }) => {
        if (message?.messageId === messageId) found = message;
        return found === undefined && storedAt(message ?? {}) <= to;
      });
    } finally {
      await this.#forget({ subscription });
    }
    return found === undefined ? undefined : storedAt(found);
  }

  /** To the end by the broker's clock: where a subscription that is made now begins. */
  async #seekEnd(subscription: string, topic: string): Promise<void> {
    const { link, names, topology } = this.#parts;
    const look = names.look();
    try {
      await topology.makeLook(look.subscription, topic);
      await link.call((one) =>
        one.subscriber.createSnapshot({ name: look.snapshot, subscription: look.subscription }, one.once()),
      );
      await this.move(subscription, { snapshot: look.snapshot });
    } finally {
      await this.#forget(look);
    }
  }

  /** What is left of a look expires by itself. */
  async #forget({
    subscription,
    snapshot,
  }: {
    readonly subscription: string;
    readonly snapshot?: string;
  }): Promise<void> {
    const { link, logger } = this.#parts;
    const forgotten = await Promise.allSettled([
      ignoreMissing(link.call((one) => one.subscriber.deleteSubscription({ subscription }, one.once()))),
      snapshot === undefined
        ? undefined
        : ignoreMissing(link.call((one) => one.subscriber.deleteSnapshot({ snapshot }, one.once()))),
    ]);
    for (const one of forgotten) {
      if (one.status === 'rejected')
        logger.debug('pubsub: what a look was made with stays for a while', { error: one.reason });
    }
  }
}

/**
 * Pulls until there is nothing more, or `visit` has enough. Acks nothing.
 *
 * @param keep is called with what each pull has brought, before it is visited
 */
export async function pullAll(
  link: Link,
  subscription: string,
  visit: Visit,
  keep?: (received: readonly ReceivedMessage[]) => Promise<void>,
): Promise<void> {
  // At first without waiting, which the service may answer with nothing although there is something.
  for (let wait = false; ; ) {
    const received = await pullOnce(link, subscription, wait);
    if (received.length === 0 && wait) return;
    if (received.length > 0) await keep?.(received);
    let enough = false;
    for (const one of received) enough = !visit(one) || enough;
    if (enough) return;
    wait = received.length === 0;
  }
}

async function pullOnce(link: Link, subscription: string, wait: boolean): Promise<readonly ReceivedMessage[]> {
  const request = { subscription, maxMessages: limits.messagesPerPublish };
  if (!wait) {
    const atOnce = { ...request, returnImmediately: true };
    return (await link.call((one) => one.puller().pull(atOnce, one.once()))).receivedMessages ?? [];
  }
  try {
    return await pull(link, request, emptyWait, link.settings.requestTimeout);
  } catch (error) {
    if (statusOf(error) === status.deadlineExceeded && !textOf(error).includes(noAnswer)) return [];
    link.learn(error);
    throw error;
  }
}

/** Rejects with a ConfigError for a group that does not exist. */
export function surveyFailure(error: unknown, what: string): Error {
  if (!isNotFound(error)) return requestFailure(error, what);
  return new ConfigError(
    'group',
    `${what}: there is no such group; subscribe with it first, or make it with provision()`,
    {
      adapter: adapterName,
      cause: error,
    },
  );
}

const snapshotPrefix = 'snapshot:';

function timestamp(ms: number): Timestamp {
  const seconds = Math.floor(ms / 1_000);
  return { seconds, nanos: Math.round((ms - seconds * 1_000) * 1e6) };
}

function noPosition(position: string, why: string): ConfigError {
  return new ConfigError('position', `"${position}" ${why}; take one of a receipt or a message, or snapshot:<name>`, {
    adapter: adapterName,
  });
}
