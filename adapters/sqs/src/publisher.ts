import { randomUUID } from 'node:crypto';
import {
  type Clock,
  ConfigError,
  ConnectionError,
  checkOptions,
  MessageTooLargeError,
  type OutgoingMessage,
  PublishError,
  type SendResult,
  wireHeaders,
} from '@waybill/core/adapter';
import { batches } from './batches.ts';
import { adapterName, isMissing, isThrottled, publishFailure } from './errors.ts';
import type { Link } from './link.ts';
import { toWire, type Wire } from './message.ts';
import { messageGroupOf } from './names.ts';
import { type Done, delaySecondsOf, maxQueueBytes, type Parcel, type Requests } from './requests.ts';
import type { Topology } from './topology.ts';

/** Bytes of an SNS message, and of a batch of them, attributes included. */
export const maxTopicBytes = 256 * 1024;

const stored: SendResult = { status: 'stored' };

/** A message on its way to a topic. */
export interface TopicParcel {
  readonly wire: Wire;
  /** Of a FIFO topic. */
  readonly order: { readonly group: string; readonly deduplication: string } | undefined;
}

interface Entry {
  readonly at: number;
  readonly message: OutgoingMessage;
  readonly wire: Wire;
  readonly bytes: number;
}

export interface PublisherParts {
  readonly link: Link;
  readonly requests: Requests;
  readonly topology: Topology;
  readonly clock: Clock;
  readonly makeTopics: boolean;
  /** A topic is gone: its groups have lost their subscriptions. */
  readonly topicMissing: (topic: OutgoingMessage['topic']) => Promise<void>;
  /** Something waits in the delay queue. */
  readonly delayed: () => void;
}

/** Core's batches as messages for topics, and the answers as results. */
export class Publisher {
  readonly #parts: PublisherParts;
  /** One for each publish, and the same when core repeats it: FIFO topics then drop the double themselves. */
  readonly #deduplication = new WeakMap<OutgoingMessage, string>();

  constructor(parts: PublisherParts) {
    this.#parts = parts;
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const results = new Array<SendResult>(batch.length);
    const now: Entry[] = [];
    const later: Entry[] = [];
    for (let at = 0; at < batch.length; at++) {
      const message = batch[at] as OutgoingMessage;
      try {
        if (message.options !== undefined) checkOptions(message.options, [], 'broker.sqs');
        const delayed = (message.deliverAt ?? 0) > this.#parts.clock.now();
        const wire = toWire(message, delayed ? this.#waits(message) : []);
        const entry = { at, message, wire, bytes: wire.bytes };
        const limit = this.#byTopic ? maxTopicBytes : maxQueueBytes;
        if (wire.bytes > limit) {
          throw new MessageTooLargeError(message.topic.name, wire.bytes, limit, { adapter: adapterName });
        }
        (delayed ? later : now).push(entry);
      } catch (error) {
        results[at] = failed(error, message.topic.name);
      }
    }
    const sends: Promise<void>[] = [];
    for (const group of Map.groupBy(now, ({ message }) => message.topic.name).values()) {
      sends.push(this.#byTopic ? this.#toTopic(group, results) : this.#toQueue(group, results));
    }
    if (later.length > 0)
      sends.push(
        this.#byTopic
          ? this.#toDelayQueue(later, results)
          : this.#each(later, (group) => this.#toQueue(group, results)),
      );
    await Promise.all(sends);
    return results;
  }

  /**
   * One request to an SNS topic, of at most ten messages. Gives what became of each: `undefined` is stored.
   *
   * @throws what the SDK throws, when nothing is known of any
   */
  async send(topicArn: string, parcels: readonly TopicParcel[]): Promise<readonly (SendResult | undefined)[]> {
    const PublishBatchRequestEntries = parcels.map(({ wire, order }, id) => ({
      Id: String(id),
      Message: wire.body,
      MessageAttributes: wire.attributes,
      ...(order === undefined ? {} : { MessageGroupId: order.group, MessageDeduplicationId: order.deduplication }),
    }));
    const { Successful = [], Failed = [] } = await this.#parts.link.askSns((sns, options) =>
      sns.publishBatch({ TopicArn: topicArn, PublishBatchRequestEntries }, options),
    );
    const results = new Array<SendResult | undefined>(parcels.length).fill(noWord);
    for (const { Id } of Successful) results[Number(Id)] = undefined;
    for (const { Id, Code, Message, SenderFault } of Failed) {
      const text = `SNS did not store the message: ${Message ?? ''} (${Code ?? 'no code'})`;
      results[Number(Id)] = {
        status: 'failed',
        outcome: 'not-sent',
        retryable: SenderFault !== true || isThrottled(Code ?? ''),
        error: new PublishError(text, { adapter: adapterName, outcome: 'not-sent' }),
      };
    }
    return results;
  }

  get #byTopic(): boolean {
    return this.#parts.link.settings.fanOut === 'topic';
  }

  async #toTopic(entries: readonly Entry[], results: SendResult[]): Promise<void> {
    const { topic } = (entries[0] as Entry).message;
    let arn: string;
    try {
      arn = await this.#parts.topology.targetOf(topic);
    } catch (error) {
      for (const { at } of entries) results[at] = failed(error, topic.name);
      return;
    }
    const parts = [...batches(entries, maxTopicBytes)];
    if (!topic.ordered) {
      await Promise.all(parts.map((part) => this.#sendPart(topic, arn, part, results)));
      return;
    }
    // In order: a key that failed in one part must not be overtaken by the next.
    const held = new Set<string | undefined>();
    for (const part of parts) {
      const free = part.filter(({ at, message }) => {
        if (!held.has(message.key)) return true;
        results[at] = behind;
        return false;
      });
      if (free.length > 0) await this.#sendPart(topic, arn, free, results);
      for (const { at, message } of free) if (results[at]?.status === 'failed') held.add(message.key);
    }
  }

  async #sendPart(
    topic: OutgoingMessage['topic'],
    arn: string,
    part: readonly Entry[],
    results: SendResult[],
  ): Promise<void> {
    try {
      const sent = await this.send(
        arn,
        part.map(({ message, wire }) => ({ wire, order: this.#orderOf(message) })),
      );
      for (let i = 0; i < part.length; i++) results[(part[i] as Entry).at] = sent[i] ?? stored;
    } catch (error) {
      const result = isMissing(error) ? await this.#missing(topic) : failed(error, topic.name);
      for (const { at } of part) results[at] = result;
    }
  }

  /** The topic was deleted: made again where that is ours to do, so that core's next try finds it. */
  async #missing(topic: OutgoingMessage['topic']): Promise<SendResult> {
    const gone = new ConfigError('topology', `topic "${topic.name}" does not exist any more`, { adapter: adapterName });
    if (!this.#parts.makeTopics) return { status: 'failed', outcome: 'not-sent', retryable: false, error: gone };
    try {
      await this.#parts.topicMissing(topic);
      return { status: 'failed', outcome: 'not-sent', retryable: true, error: gone };
    } catch (error) {
      return failed(error, topic.name);
    }
  }

  async #toQueue(entries: readonly Entry[], results: SendResult[]): Promise<void> {
    const { topic } = (entries[0] as Entry).message;
    const { requests, topology, clock } = this.#parts;
    try {
      const url = await topology.targetOf(topic);
      const parcel = ({ message, wire }: Entry): Parcel => ({
        wire,
        delaySeconds: topic.ordered ? undefined : delaySecondsOf((message.deliverAt ?? 0) - clock.now()),
        messageGroup: this.#orderOf(message)?.group,
        deduplication: this.#orderOf(message)?.deduplication,
      });
      const done = await requests.send(url, entries.map(parcel));
      const gone = done.includes('missing') ? await this.#missing(topic) : undefined;
      for (let i = 0; i < entries.length; i++) {
        const one = done[i] as Done;
        results[(entries[i] as Entry).at] = one === 'missing' && gone !== undefined ? gone : queueResult(one);
      }
    } catch (error) {
      for (const { at } of entries) results[at] = failed(error, topic.name);
    }
  }

  async #toDelayQueue(entries: readonly Entry[], results: SendResult[]): Promise<void> {
    const { requests, topology, clock, makeTopics, delayed } = this.#parts;
    try {
      const url = makeTopics ? await topology.makeDelayQueue() : await topology.delayQueue();
      if (url === undefined)
        throw new ConfigError('topology', 'the queue for delayed publishes is missing; provision a topic', {
          adapter: adapterName,
        });
      const done = await requests.send(
        url,
        entries.map(({ message, wire }) => ({
          wire,
          delaySeconds: delaySecondsOf((message.deliverAt ?? 0) - clock.now()),
        })),
      );
      for (let i = 0; i < entries.length; i++) results[(entries[i] as Entry).at] = queueResult(done[i] as Done);
      if (done.includes('missing')) topology.forgetDelayQueue();
      delayed();
    } catch (error) {
      for (const { at, message } of entries) results[at] = failed(error, message.topic.name);
    }
  }

  #waits(message: OutgoingMessage): readonly (readonly [string, string])[] {
    const deliverAt = [wireHeaders.deliverAt, String(message.deliverAt)] as const;
    return this.#byTopic ? [deliverAt, [wireHeaders.destination, message.topic.name]] : [deliverAt];
  }

  #orderOf(message: OutgoingMessage): TopicParcel['order'] {
    if (!message.topic.ordered) return undefined;
    let deduplication = this.#deduplication.get(message);
    if (deduplication === undefined) {
      deduplication = randomUUID();
      this.#deduplication.set(message, deduplication);
    }
    return { group: messageGroupOf(message.key ?? message.id), deduplication };
  }

  async #each(entries: readonly Entry[], send: (group: readonly Entry[]) => Promise<void>): Promise<void> {
    await Promise.all([...Map.groupBy(entries, ({ message }) => message.topic.name).values()].map(send));
  }
}

function failed(error: unknown, topic: string): SendResult {
  return { status: 'failed', ...publishFailure(error, topic) };
}

function queueResult(done: Done): SendResult {
  if (done === 'applied') return stored;
  // Core's next try finds it, or makes it.
  const failure = done === 'missing' ? new ConnectionError('the queue was deleted', { adapter: adapterName }) : done;
  const refused = failure === 'lost' || failure instanceof ConfigError;
  const outcome = refused || done === 'missing' ? 'not-sent' : 'unknown';
  const text = failure === 'lost' ? 'SQS refused the message' : failure.message;
  const error = new PublishError(text, { adapter: adapterName, outcome, cause: failure });
  return { status: 'failed', outcome, retryable: failure instanceof ConnectionError && failure.retryable, error };
}

/** SNS named it neither among the stored nor among the failed. */
const noWord: SendResult = {
  status: 'failed',
  outcome: 'unknown',
  retryable: true,
  error: new PublishError('SNS said nothing of the message', { adapter: adapterName, outcome: 'unknown' }),
};

const behind: SendResult = {
  status: 'failed',
  outcome: 'not-sent',
  retryable: true,
  error: new PublishError('an earlier message of the key failed', { adapter: adapterName, outcome: 'not-sent' }),
};
