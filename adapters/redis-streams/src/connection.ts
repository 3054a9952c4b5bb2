import {
  type AdapterContext,
  type Capabilities,
  ConfigError,
  type Connection,
  type ConnectionError,
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
import type { Cluster, Redis } from 'ioredis';
import { Admin } from './admin.ts';
import { capabilitiesOf } from './capabilities.ts';
import { adapterName, requestFailure } from './errors.ts';
import { Housekeeping } from './housekeeping.ts';
import { LaneReceiver } from './lane-receiver.ts';
import { Link } from './link.ts';
import { KeyNames } from './names.ts';
import type { Settings } from './options.ts';
import { Publisher } from './publisher.ts';
import { GroupReceiver } from './receiver.ts';
import type { LinkListener, ReceiverParts } from './receiver-parts.ts';
import { refuseOptions, Topology } from './topology.ts';

/** ioredis's own client, that all but blocking reads go through. */
export type RedisStreamsNative = Redis | Cluster;

export class RedisConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: RedisStreamsNative;
  readonly #settings: Settings;
  readonly #context: AdapterContext;
  readonly #link: Link;
  readonly #topology: Topology;
  readonly #housekeeping: Housekeeping;
  readonly #publisher: Publisher;
  readonly #admin: Admin;
  readonly #receivers = new Set<LinkListener>();

  private constructor(settings: Settings, context: AdapterContext, link: Link) {
    this.#settings = settings;
    this.#context = context;
    this.#link = link;
    this.native = link.client;
    this.capabilities = capabilitiesOf(settings);
    const names = new KeyNames(context.namePrefix, context.names);
    this.#topology = new Topology(link, names, context);
    this.#housekeeping = new Housekeeping(link, names, this.#topology, settings, context);
    this.#publisher = new Publisher(link, names, this.#topology, this.#housekeeping, settings, context.clock);
    this.#admin = new Admin(link, this.#topology);
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<RedisConnection> {
    let connection: RedisConnection | undefined;
    const link = await Link.open('commands', 0, settings, context, {
      up: () => {
        if (connection !== undefined) connection.#up();
      },
      down: (error) => {
        if (connection !== undefined) connection.#down(error);
      },
    });
    connection = new RedisConnection(settings, context, link);
    return connection;
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
    refuseOptions(source.options);
    const { group } = source;
    try {
      const place = await this.#topology.existing(group);
      this.#housekeeping.add(group.topic.name, place.lanes);
      const parts: ReceiverParts = {
        source,
        events,
        place,
        link: this.#link,
        settings: this.#settings,
        context: this.#context,
        remake: (start) => this.#remake(group, start),
        closed: (receiver) => void this.#receivers.delete(receiver),
      };
      const receiver = await (place.lanes === 0 ? GroupReceiver.open(parts) : LaneReceiver.open(parts));
      this.#receivers.add(receiver);
      return receiver;
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} cannot be joined`);
    }
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
    return this.#topology.seek(group, to);
  }

  async ping(): Promise<void> {
    try {
      await this.#link.call(['PING']);
    } catch (error) {
      throw requestFailure(error, `${this.#settings.target} does not answer`);
    }
  }

  async close(): Promise<void> {
    this.#housekeeping.stop();
    await this.#link.close();
  }

  #up(): void {
    this.#publisher.forgetRoutes();
    this.#context.events.restored();
    for (const receiver of this.#receivers) receiver.linkChanged();
  }

  #down(error: ConnectionError): void {
    this.#context.events.interrupted(error);
    for (const receiver of this.#receivers) receiver.linkChanged(error);
  }

  /** A group that was deleted under its members, once more. @throws ConfigError where that is not ours to do */
  async #remake(group: GroupRef, start: (lane: number) => string | undefined): Promise<void> {
    const { topic } = group;
    const what = nameOfGroup(group);
    if (this.#context.topology !== 'create' && !group.temporary) {
      throw new ConfigError('topology', `${what}: it was deleted; make it again, then subscribe`, {
        adapter: adapterName,
      });
    }
    const differences = await this.#topology.create({ topic, groups: [] });
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter: adapterName });
    // Another member may have made it before, from where its own work stood: ours may begin earlier.
    await this.#topology.make(group, start, true);
    this.#context.logger.warn(`${adapterName}: ${what} was deleted, and was made again`);
  }
}
