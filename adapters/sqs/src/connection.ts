import type { SNSClient } from '@aws-sdk/client-sns';
import type { SQSClient } from '@aws-sdk/client-sqs';
import {
  type AdapterContext,
  backOff,
  type Capabilities,
  ConfigError,
  type Connection,
  checkOptions,
  type DeadLetterCount,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  nameOfGroup,
  type OutgoingMessage,
  type Position,
  type ProvisionItem,
  type Receiver,
  type ReceiverEvents,
  type SendResult,
  type Source,
  sleep,
  type TopicInfo,
  UnsupportedError,
} from '@waybill/core/adapter';
import { Admin } from './admin.ts';
import { capabilitiesOf } from './capabilities.ts';
import { Forwarder } from './delay.ts';
import { adapterName } from './errors.ts';
import { Link } from './link.ts';
import { SqsNames } from './names.ts';
import type { Settings } from './options.ts';
import { Publisher } from './publisher.ts';
import { SqsReceiver } from './receiver.ts';
import { Requests } from './requests.ts';
import { type GroupPlace, Topology } from './topology.ts';

/** Milliseconds between looks at whether groups are still subscribed, and broadcasts' signs of life. */
const housekeeping = 60_000;

/** The SDK's own clients. */
export interface SqsNative {
  readonly sqs: SQSClient;
  readonly sns: SNSClient;
}

/** An open adapter: the way to both services, and what goes over it. */
export class SqsConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: SqsNative;
  readonly #link: Link;
  readonly #context: AdapterContext;
  readonly #topology: Topology;
  readonly #publisher: Publisher;
  readonly #forwarder: Forwarder;
  readonly #requests: Requests;
  readonly #admin: Admin;
  readonly #receivers = new Map<SqsReceiver, GroupRef>();
  readonly #repairing = new Map<string, Promise<void>>();
  #keepsHouse = false;

  private constructor(link: Link, context: AdapterContext) {
    const { clock, logger, names, namePrefix, topology } = context;
    const { settings } = link;
    this.#link = link;
    this.#context = context;
    this.#requests = new Requests(link);
    this.#topology = new Topology(link, new SqsNames(namePrefix, names), logger);
    this.#publisher = new Publisher({
      link,
      requests: this.#requests,
      topology: this.#topology,
      clock,
      makeTopics: topology === 'create',
      topicMissing: (topic) => this.#topicMissing(topic),
      delayed: () => this.#forwarder.start(),
    });
    this.#forwarder = new Forwarder({
      link,
      requests: this.#requests,
      topology: this.#topology,
      publisher: this.#publisher,
      clock,
      logger,
      makesQueue: topology === 'create',
    });
    this.#admin = new Admin({ link, requests: this.#requests, topology: this.#topology, clock });
    this.capabilities = capabilitiesOf(settings);
    this.native = { sqs: link.sqs, sns: link.sns };
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<SqsConnection> {
    return new SqsConnection(await Link.open(settings, context), context);
  }

  describeTopic(name: string): Promise<TopicInfo | undefined> {
    return this.#topology.describe(name);
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    const differences = new Set<string>();
    for (const item of items) {
      const found = mode === 'create' ? this.#topology.create(item) : this.#topology.verify(item);
      for (const difference of await found) differences.add(difference);
    }
    return [...differences];
  }

  removeGroup(group: GroupRef): Promise<void> {
    return this.#topology.remove(group);
  }

  publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    return this.#publisher.publish(batch);
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    checkOptions(source.options ?? {}, [], 'broker.sqs');
    const { clock, logger } = this.#context;
    const receiver = new SqsReceiver({
      source,
      events,
      place: await this.#topology.placeOf(source.group),
      link: this.#link,
      requests: this.#requests,
      clock,
      logger,
      repair: () => this.#makeAgain(source.group),
      closed: (one) => this.#receivers.delete(one),
    });
    this.#receivers.set(receiver, source.group);
    if (this.#link.settings.fanOut === 'topic') this.#forwarder.start();
    if (!this.#keepsHouse) {
      this.#keepsHouse = true;
      void this.#keepHouse();
    }
    return receiver;
  }

  countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    return this.#admin.countDeadLetters(group);
  }

  openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    return this.#admin.openDeadLetters(group);
  }

  lag(group: GroupRef): Promise<Lag> {
    return this.#admin.lag(group);
  }

  async seek(_group: GroupRef, _to: Position): Promise<void> {
    const { log } = this.capabilities;
    throw new UnsupportedError('log', adapterName, log.supported ? '' : log.reason);
  }

  ping(): Promise<void> {
    return this.#link.ping();
  }

  async close(): Promise<void> {
    this.#link.finish(this.#forwarder.close());
    await this.#link.close();
  }

  /** What a receiver's group consists of, once more. @throws ConfigError where that is not ours to do */
  async #makeAgain(group: GroupRef): Promise<GroupPlace> {
    if (this.#context.topology !== 'create' && !group.temporary) {
      throw new ConfigError('topology', `${nameOfGroup(group)}: its queue was deleted; make it again, then subscribe`, {
        adapter: adapterName,
      });
    }
    await this.#topology.restore(group);
    return this.#topology.placeOf(group);
  }

  /** A deleted topic takes the subscriptions of its groups along, and nobody is told. */
  #topicMissing(topic: OutgoingMessage['topic']): Promise<void> {
    let repairing = this.#repairing.get(topic.name);
    if (repairing === undefined) {
      repairing = this.#restoreTopic(topic).finally(() => this.#repairing.delete(topic.name));
      this.#repairing.set(topic.name, repairing);
    }
    return repairing;
  }

  async #restoreTopic(topic: OutgoingMessage['topic']): Promise<void> {
    // Our own groups are known by name; others of which we know nothing are found by their queues.
    await this.#topology.create({ topic, groups: [] });
    for (const group of this.#receivers.values()) {
      if (group.topic.name === topic.name) await this.#topology.restore(group);
    }
    this.#context.logger.warn(`sqs: topic "${topic.name}" was deleted, and was made again`);
  }

  async #keepHouse(): Promise<void> {
    const { clock, logger } = this.#context;
    while (!this.#link.closed) {
      await sleep(clock, backOff(1, { initial: housekeeping, max: housekeeping }), this.#link.closing);
      if (this.#link.closed || this.#link.problem !== undefined) continue;
      // All signs of life first: what comes after them may take for as long as SNS does not answer.
      for (const group of this.#receivers.values())
        if (group.temporary) await this.#trying(group, this.#topology.touch(group));
      for (const [receiver, group] of this.#receivers) await this.#trying(group, this.#lookAfter(receiver, group));
      if (this.#context.topology !== 'create') continue;
      await this.#topology.sweep().catch((error: unknown) => {
        logger.debug('sqs: queues of broadcasts that are gone cannot be looked for, tried again', { error });
      });
    }
  }

  async #lookAfter(receiver: SqsReceiver, group: GroupRef): Promise<void> {
    if (this.#link.closed) return;
    // Not awaited: it may take for as long as AWS refuses it, and the signs of life must go on.
    if (!(await this.#topology.isSubscribed(group))) void receiver.repair();
  }

  #trying(group: GroupRef, looking: Promise<unknown>): Promise<unknown> {
    return looking.catch((error: unknown) => {
      this.#context.logger.debug(`sqs: ${nameOfGroup(group)} cannot be looked after, tried again`, { error });
    });
  }
}
