import type { v1 } from '@google-cloud/pubsub';
import {
  type AdapterContext,
  type Capabilities,
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
  type TopicInfo,
} from '@waybill/core/adapter';
import { Admin } from './admin.ts';
import { capabilitiesOf } from './capabilities.ts';
import { requestFailure } from './errors.ts';
import { Link } from './link.ts';
import { BrokerNames } from './names.ts';
import type { Settings } from './options.ts';
import { Publisher } from './publisher.ts';
import { PubsubReceiver } from './receiver.ts';
import { Sender } from './sender.ts';
import { Survey } from './survey.ts';
import { Topology } from './topology.ts';

/**
 * Milliseconds that a deleted topic is left to those who have groups on it: their subscriptions have to be made again
 * with it. If a publisher made it again first, messages would be confirmed and reach nobody.
 */
const topicPatience = 40_000;

/** Google's generated clients; both change when a connection is given up. */
export interface PubsubNative {
  readonly publisher: v1.PublisherClient;
  readonly subscriber: v1.SubscriberClient;
}

export class PubsubConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: PubsubNative;
  readonly #context: AdapterContext;
  readonly #link: Link;
  readonly #names: BrokerNames;
  readonly #topology: Topology;
  readonly #sender: Sender;
  readonly #publisher: Publisher;
  readonly #admin: Admin;
  readonly #receivers = new Set<PubsubReceiver>();
  /** When a topic was first found missing, by its name. */
  readonly #missingSince = new Map<string, number>();
  readonly #mending = new Set<string>();

  private constructor(settings: Settings, context: AdapterContext, link: Link) {
    this.#context = context;
    this.#link = link;
    const { clock, logger, names, namePrefix } = context;
    this.#names = new BrokerNames(settings.project, namePrefix, names);
    this.#topology = new Topology(link, this.#names, settings, () => survey);
    const survey = new Survey({ link, names: this.#names, topology: this.#topology, clock, logger });
    this.#sender = new Sender(link);
    this.#publisher = new Publisher({
      link,
      sender: this.#sender,
      names: this.#names,
      clock,
      logger,
      missing: (topic) => void this.#mendTopic(topic),
    });
    this.#admin = new Admin({ link, sender: this.#sender, topology: this.#topology, survey, clock, logger });
    this.capabilities = capabilitiesOf(settings);
    this.native = {
      get publisher() {
        return link.publisher;
      },
      get subscriber() {
        return link.subscriber;
      },
    };
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<PubsubConnection> {
    return new PubsubConnection(settings, context, await Link.open(settings, context));
  }

  describeTopic(name: string): Promise<TopicInfo | undefined> {
    return this.#topology.describe(name);
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    const differences: string[] = [];
    for (const item of items) {
      differences.push(...(await (mode === 'create' ? this.#topology.create(item) : this.#topology.verify(item))));
    }
    return differences;
  }

  removeGroup(group: GroupRef): Promise<void> {
    return this.#topology.remove(group);
  }

  publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    return this.#publisher.publish(batch);
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    checkOptions(source.options ?? {}, [], 'broker.pubsub');
    const { clock, logger, topology } = this.#context;
    const standing = await this.#topology.standing(source.group);
    for (const caution of standing.cautions)
      logger.warn(`pubsub: the subscription of ${nameOfGroup(source.group)}: ${caution}`);
    const seat = await this.#link.takeSeat();
    const receiver = new PubsubReceiver({
      source,
      events,
      place: this.#topology.placeOf(source.group),
      standing,
      link: this.#link,
      seat,
      sender: this.#sender,
      topology: this.#topology,
      makes: topology === 'create' || source.group.temporary,
      clock,
      logger,
      closed: (closed) => {
        this.#receivers.delete(closed);
        this.#link.leaveSeat(seat);
      },
    });
    this.#receivers.add(receiver);
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

  seek(group: GroupRef, to: Position): Promise<void> {
    return this.#admin.seek(group, to);
  }

  ping(): Promise<void> {
    return this.#link.ping();
  }

  async close(): Promise<void> {
    for (const receiver of [...this.#receivers]) await receiver.close();
    await this.#link.close();
  }

  /** A topic that was published to is gone: those who read it make it again with their groups. */
  async #mendTopic(missing: OutgoingMessage['topic']): Promise<void> {
    const { name: topic } = missing;
    if (this.#mending.has(topic)) return;
    this.#mending.add(topic);
    const { clock, logger, topology } = this.#context;
    try {
      await Promise.all([...this.#receivers].filter((one) => one.topic === topic).map((one) => one.repair()));
      const info = await this.#topology.describe(topic);
      if (info !== undefined) {
        this.#missingSince.delete(topic);
        return;
      }
      const since = this.#missingSince.get(topic) ?? clock.monotonic();
      this.#missingSince.set(topic, since);
      if (topology !== 'create' || clock.monotonic() - since < topicPatience) return;
      await this.#topology.makeTopic(missing);
      this.#missingSince.delete(topic);
      logger.warn(`pubsub: topic "${topic}" was deleted, and was made again`);
    } catch (error) {
      logger.debug(`pubsub: ${requestFailure(error, `topic "${topic}" cannot be made again`).message}`);
    } finally {
      this.#mending.delete(topic);
    }
  }
}
