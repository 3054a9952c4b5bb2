import type { protos } from '@google-cloud/pubsub';
import {
  ConfigError,
  checkOptions,
  type GroupRef,
  nameOfGroup,
  type ProvisionItem,
  sleep,
  type TopicInfo,
} from '@waybill/core/adapter';
import { adapterName, isNotFound, isTransient, neverSent, requestFailure, status, statusOf } from './errors.ts';
import type { Link } from './link.ts';
import type { BrokerNames, GroupPlace, Pair } from './names.ts';
import type { Settings } from './options.ts';
import type { Survey } from './survey.ts';

/** Milliseconds after which the broker removes a broadcast's subscription that nobody reads: the least it offers. */
export const temporaryExpiry = 86_400_000;

/** Seconds of the shortest deadline of a subscription: what was handed out to nobody comes back after it. */
const ackDeadline = 10;

/** Milliseconds over which members spread that find the same subscription without its topic. */
const spread = 1_000;

/** Seconds of the longest retention of a subscription, and of what older services (and the emulator) allow. */
const longestRetention = [31 * 86_400, 7 * 86_400] as const;

/** What a topic remembers of how it was declared. */
const label = { ordered: 'waybill-ordered', lanes: 'waybill-lanes' } as const;
const defaultLanes = 8;

/** What the broker says of a subscription whose topic was deleted. */
const deletedTopic = '_deleted-topic_';

type Subscription = protos.google.pubsub.v1.ISubscription;
type TopicItem = ProvisionItem['topic'];
type GroupItem = ProvisionItem['groups'][number];

/** A subscription as it stands on the broker. */
export interface Standing {
  readonly topic: string;
  /** Milliseconds. */
  readonly ackDeadline: number;
  readonly ordered: boolean;
  /** With exactly-once delivery. */
  readonly exactlyOnce: boolean;
  /** It hands nothing to those who pull: it pushes, or writes elsewhere, or was detached. */
  readonly notPulled: boolean;
  /** What it does to messages behind the group's back, a sentence each: only one that somebody else made. */
  readonly cautions: readonly string[];
}

interface Making {
  readonly subscription: string;
  readonly topic: string;
  readonly ordered: boolean;
  readonly temporary: boolean;
}

/** What stands on the broker for topics and groups: looks, makes, compares, removes. */
export class Topology {
  readonly #link: Link;
  readonly #names: BrokerNames;
  readonly #settings: Settings;
  /** Seconds; found out at the first subscription that is made. */
  #retention: number = longestRetention[0];
  readonly #survey: () => Survey;
  /** Subscriptions that we may have made, and have not moved to where they are to start. */
  readonly #unplaced = new Set<string>();

  /** @param survey finds the place where a new subscription starts */
  constructor(link: Link, names: BrokerNames, settings: Settings, survey: () => Survey) {
    this.#link = link;
    this.#names = names;
    this.#settings = settings;
    this.#survey = survey;
  }

  placeOf({ topic, name, temporary }: GroupRef): GroupPlace {
    return this.#names.group(topic.name, name, !topic.ordered && !temporary);
  }

  async describe(name: string): Promise<TopicInfo | undefined> {
    const topic = this.#names.topic(name);
    try {
      const { labels } = await this.#link.call((link) => link.publisher.getTopic({ topic }, link.once()));
      const ordered = labels?.[label.ordered];
      const lanes = Number(labels?.[label.lanes]);
      return {
        ordered: ordered === undefined ? undefined : ordered === 'true',
        lanes: ordered === 'true' && lanes > 0 ? lanes : undefined,
      };
    } catch (error) {
      if (isNotFound(error)) return undefined;
      // Who may publish but not look takes the topic as it was declared.
      if (statusOf(error) === status.permissionDenied) return { ordered: undefined, lanes: undefined };
      throw requestFailure(error, `topic "${name}" cannot be looked at`);
    }
  }

  /** The subscription as it stands; `undefined`: there is none. */
  async look(subscription: string): Promise<Standing | undefined> {
    try {
      const found = await this.#link.call((link) => link.subscriber.getSubscription({ subscription }, link.once()));
      return {
        topic: found.topic ?? '',
        ackDeadline: (found.ackDeadlineSeconds || ackDeadline) * 1_000,
        ordered: found.enableMessageOrdering === true,
        exactlyOnce: found.enableExactlyOnceDelivery === true,
        notPulled: isNotPulled(found),
        cautions: cautionsOf(found),
      };
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** What a group's subscription is like. @throws ConfigError when it cannot be read, or is not there */
  async standing(group: GroupRef): Promise<Standing> {
    const { subscription } = this.placeOf(group);
    let found: Standing | undefined;
    try {
      found = await this.look(subscription);
    } catch (error) {
      if (statusOf(error) !== status.permissionDenied)
        throw requestFailure(error, `${nameOfGroup(group)} cannot be joined`);
      // Who may pull but not look takes it as it was declared.
      return {
        topic: this.#names.topic(group.topic.name),
        ackDeadline: ackDeadline * 1_000,
        ordered: group.topic.ordered,
        exactlyOnce: false,
        notPulled: false,
        cautions: [],
      };
    }
    if (found === undefined || found.topic === deletedTopic) throw this.#gone(group);
    return found;
  }

  /** Whether a group's subscriptions are there and get what is published. */
  async wholeness(group: GroupRef): Promise<{ readonly main: boolean; readonly retries: boolean }> {
    const place = this.placeOf(group);
    const [main, retries] = await Promise.all([
      this.look(place.subscription),
      place.retry === undefined ? undefined : this.look(place.retry.subscription),
    ]);
    const stands = (one: Standing | undefined): boolean => one !== undefined && one.topic !== deletedTopic;
    return { main: stands(main), retries: place.retry === undefined || stands(retries) };
  }

  /** @returns what stands in the way, a sentence each */
  async create({ topic, groups }: ProvisionItem): Promise<readonly string[]> {
    checkTopic(topic);
    try {
      await this.makeTopic(topic);
      const found = await Promise.all(groups.map((group) => this.#createGroup(topic, group)));
      return found.flat();
    } catch (error) {
      throw requestFailure(error, `topic "${topic.name}" cannot be provisioned`);
    }
  }

  /** Nothing is made: only looks. */
  async verify({ topic, groups }: ProvisionItem): Promise<readonly string[]> {
    checkTopic(topic);
    const differences: string[] = [];
    try {
      const info = await this.describe(topic.name);
      if (info === undefined) differences.push(`topic "${topic.name}" (${this.#names.topic(topic.name)}) is missing`);
      else differences.push(...differs(topic, info));
      for (const group of groups) {
        checkOptions(group.options ?? {}, [], 'broker.pubsub');
        differences.push(...(await this.#verifyGroup(topic, group)));
      }
      return differences;
    } catch (error) {
      throw requestFailure(error, `topic "${topic.name}" cannot be verified`);
    }
  }

  async makeTopic(topic: TopicItem): Promise<void> {
    const labels: Record<string, string> = { [label.ordered]: String(topic.ordered) };
    if (topic.ordered) labels[label.lanes] = String(topic.lanes ?? defaultLanes);
    await this.#makeTopic(this.#names.topic(topic.name), labels);
  }

  /** A group's dead letters, where they are missing. */
  async makeDeadLetters(group: GroupRef): Promise<void> {
    await this.#makePair(this.placeOf(group).deadLetters);
  }

  async hasDeadLetters(group: GroupRef): Promise<boolean> {
    const { deadLetters } = this.placeOf(group);
    return (await this.look(deadLetters.subscription))?.topic === deadLetters.topic;
  }

  /** Makes a temporary or a permanent group again that was deleted, or whose topic was. */
  async makeAgain(group: GroupRef): Promise<void> {
    const { name, temporary } = group;
    const item = { name, temporary, startAt: 'latest' as const, options: undefined };
    const differences = await this.create({ topic: group.topic, groups: [item] });
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter: adapterName });
  }

  async remove(group: GroupRef): Promise<void> {
    const place = this.#names.group(group.topic.name, group.name, true);
    const pairs = [place.deadLetters, ...(place.retry === undefined ? [] : [place.retry])];
    try {
      await Promise.all([
        this.#deleteSubscription(place.subscription),
        // One after the other: members that look meanwhile are to find both, or no subscription.
        ...pairs.map(async ({ subscription, topic }) => {
          await this.#deleteSubscription(subscription);
          await this.#deleteTopic(topic);
        }),
      ]);
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} cannot be removed`);
    }
  }

  /** A subscription that nobody else knows of, for a look at what another one has. */
  async makeLook(subscription: string, topic: string): Promise<void> {
    const expirationPolicy = { ttl: { seconds: temporaryExpiry / 1_000 } };
    await this.#makeAtEnd({ name: subscription, topic, ackDeadlineSeconds: 600, expirationPolicy });
  }

  async #createGroup(topic: TopicItem, group: GroupItem): Promise<readonly string[]> {
    checkOptions(group.options ?? {}, [], 'broker.pubsub');
    const { name, temporary, startAt } = group;
    const place = this.placeOf({ topic, name, temporary });
    // Retries and dead letters first: who finds the group finds all of it.
    await Promise.all([
      place.retry === undefined ? undefined : this.#makePair(place.retry),
      temporary ? undefined : this.#makePair(place.deadLetters),
    ]);
    const making = { ...place, ordered: topic.ordered, temporary };
    let found = await this.look(place.subscription);
    if (found?.topic === deletedTopic) {
      // Members of a group find it at the same moment: what another one has made again by now is not to be deleted.
      await sleep(this.#link.clock, spread * Math.random());
      found = await this.look(place.subscription);
    }
    if (found?.topic === deletedTopic) {
      await this.#deleteSubscription(place.subscription);
      found = undefined;
    }
    const mayBeOurs = this.#unplaced.has(place.subscription);
    if (found === undefined || mayBeOurs) {
      // Before it is made: one that stands is not moved any more, so a position that does not exist must not leave one.
      const start = await this.#survey().target(place.topic, startAt);
      if (start !== undefined) this.#unplaced.add(place.subscription);
      const made = found === undefined && (await this.#makeUnplaced(making, mayBeOurs));
      if (start !== undefined && (made || mayBeOurs)) await this.#survey().move(place.subscription, start);
      this.#unplaced.delete(place.subscription);
      if (made) return [];
      found ??= await this.look(place.subscription);
    }
    return found === undefined ? [] : this.#unfit(name, making, found);
  }

  async #verifyGroup(topic: TopicItem, { name, temporary }: GroupItem): Promise<readonly string[]> {
    const place = this.placeOf({ topic, name, temporary });
    const what = nameOfGroup({ topic, name });
    const differences: string[] = [];
    const found = await this.look(place.subscription);
    if (found === undefined) differences.push(`${what}: subscription ${place.subscription} is missing`);
    else differences.push(...this.#unfit(name, { ...place, ordered: topic.ordered, temporary }, found));
    for (const pair of [place.retry, temporary ? undefined : place.deadLetters]) {
      if (pair === undefined) continue;
      const standing = await this.look(pair.subscription);
      if (standing === undefined) differences.push(`${what}: subscription ${pair.subscription} is missing`);
      else if (standing.topic !== pair.topic) differences.push(`${what}: topic ${pair.topic} is missing`);
    }
    return differences;
  }

  async #makePair(pair: Pair): Promise<void> {
    const { subscription, topic } = pair;
    const found = await this.look(subscription);
    // It still hands out what it has, and nothing tells whether that is all: what is hidden for a while cannot be seen.
    if (found?.topic === deletedTopic) {
      const text = `topic ${topic} was deleted, and subscription ${subscription} may still hold messages of it; read what it has, then delete it: both are made again`;
      throw new ConfigError('topology', text, { adapter: adapterName });
    }
    await this.#makeTopic(topic, {});
    if (found === undefined) await this.#makeSubscription({ ...pair, ordered: false, temporary: false });
  }

  async #makeTopic(topic: string, labels: Record<string, string>): Promise<void> {
    try {
      await this.#link.call((link) => link.publisher.getTopic({ topic }, link.once()));
      return;
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
    const { retainFor, tls } = this.#settings;
    // The emulator, the only one that speaks without TLS, cannot seek in order: there a new group would get all of it.
    const useless = retainFor === undefined || (!tls && labels[label.ordered] === 'true');
    const kept = useless ? null : { seconds: Math.ceil(retainFor / 1_000) };
    try {
      await this.#link.call((link) =>
        link.publisher.createTopic({ name: topic, labels, messageRetentionDuration: kept }, link.once()),
      );
    } catch (error) {
      if (statusOf(error) !== status.alreadyExists) throw error;
    }
  }

  /** A new subscription begins with what is published from now on. */
  async #makeAtEnd(request: Subscription): Promise<void> {
    const before = this.#link.clock.now();
    await this.#link.call((link) => link.subscriber.createSubscription(request, link.once()));
    // With the emulator, the only one that speaks without TLS, it begins with all that the topic keeps.
    if (this.#settings.tls || this.#settings.retainFor === undefined || request.enableMessageOrdering) return;
    const time = { seconds: Math.floor(before / 1_000), nanos: (before % 1_000) * 1e6 };
    const { name: subscription = null } = request;
    await this.#link.call((link) => link.subscriber.seek({ subscription, time }, link.once()));
  }

  /** As `#makeSubscription`; one that surely was not made is none of ours when somebody else makes it. */
  async #makeUnplaced(making: Making, mayBeOurs: boolean): Promise<boolean> {
    try {
      return await this.#makeSubscription(making);
    } catch (error) {
      const mayBeMade = isTransient(error) && !neverSent(error);
      if (!mayBeMade && !mayBeOurs) this.#unplaced.delete(making.subscription);
      throw error;
    }
  }

  /** @returns false when somebody else was quicker */
  async #makeSubscription(making: Making): Promise<boolean> {
    const { subscription, topic, ordered, temporary } = making;
    const retention = this.#retention;
    try {
      await this.#makeAtEnd({
        name: subscription,
        topic,
        ackDeadlineSeconds: ackDeadline,
        messageRetentionDuration: { seconds: retention },
        enableMessageOrdering: ordered,
        enableExactlyOnceDelivery: this.#settings.exactlyOnce,
        // Present and empty: it never expires. Absent: after 31 days without reader.
        expirationPolicy: temporary ? { ttl: { seconds: temporaryExpiry / 1_000 } } : {},
      });
      return true;
    } catch (error) {
      if (statusOf(error) === status.alreadyExists) return false;
      const tooLong = statusOf(error) === status.invalidArgument && /retention/i.test(String(error));
      if (!tooLong || retention === longestRetention[1]) throw error;
      this.#retention = longestRetention[1];
      return this.#makeSubscription(making);
    }
  }

  async #deleteSubscription(subscription: string): Promise<void> {
    await ignoreMissing(this.#link.call((link) => link.subscriber.deleteSubscription({ subscription }, link.once())));
  }

  async #deleteTopic(topic: string): Promise<void> {
    await ignoreMissing(this.#link.call((link) => link.publisher.deleteTopic({ topic }, link.once())));
  }

  /** What keeps a subscription from being read as the group. */
  #unfit(group: string, making: Making, found: Standing): readonly string[] {
    const { subscription, topic, ordered } = making;
    const what = `group "${group}": subscription ${subscription}`;
    const differences: string[] = [];
    if (found.topic !== topic) differences.push(`${what} reads ${found.topic} instead of ${topic}`);
    if (found.ordered !== ordered) {
      differences.push(
        `${what} was made ${found.ordered ? 'with' : 'without'} message ordering, which cannot be changed`,
      );
    }
    if (found.notPulled) differences.push(`${what} is not for pulling`);
    if (this.#settings.exactlyOnce && !found.exactlyOnce) {
      differences.push(
        `${what} has no exactly-once delivery; update it with \`gcloud pubsub subscriptions update --enable-exactly-once-delivery\`, or leave out exactlyOnce`,
      );
    }
    return differences;
  }

  #gone(group: GroupRef): ConfigError {
    return new ConfigError(
      'topology',
      `${nameOfGroup(group)} has no subscription ${this.placeOf(group).subscription}; subscribe with it first, or make it with provision()`,
      { adapter: adapterName },
    );
  }
}

export async function ignoreMissing(request: Promise<unknown>): Promise<void> {
  try {
    await request;
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}

function isNotPulled({ pushConfig, bigqueryConfig, cloudStorageConfig, detached }: Subscription): boolean {
  const writes = [bigqueryConfig, cloudStorageConfig].some((config) => config !== null && config !== undefined);
  return Boolean(pushConfig?.pushEndpoint) || writes || detached === true;
}

function cautionsOf({ deadLetterPolicy, messageRetentionDuration }: Subscription): readonly string[] {
  const cautions: string[] = [];
  if (deadLetterPolicy?.deadLetterTopic) {
    cautions.push(
      `its dead-letter policy moves messages to ${deadLetterPolicy.deadLetterTopic} after ${deadLetterPolicy.maxDeliveryAttempts} deliveries, also those that no handler was given, such as delayed ones; take the policy off`,
    );
  }
  const kept = Number(messageRetentionDuration?.seconds ?? 0);
  if (kept > 0 && kept < longestRetention[1]) {
    cautions.push(`it drops what is not settled in ${kept} seconds, also what is delayed; set its retention to 7 days`);
  }
  return cautions;
}

function differs({ name, ordered, lanes }: TopicItem, info: TopicInfo): readonly string[] {
  if (info.ordered !== undefined && info.ordered !== ordered) {
    return [`topic "${name}" is ${words(info.ordered)} on the broker, declared is ${words(ordered)}`];
  }
  if (lanes !== undefined && info.lanes !== undefined && info.lanes !== lanes) {
    return [`topic "${name}" has ${info.lanes} lanes on the broker, declared are ${lanes}`];
  }
  return [];
}

const words = (ordered: boolean): string => (ordered ? 'ordered' : 'without order');

function checkTopic(topic: TopicItem): void {
  checkOptions(topic.options ?? {}, [], 'broker.pubsub');
}
