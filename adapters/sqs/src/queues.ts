import type { QueueAttributeName } from '@aws-sdk/client-sqs';
import { failureOf, isMissing } from './errors.ts';
import type { Link } from './link.ts';
import { isFifo, type QueueName } from './names.ts';
import { maxQueueBytes } from './requests.ts';

/** Seconds: what SQS keeps messages for at the most. */
const retention = 14 * 86_400;
/** Characters that a tag's value can have. */
const maxTag = 256;

/** Tags by which queues and topics tell what they are. */
export const tags = {
  /** The whole name, which SQS's limit may have cut. */
  name: 'waybill-name',
  /** The one group of a queue that is a topic. */
  group: 'waybill-group',
  /** When a broadcast's queue was last in use, by its member's clock: only that it changes says something. */
  alive: 'waybill-alive',
  /** The subscription of a broadcast's queue. */
  subscription: 'waybill-subscription',
  /** The lanes that an ordered topic was declared with. */
  lanes: 'waybill-lanes',
} as const;

export type Tags = Readonly<Record<string, string>>;
export type QueueAttributes = Partial<Record<QueueAttributeName, string>>;

/** The queues that exist: found by name, made, deleted. */
export class Queues {
  readonly #link: Link;
  readonly #urls = new Map<string, Promise<string | undefined>>();

  constructor(link: Link) {
    this.#link = link;
  }

  /** The URL of a queue as it was seen last; `undefined`: there is none. */
  url(name: string): Promise<string | undefined> {
    let url = this.#urls.get(name);
    if (url === undefined) {
      url = this.find(name);
      this.#urls.set(name, url);
      const forget = (): void => this.forget(name);
      url.then((found) => found ?? forget(), forget);
    }
    return url;
  }

  /** Asks again next time: it may have been deleted. */
  forget(name: string): void {
    this.#urls.delete(name);
  }

  /** Asks for a queue's URL; one that is given in its place is taken as it is. */
  async find(name: string): Promise<string | undefined> {
    if (/^https?:/.test(name)) return name;
    try {
      return (await this.#link.askSqs((sqs, options) => sqs.getQueueUrl({ QueueName: name }, options))).QueueUrl;
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /** Makes a queue unless it is there; one that is there is used as it is. */
  async make(queue: QueueName, attributes: QueueAttributes = {}, more: Tags = {}): Promise<string> {
    const url = (await this.find(queue.name)) ?? (await this.#create(queue, attributes, more));
    this.#urls.set(queue.name, Promise.resolve(url));
    return url;
  }

  /** Absent is fine. */
  async delete(name: string): Promise<void> {
    const url = await this.find(name);
    this.forget(name);
    if (url !== undefined) await this.deleteAt(url);
  }

  async deleteAt(QueueUrl: string): Promise<void> {
    await this.#link.askSqs((sqs, options) => sqs.deleteQueue({ QueueUrl }, options)).catch(unlessMissing);
  }

  /** URLs of queues whose names begin so; no more than the first thousand. */
  async list(QueueNamePrefix: string): Promise<readonly string[]> {
    const { QueueUrls } = await this.#link.askSqs((sqs, options) => sqs.listQueues({ QueueNamePrefix }, options));
    return QueueUrls ?? [];
  }

  async tagsOf(QueueUrl: string): Promise<Partial<Tags>> {
    const { Tags } = await this.#link.askSqs((sqs, options) => sqs.listQueueTags({ QueueUrl }, options));
    return Tags ?? {};
  }

  async tag(QueueUrl: string, added: Tags): Promise<void> {
    await this.#link.askSqs((sqs, options) => sqs.tagQueue({ QueueUrl, Tags: { ...added } }, options));
  }

  async #create(queue: QueueName, attributes: QueueAttributes, more: Tags): Promise<string> {
    const { kmsKeyId, kmsReuse } = this.#link.settings;
    const Attributes: QueueAttributes = {
      MessageRetentionPeriod: String(retention),
      MaximumMessageSize: String(maxQueueBytes),
      ...(isFifo(queue.name)
        ? { FifoQueue: 'true', DeduplicationScope: 'messageGroup', FifoThroughputLimit: 'perMessageGroupId' }
        : {}),
      ...(kmsKeyId === undefined ? {} : { KmsMasterKeyId: kmsKeyId }),
      ...(kmsReuse === undefined ? {} : { KmsDataKeyReusePeriodSeconds: String(kmsReuse) }),
      ...attributes,
    };
    const named = queue.whole.length <= maxTag && !queue.given ? { [tags.name]: queue.whole } : {};
    try {
      const { QueueUrl } = await this.#link.askSqs((sqs, options) =>
        sqs.createQueue({ QueueName: queue.name, Attributes, tags: { ...named, ...more } }, options),
      );
      if (QueueUrl !== undefined) return QueueUrl;
    } catch (error) {
      if (!/QueueNameExists|QueueAlreadyExists/.test(failureOf(error).code)) throw error;
    }
    // Somebody else was quicker.
    const url = await this.find(queue.name);
    if (url === undefined) throw new Error(`SQS made queue ${queue.name} and does not know it`);
    return url;
  }
}

export function unlessMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}
