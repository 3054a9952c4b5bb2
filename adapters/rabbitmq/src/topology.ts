import {
  ConfigError,
  checkOptions,
  type GroupRef,
  nameOfGroup,
  type ProvisionItem,
  type TopicInfo,
  type TopicRef,
} from '@waybill/core/adapter';
import type { Channel, Options } from 'amqplib';
import { onScratchChannel } from './channel.ts';
import { bindDelayed, makeDelayLevels } from './delay.ts';
import { adapterName, brokerText, reply, replyCode, requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import { addressOf, type BrokerNames, type GroupPlace } from './names.ts';
import type { Settings } from './options.ts';

/** Ordered pieces of a topic that does not say. */
const defaultLanes = 8;

/**
 * How many messages of a lane a member has in hand (ORD-02), in every member alike and unchanged from the first
 * message on, whatever their size. What a member that dies had goes to the end of the messages that came back, not to
 * their beginning; so order holds only while its successor takes all of them at once, and that it does with as much
 * room.
 */
const defaultLaneWindow = 64;

/**
 * Far above anything that happens, and yet a limit: without a positive one a quorum queue puts what comes back at its
 * tail (3.10) or drops it (4.x's default of 20), measured.
 */
const deliveryLimit = 1_000_000_000;

/** Milliseconds after which the broker removes a broadcast's queue that nobody reads. */
export const temporaryExpiry = 60_000;

type GroupItem = ProvisionItem['groups'][number];
type TopicItem = ProvisionItem['topic'];

/** What stands on the broker for topics and groups: looks, makes, compares, removes. */
export class Topology {
  readonly #link: Link;
  readonly #names: BrokerNames;
  readonly #settings: Settings;
  #delayLevels: Promise<void> | undefined;

  constructor(link: Link, names: BrokerNames, settings: Settings) {
    this.#link = link;
    this.#names = names;
    this.#settings = settings;
  }

  /**
   * A topic is a marker exchange that nothing is published to. What it remembers stands in its alternate exchange,
   * because the broker names that one when it is declared with another.
   */
  async describe(topic: string): Promise<TopicInfo | undefined> {
    const marker = this.#names.marker(topic);
    if (!(await this.#exists((channel) => channel.checkExchange(marker)))) return undefined;
    try {
      await this.#onChannel(async (channel) => {
        await channel.assertExchange(marker, 'fanout', { internal: true, alternateExchange: '?' });
        // It was deleted after the first look, and now there is one that says nothing.
        await channel.deleteExchange(marker);
      });
      return undefined;
    } catch (error) {
      const code = replyCode(error);
      if (code === reply.preconditionFailed) return readMarker(brokerText(error));
      if (code === reply.accessRefused) return { ordered: undefined, lanes: undefined };
      throw requestFailure(error, `topic "${topic}" cannot be looked at`);
    }
  }

  /** How many lanes an ordered topic has: as declared, else as on the broker. */
  async lanesOf(topic: TopicRef): Promise<number> {
    return topic.lanes ?? (await this.describe(topic.name))?.lanes ?? defaultLanes;
  }

  async placeOf(group: GroupRef): Promise<GroupPlace> {
    const lanes = group.topic.ordered && !group.temporary ? await this.lanesOf(group.topic) : 0;
    return this.#names.group(group.topic.name, group.name, lanes);
  }

  /** @returns what stands in the way, a sentence each */
  async create(item: ProvisionItem): Promise<readonly string[]> {
    const { topic, groups } = item;
    checkItem(item);
    const lanes = topic.ordered ? await this.lanesOf(topic) : 0;
    const differences = await this.#all([
      () => this.createTopicsExchange(),
      () => this.#createMarker(topic, lanes),
      ...(topic.ordered ? [() => this.#createMembersExchange()] : []),
      ...(!topic.ordered && groups.length > 0 ? [() => this.#createDelayLevels()] : []),
    ]);
    if (differences.length > 0) return differences;
    return this.#all(groups.flatMap((group) => this.#groupMakers(topic, lanes, group)));
  }

  /** Nothing is made: only passive declarations, and declarations of what is there already. */
  async verify(item: ProvisionItem): Promise<readonly string[]> {
    const { topic, groups } = item;
    checkItem(item);
    const info = await this.describe(topic.name);
    const lanes = topic.ordered ? (topic.lanes ?? info?.lanes ?? defaultLanes) : 0;
    const looks: (() => Promise<string | undefined>)[] = [
      () => this.#missingExchange(this.#names.topics, 'the exchange of all topics'),
      async () => (info === undefined ? `topic "${topic.name}" is missing` : differs(topic.name, info, lanes)),
    ];
    if (topic.ordered) looks.push(() => this.#missingExchange(this.#names.members, 'the exchange of all members'));
    else if (groups.length > 0) {
      looks.push(() => this.#missingExchange(this.#names.delay('complete'), 'the end of the delay levels'));
    }
    for (const group of groups) {
      for (const { queue, what, options, given } of this.#queuesOf(topic, lanes, group)) {
        looks.push(async () => {
          if (!(await this.#exists((channel) => channel.checkQueue(queue))))
            return `${what}: queue "${queue}" is missing`;
          return given ? undefined : this.#declared(what, (channel) => channel.assertQueue(queue, options));
        });
      }
    }
    return this.#all(looks);
  }

  /** The exchange of all topics: the user's as it is, if it exists. */
  async createTopicsExchange(): Promise<string | undefined> {
    const { topics } = this.#names;
    if (this.#settings.exchange !== undefined && (await this.#exists((channel) => channel.checkExchange(topics)))) {
      return undefined;
    }
    return this.#declared('the exchange of all topics', (channel) => channel.assertExchange(topics, 'topic'));
  }

  async hasTopicsExchange(): Promise<boolean> {
    return this.#exists((channel) => channel.checkExchange(this.#names.topics));
  }

  /** Makes the delay levels again, because one of them is missing. */
  async repairDelayLevels(): Promise<void> {
    this.#delayLevels = undefined;
    await this.#createDelayLevels(true);
  }

  /** Makes a group's dead-letter queue, where one turned out to be missing. */
  async createDeadLetters(group: GroupRef): Promise<void> {
    const { deadLetters } = this.#names.group(group.topic.name, group.name, 0);
    await this.#onChannel((channel) => channel.assertQueue(deadLetters, this.#durable()));
  }

  /** Absent ones are fine (SUB-12). */
  async remove(group: GroupRef): Promise<void> {
    const place = await this.placeOf(group);
    try {
      await this.#onChannel(async (channel) => {
        for (const queue of [...place.queues, place.alone, place.deadLetters]) await channel.deleteQueue(queue);
      });
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} cannot be removed`);
    }
  }

  #groupMakers(topic: TopicItem, lanes: number, group: GroupItem): (() => Promise<string | undefined>)[] {
    return this.#queuesOf(topic, lanes, group).map((made) => async () => {
      const { queue, what, options, given, bind } = made;
      if (!given || !(await this.#exists((channel) => channel.checkQueue(queue)))) {
        const difference = await this.#declared(what, (channel) => channel.assertQueue(queue, options));
        if (difference !== undefined) return difference;
      }
      return this.#declared(what, bind);
    });
  }

  /** All queues of a group, with what they are bound to. */
  #queuesOf(topic: TopicItem, lanes: number, group: GroupItem): GroupQueue[] {
    const names = this.#names;
    const what = nameOfGroup({ topic, name: group.name });
    const routingKey = names.routingKey(topic.name);
    const laneKeys = Array.from({ length: lanes }, (_, lane) => names.laneKey(topic.name, lane));
    const place = names.group(topic.name, group.name, group.temporary ? 0 : lanes);
    const common = { what, given: place.given };
    const bindTo =
      (queue: string, keys: readonly string[]) =>
      async (channel: Channel): Promise<void> => {
        for (const key of keys) await channel.bindQueue(queue, names.topics, key);
        if (topic.ordered) return;
        await bindDelayed(channel, names, queue, addressOf('topic', topic.name));
        await bindDelayed(channel, names, queue, addressOf('queue', queue));
      };

    if (group.temporary) {
      // One member, so one queue keeps the order of all lanes. Quorum queues are no good for what lives so briefly.
      const queue = place.queues[0] as string;
      const options = { expires: temporaryExpiry, arguments: { 'x-queue-type': 'classic' } };
      return [{ ...common, queue, options, bind: bindTo(queue, [routingKey, ...laneKeys]) }];
    }
    const queues: GroupQueue[] = place.queues.map((queue, lane) => ({
      ...common,
      queue,
      options: this.#groupQueue(topic.ordered),
      // A foreign message knows no lanes: it has one of them all the same.
      bind: bindTo(
        queue,
        topic.ordered ? [...(lane === 0 ? [routingKey] : []), laneKeys[lane] as string] : [routingKey],
      ),
    }));
    queues.push({
      what: `dead letters of ${what}`,
      given: false,
      queue: place.deadLetters,
      options: this.#durable(),
      bind: async () => {},
    });
    if (!topic.ordered && this.#settings.queueType === 'quorum') {
      queues.push({
        what: `messages set apart of ${what}`,
        given: false,
        queue: place.alone,
        options: this.#groupQueue(false),
        bind: (channel) => bindDelayed(channel, names, place.alone, addressOf('queue', place.alone)),
      });
    }
    return queues;
  }

  #groupQueue(ordered: boolean): Options.AssertQueue {
    const { queueConsumerTimeout } = this.#settings;
    const { arguments: durable } = this.#durable();
    return {
      arguments: {
        ...durable,
        ...(ordered ? { 'x-single-active-consumer': true } : {}),
        ...(queueConsumerTimeout === undefined ? {} : { 'x-consumer-timeout': queueConsumerTimeout }),
      },
    };
  }

  #durable(): { arguments: Record<string, unknown> } {
    const { queueType } = this.#settings;
    return {
      arguments: {
        'x-queue-type': queueType,
        ...(queueType === 'quorum' ? { 'x-delivery-limit': deliveryLimit } : {}),
      },
    };
  }

  async #createMarker(topic: TopicItem, lanes: number): Promise<string | undefined> {
    const options = { internal: true, alternateExchange: markerValue(lanes) };
    try {
      await this.#onChannel((channel) => channel.assertExchange(this.#names.marker(topic.name), 'fanout', options));
      return undefined;
    } catch (error) {
      if (replyCode(error) !== reply.preconditionFailed) throw requestFailure(error, `topic "${topic.name}"`);
      return differs(topic.name, readMarker(brokerText(error)), lanes) ?? `topic "${topic.name}": ${brokerText(error)}`;
    }
  }

  #createMembersExchange(): Promise<string | undefined> {
    return this.#declared('the exchange of all members', (channel) =>
      channel.assertExchange(this.#names.members, 'direct'),
    );
  }

  async #createDelayLevels(force = false): Promise<undefined> {
    this.#delayLevels ??= makeDelayLevels(
      this.#names,
      this.#settings.queueType,
      (work) => this.#onChannels(work),
      force,
    ).catch((error) => {
      this.#delayLevels = undefined;
      throw requestFailure(error, 'the delay levels cannot be made');
    });
    await this.#delayLevels;
  }

  /** What was found on the broker is looked at again: it may be another one by now. */
  forget(): void {
    this.#delayLevels = undefined;
  }

  async #missingExchange(exchange: string, what: string): Promise<string | undefined> {
    if (await this.#exists((channel) => channel.checkExchange(exchange))) return undefined;
    return `exchange "${exchange}" is missing (${what})`;
  }

  /** @returns the broker's words where something of that name is there with other settings */
  async #declared(what: string, declare: (channel: Channel) => Promise<unknown>): Promise<string | undefined> {
    try {
      await this.#onChannel(declare);
      return undefined;
    } catch (error) {
      const code = replyCode(error);
      if (code === reply.preconditionFailed || code === reply.locked) return `${what}: ${brokerText(error)}`;
      throw requestFailure(error, what);
    }
  }

  async #exists(look: (channel: Channel) => Promise<unknown>): Promise<boolean> {
    try {
      await this.#onChannel(look);
      return true;
    } catch (error) {
      const code = replyCode(error);
      if (code === reply.notFound) return false;
      // It is there, in use by somebody else alone.
      if (code === reply.locked) return true;
      throw requestFailure(error, 'the topology cannot be looked at');
    }
  }

  async #all(looks: readonly (() => Promise<string | undefined>)[]): Promise<readonly string[]> {
    const found = await Promise.all(looks.map((look) => look()));
    return found.filter((one) => one !== undefined);
  }

  async #onChannels(work: readonly ((channel: Channel) => Promise<void>)[]): Promise<void> {
    await Promise.all(work.map((one) => this.#onChannel(one)));
  }

  #onChannel<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
    return onScratchChannel(this.#link, work);
  }
}

interface GroupQueue {
  readonly queue: string;
  /** For errors. */
  readonly what: string;
  /** Named by the user, and used as it is. */
  readonly given: boolean;
  readonly options: Options.AssertQueue;
  readonly bind: (channel: Channel) => Promise<void>;
}

/** @throws ConfigError for what is no option of a topic */
export function laneWindowOf(topic: TopicRef): number {
  const { options } = topic;
  if (options === undefined) return defaultLaneWindow;
  const where = `topic "${topic.name}" broker.rabbitmq`;
  checkOptions(options, ['laneWindow'], where);
  const { laneWindow = defaultLaneWindow } = options as { laneWindow?: unknown };
  if (typeof laneWindow === 'number' && Number.isInteger(laneWindow) && laneWindow >= 1 && laneWindow <= 10_000) {
    return laneWindow;
  }
  throw new ConfigError(`${where}.laneWindow`, `${laneWindow} is not 1 to 10000`, { adapter: adapterName });
}

function checkItem({ topic, groups }: ProvisionItem): void {
  laneWindowOf(topic);
  for (const { name, options } of groups) {
    if (options !== undefined) checkOptions(options, [], `group "${name}" broker.rabbitmq`);
  }
  if (topic.lanes !== undefined && (topic.lanes < 1 || topic.lanes > 256)) {
    throw new ConfigError('lanes', `topic "${topic.name}": ${topic.lanes} is not 1 to 256`, { adapter: adapterName });
  }
}

const markerValue = (lanes: number): string => (lanes === 0 ? 'waybill.v1.unordered' : `waybill.v1.lanes.${lanes}`);

/** Out of the broker's "… received '?' but current is 'waybill.v1.lanes.8'"; versions differ in the words between. */
function readMarker(text: string): TopicInfo {
  const value = /but current is (?:the value )?'waybill\.v1\.(unordered|lanes\.(\d+))'/.exec(text);
  if (value === null) return { ordered: undefined, lanes: undefined };
  return value[2] === undefined ? { ordered: false, lanes: undefined } : { ordered: true, lanes: Number(value[2]) };
}

function differs(topic: string, found: TopicInfo, lanes: number): string | undefined {
  const ordered = lanes > 0;
  if (found.ordered !== undefined && found.ordered !== ordered) {
    return `topic "${topic}" is ${found.ordered ? 'ordered' : 'not ordered'} on the broker and declared otherwise`;
  }
  if (ordered && found.lanes !== undefined && found.lanes !== lanes) {
    return `topic "${topic}" has ${found.lanes} lanes on the broker and ${lanes} declared`;
  }
  return undefined;
}
