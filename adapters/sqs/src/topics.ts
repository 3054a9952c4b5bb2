import type { TopicRef } from '@waybill/core/adapter';
import { integer } from '@waybill/core/adapter';
import { type Arns, arnsOf, arnsOfAccount, queueNameOf } from './arns.ts';
import { failureOf, isMissing } from './errors.ts';
import type { Link } from './link.ts';
import { isFifo, type SqsNames } from './names.ts';
import { tags, unlessMissing } from './queues.ts';

/** Lanes of an ordered topic that declares none. */
export const defaultLanes = 8;

export type Topic = TopicRef & { readonly ordered: boolean };

/** Something that stands there and is not as it was declared. */
export class Difference extends Error {}

/** SNS topics, and the queues that are subscribed to them. */
export class Topics {
  readonly #link: Link;
  readonly #names: SqsNames;
  /** By queue: subscriptions that were made or found. */
  readonly #subscriptions = new Map<string, string>();
  #arns: Arns | undefined;

  constructor(link: Link, names: SqsNames) {
    this.#link = link;
    this.#names = names;
  }

  async exists(name: string, ordered: boolean): Promise<boolean> {
    if (this.#names.isGiven(name) && isFifo(this.#names.topic(name, ordered)) !== ordered) return false;
    const TopicArn = await this.arnOf(name, ordered);
    if (TopicArn === undefined) return false;
    try {
      await this.#link.askSns((sns, options) => sns.getTopicAttributes({ TopicArn }, options));
      return true;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  /**
   * Message groups are lanes enough, and the number changes nothing; it is kept so that all who declare one agree
   * (ORD-05).
   */
  async lanesOf(name: string): Promise<number | undefined> {
    const ResourceArn = await this.arnOf(name, true);
    const { Tags = [] } = await this.#link.askSns((sns, options) => sns.listTagsForResource({ ResourceArn }, options));
    return integer(Tags.find(({ Key }) => Key === tags.lanes)?.Value);
  }

  /** @returns its ARN */
  async make({ name, ordered, lanes }: Topic): Promise<string> {
    const { kmsKeyId } = this.#link.settings;
    const given = this.#names.topic(name, ordered);
    if (ordered !== isFifo(given)) {
      const kind = ordered ? 'ordered' : 'without order';
      throw new Difference(
        `topic "${name}" cannot be ${kind} under the name ${given}: FIFO topics, and no others, end in .fifo`,
      );
    }
    const fifo = { FifoTopic: 'true', ContentBasedDeduplication: 'false', FifoThroughputScope: 'MessageGroup' };
    const Attributes = {
      ...(ordered ? fifo : {}),
      ...(kmsKeyId === undefined ? {} : { KmsMasterKeyId: kmsKeyId }),
    };
    const Tags = ordered ? [{ Key: tags.lanes, Value: String(lanes ?? defaultLanes) }] : [];
    const Name = given.slice(given.lastIndexOf(':') + 1);
    const { TopicArn } = await this.#link.askSns((sns, options) =>
      sns.createTopic({ Name, Attributes, Tags }, options),
    );
    if (TopicArn === undefined) throw new Error(`SNS told no ARN of topic ${Name}`);
    this.#arns ??= arnsOf(TopicArn);
    return TopicArn;
  }

  /** Where a topic is, whether or not it exists; `undefined` while the account is not known. */
  async arnOf(name: string, ordered: boolean): Promise<string | undefined> {
    const given = this.#names.topic(name, ordered);
    if (given.startsWith('arn:')) return given;
    const arns = await this.#findArns();
    return arns && `${arns.sns}${given}`;
  }

  /** What a queue is called beside a topic: in its account and region. */
  async queueArnOf(queue: string, topicArn: string): Promise<string> {
    const arns = (await this.#findArns()) ?? arnsOf(topicArn);
    return `${arns.sqs}${queueNameOf(queue)}`;
  }

  async subscribe(TopicArn: string, queue: string): Promise<void> {
    const Endpoint = await this.queueArnOf(queue, TopicArn);
    const Attributes = { RawMessageDelivery: 'true' };
    try {
      const { SubscriptionArn } = await this.#link.askSns((sns, options) =>
        sns.subscribe({ TopicArn, Protocol: 'sqs', Endpoint, Attributes, ReturnSubscriptionArn: true }, options),
      );
      if (SubscriptionArn !== undefined) this.#subscriptions.set(queue, SubscriptionArn);
    } catch (error) {
      // A subscription of the user's own, with attributes of its own, is used as it is.
      if (!/already exists/i.test(failureOf(error).text)) throw error;
    }
  }

  /** As it was made by us, without a look. */
  knownSubscription(queue: string): string | undefined {
    return this.#subscriptions.get(queue);
  }

  /** Looks through the topic's subscriptions. */
  async subscriptionOf({ name, ordered }: Topic, queue: string): Promise<string | undefined> {
    const TopicArn = await this.arnOf(name, ordered);
    if (TopicArn === undefined) return undefined;
    const endpoint = await this.queueArnOf(queue, TopicArn);
    let NextToken: string | undefined;
    try {
      do {
        const next = NextToken === undefined ? {} : { NextToken };
        const page = await this.#link.askSns((sns, options) =>
          sns.listSubscriptionsByTopic({ TopicArn, ...next }, options),
        );
        const found = page.Subscriptions?.find(({ Endpoint }) => Endpoint === endpoint);
        if (found !== undefined) return found.SubscriptionArn;
        NextToken = page.NextToken;
      } while (NextToken !== undefined);
    } catch (error) {
      unlessMissing(error);
    }
    return undefined;
  }

  /** Ends a queue's subscription; absent is fine. */
  async unsubscribe(topic: Topic, queue: string): Promise<void> {
    const subscription = this.#subscriptions.get(queue) ?? (await this.subscriptionOf(topic, queue));
    this.#subscriptions.delete(queue);
    if (subscription !== undefined) await this.end(subscription);
  }

  async end(SubscriptionArn: string): Promise<void> {
    await this.#link.askSns((sns, options) => sns.unsubscribe({ SubscriptionArn }, options)).catch(unlessMissing);
  }

  /** Any topic tells the account. */
  async #findArns(): Promise<Arns | undefined> {
    if (this.#arns !== undefined) return this.#arns;
    const { account } = this.#link.settings;
    if (account !== undefined) {
      this.#arns = arnsOfAccount(await this.#link.sns.config.region(), account);
      return this.#arns;
    }
    const { Topics } = await this.#link.askSns((sns, options) => sns.listTopics({}, options));
    const arn = Topics?.[0]?.TopicArn;
    if (arn !== undefined) this.#arns = arnsOf(arn);
    return this.#arns;
  }
}
