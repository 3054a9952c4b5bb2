import {
  ConfigError,
  checkOptions,
  type GroupRef,
  integer,
  type Logger,
  nameOfGroup,
  type ProvisionItem,
  type TopicInfo,
  UnsupportedError,
} from '@waybill/core/adapter';
import { queueNameOf } from './arns.ts';
import { oneGroup } from './capabilities.ts';
import { adapterName, requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import { type GroupNames, isFifo, type QueueName, type SqsNames } from './names.ts';
import { type QueueAttributes, Queues, tags, unlessMissing } from './queues.ts';
import { Difference, defaultLanes, type Topic, Topics } from './topics.ts';

/**
 * Looks, half a minute to a minute apart, in which a broadcast's sign of life has not changed until its queue counts
 * as nobody's. Members change theirs as often. An outage is no look, so nobody is taken for dead because of one.
 */
const silentLooks = 8;
/** After so many deliveries that nobody settled, SQS moves a message to the dead letters itself: a safety net. */
const maxReceiveCount = 1_000;

/** Where a group lives. */
export interface GroupPlace {
  readonly queueUrl: string;
  readonly deadUrl: string | undefined;
  readonly aloneUrl: string | undefined;
}

type GroupItem = ProvisionItem['groups'][number];

/** Topics and groups as they stand on AWS: described, made, verified, removed. */
export class Topology {
  readonly #link: Link;
  readonly #names: SqsNames;
  readonly #logger: Logger;
  readonly #queues: Queues;
  readonly #topics: Topics;
  #delayMade: Promise<string> | undefined;
  /** Broadcasts' queues by URL: the sign of life that was seen last, and in how many looks it was the same. */
  readonly #signs = new Map<string, { readonly alive: string; looks: number }>();

  constructor(link: Link, names: SqsNames, logger: Logger) {
    this.#link = link;
    this.#names = names;
    this.#logger = logger;
    this.#queues = new Queues(link);
    this.#topics = new Topics(link, names);
  }

  get #byTopic(): boolean {
    return this.#link.settings.fanOut === 'topic';
  }

  async describe(name: string): Promise<TopicInfo | undefined> {
    try {
      const [plain, ordered] = await Promise.all([this.#hasTopic(name, false), this.#hasTopic(name, true)]);
      if (!plain && !ordered) return undefined;
      // Both may stand there; then nobody but the declaration can tell which one is meant.
      if (plain && ordered) return { ordered: undefined, lanes: undefined };
      return { ordered, lanes: ordered ? await this.#lanesOf(name) : undefined };
    } catch (error) {
      throw requestFailure(error, `topic "${name}" cannot be looked up`);
    }
  }

  async create({ topic, groups }: ProvisionItem): Promise<readonly string[]> {
    checkAll(topic, groups);
    try {
      if (!(await this.#hasTopic(topic.name, topic.ordered))) await this.#makeTopic(topic);
      if (!topic.ordered && this.#byTopic) await this.makeDelayQueue();
      for (const group of groups) await this.#makeGroup(topic, group);
      return [];
    } catch (error) {
      if (error instanceof Difference) return [error.message];
      throw requestFailure(error, `topic "${topic.name}" cannot be provisioned`);
    }
  }

  async verify({ topic, groups }: ProvisionItem): Promise<readonly string[]> {
    checkAll(topic, groups);
    try {
      const found = await this.#hasTopic(topic.name, topic.ordered);
      const missing = found ? [] : [`topic "${topic.name}" is missing`];
      for (const { name, temporary } of groups) {
        const problem = await this.#verifyGroup({ topic, name, temporary }, found);
        if (problem !== undefined) missing.push(`${nameOfGroup({ topic, name })} is missing: ${problem}`);
      }
      return missing;
    } catch (error) {
      throw requestFailure(error, `topic "${topic.name}" cannot be verified`);
    }
  }

  /** @throws ConfigError where the group does not exist */
  async placeOf(group: GroupRef): Promise<GroupPlace> {
    const { queue, dead, alone } = this.#groupNames(group);
    const [queueUrl, deadUrl, aloneUrl] = await Promise.all([
      this.#queues.url(queue.name),
      group.temporary ? undefined : this.#queues.url(dead.name),
      alone === undefined ? undefined : this.#queues.url(alone.name),
    ]);
    if (queueUrl === undefined) throw noGroup(group, queue.name);
    if (!group.temporary && deadUrl === undefined) throw noGroup(group, dead.name);
    return { queueUrl, deadUrl, aloneUrl };
  }

  /** What a publish goes to: the ARN of an SNS topic, or the URL of the queue that the topic is. */
  async targetOf({ name, ordered }: Topic): Promise<string> {
    const target = this.#byTopic
      ? await this.#topics.arnOf(name, ordered)
      : await this.#queues.url(this.#names.topicQueue(name, ordered).name);
    if (target !== undefined) return target;
    throw new ConfigError('topology', `topic "${name}" does not exist; provision it`, { adapter: adapterName });
  }

  async remove(group: GroupRef): Promise<void> {
    const { queue, dead, alone } = this.#groupNames(group);
    try {
      if (this.#byTopic) await this.#topics.unsubscribe(group.topic, queue.name);
      const others = group.temporary ? [] : [dead, alone];
      await Promise.all([queue, ...others].map((one) => one && this.#queues.delete(one.name)));
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} cannot be removed`);
    }
  }

  /** What a receiver's group consists of, once more, after something of it was deleted. */
  async restore(group: GroupRef): Promise<void> {
    const { topic, name, temporary } = group;
    const { queue, dead, alone } = this.#groupNames(group);
    for (const one of [queue, dead, alone]) if (one !== undefined) this.#queues.forget(one.name);
    const groups = [{ name, temporary, startAt: 'latest' as const, options: undefined }];
    const differences = await this.create({ topic, groups });
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter: adapterName });
  }

  /** Whether the group's queue still gets what is published. */
  async isSubscribed(group: GroupRef): Promise<boolean> {
    const { queue } = this.#groupNames(group);
    // How a queue of the user's own gets its messages is the user's business.
    if (!this.#byTopic || queue.given) return true;
    return (await this.#topics.subscriptionOf(group.topic, queue.name)) !== undefined;
  }

  /** The queue where delayed publishes wait. */
  makeDelayQueue(): Promise<string> {
    this.#delayMade ??= this.#queues.make(this.#names.delay).catch((error: unknown) => {
      this.#delayMade = undefined;
      throw error;
    });
    return this.#delayMade;
  }

  delayQueue(): Promise<string | undefined> {
    return this.#queues.url(this.#names.delay.name);
  }

  forgetDelayQueue(): void {
    this.#delayMade = undefined;
    this.#queues.forget(this.#names.delay.name);
  }

  // Broadcasts: SQS has no queues that expire, so their members say that they are in use.

  async touch(group: GroupRef): Promise<void> {
    const { queue } = this.#groupNames(group);
    const url = await this.#queues.url(queue.name);
    if (url === undefined) return;
    const subscription = this.#topics.knownSubscription(queue.name);
    await this.#queues.tag(url, {
      ...this.#inUse(),
      ...(subscription === undefined ? {} : { [tags.subscription]: subscription }),
    });
  }

  /**
   * One look at the queues of all broadcasts; removes those that nobody has been seen to use for so many looks. It
   * compares no clocks: theirs may be wrong, or ours.
   */
  async sweep(): Promise<void> {
    const urls = new Set(await this.#queues.list(this.#names.broadcasts));
    for (const url of this.#signs.keys()) if (!urls.has(url)) this.#signs.delete(url);
    for (const url of urls) {
      const found = await this.#queues.tagsOf(url).catch(unlessMissing);
      const { [tags.alive]: alive, [tags.subscription]: subscription } = found ?? {};
      if (alive === undefined) continue;
      const seen = this.#signs.get(url);
      if (seen?.alive !== alive) {
        this.#signs.set(url, { alive, looks: 0 });
        continue;
      }
      seen.looks++;
      if (seen.looks < silentLooks) continue;
      if (subscription !== undefined) await this.#topics.end(subscription);
      await this.#queues.deleteAt(url);
      this.#signs.delete(url);
      this.#logger.debug(`sqs: queue ${queueNameOf(url)} of a broadcast whose process is gone was deleted`);
    }
  }

  #inUse(): Readonly<Record<string, string>> {
    return { [tags.alive]: String(this.#link.clock.now()) };
  }

  // Topics.

  async #hasTopic(name: string, ordered: boolean): Promise<boolean> {
    if (this.#byTopic) return this.#topics.exists(name, ordered);
    const queue = this.#names.topicQueue(name, ordered);
    if (queue.given && isFifo(queue.name) !== ordered) return false;
    return (await this.#queues.find(queue.name)) !== undefined;
  }

  async #lanesOf(name: string): Promise<number | undefined> {
    if (this.#byTopic) return this.#topics.lanesOf(name);
    const url = await this.#queues.url(this.#names.topicQueue(name, true).name);
    return url === undefined ? undefined : integer((await this.#queues.tagsOf(url))[tags.lanes]);
  }

  async #makeTopic(topic: Topic): Promise<void> {
    const { name, ordered, lanes } = topic;
    if (!this.#byTopic) {
      const more: Record<string, string> = ordered ? { [tags.lanes]: String(lanes ?? defaultLanes) } : {};
      await this.#queues.make(this.#names.topicQueue(name, ordered), {}, more);
      return;
    }
    const arn = await this.#topics.make(topic);
    // It may be one that was deleted: groups that stand there get what is published from now on.
    const prefix = this.#names.groupsOf(name);
    if (prefix === undefined) return;
    for (const url of await this.#queues.list(prefix)) {
      const queue = queueNameOf(url);
      if (isFifo(queue) !== ordered) continue;
      await this.#topics.subscribe(arn, queue);
      this.#logger.info(`sqs: queue ${queue} was subscribed again to topic "${name}", which was made`);
    }
  }

  // Groups.

  #groupNames({ topic, name, temporary }: GroupRef): GroupNames {
    const names = this.#names.group(topic.name, name, topic.ordered, temporary);
    return this.#byTopic ? names : { ...names, queue: this.#names.topicQueue(topic.name, topic.ordered) };
  }

  async #makeGroup(topic: Topic, { name, temporary }: GroupItem): Promise<void> {
    const group = { topic, name, temporary };
    const { queue, dead, alone } = this.#groupNames(group);
    if (!this.#byTopic) await this.#claim(group, queue);
    if (!temporary) await Promise.all([this.#queues.make(dead), alone && this.#queues.make(alone)]);
    if (!this.#byTopic) return;
    const arn = await this.#topics.arnOf(topic.name, topic.ordered);
    if (arn === undefined) throw new Error(`SNS does not list topic "${topic.name}", which was made`);
    const attributes: QueueAttributes = { Policy: policyFor(await this.#topics.queueArnOf(queue.name, arn), arn) };
    if (!temporary) {
      const deadLetterTargetArn = await this.#topics.queueArnOf(dead.name, arn);
      attributes.RedrivePolicy = JSON.stringify({ deadLetterTargetArn, maxReceiveCount });
    }
    await this.#queues.make(queue, attributes, temporary ? this.#inUse() : {});
    await this.#topics.subscribe(arn, queue.name);
    if (temporary) await this.touch(group);
  }

  /**
   * The one queue that is the topic belongs to the first group that asks for it.
   *
   * @throws UnsupportedError for another one, and for a broadcast
   */
  async #claim({ topic, name, temporary }: GroupRef, queue: QueueName): Promise<void> {
    const cannot = (why: string): UnsupportedError =>
      new UnsupportedError('groups', adapterName, `${oneGroup}: topic "${topic.name}" ${why}`, "use fanOut: 'topic'");
    if (temporary) throw cannot('can have no broadcast');
    const url = await this.#queues.make(queue);
    // Group names have characters that a tag's value cannot have.
    const wanted = Buffer.from(name).toString('base64');
    const owner = (await this.#queues.tagsOf(url))[tags.group];
    if (owner === wanted) return;
    if (owner === undefined) return this.#queues.tag(url, { [tags.group]: wanted });
    const other = Buffer.from(owner, 'base64').toString();
    throw cannot(`has the group "${other}", so it cannot have "${name}"`);
  }

  /** @returns what is missing */
  async #verifyGroup(group: GroupRef, hasTopic: boolean): Promise<string | undefined> {
    const { queue, dead, alone } = this.#groupNames(group);
    const absent: string[] = [];
    for (const one of [queue, dead, alone]) {
      if (one !== undefined && (await this.#queues.find(one.name)) === undefined) absent.push(one.name);
    }
    if (absent.length > 0) return `no queue ${absent.join(', ')}`;
    if (!hasTopic || (await this.isSubscribed(group))) return undefined;
    return `queue ${queue.name} is not subscribed to the topic`;
  }
}

/** This adapter has no options for topics and groups. */
function checkAll(topic: Topic, groups: readonly GroupItem[]): void {
  checkOptions(topic.options ?? {}, [], 'broker.sqs');
  for (const { options } of groups) checkOptions(options ?? {}, [], 'broker.sqs');
}

/** Lets the topic, and no other, write to the queue. */
function policyFor(queueArn: string, topicArn: string): string {
  return JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      {
        Sid: 'waybill',
        Effect: 'Allow',
        Principal: { Service: 'sns.amazonaws.com' },
        Action: 'sqs:SendMessage',
        Resource: queueArn,
        Condition: { ArnEquals: { 'aws:SourceArn': topicArn } },
      },
    ],
  });
}

function noGroup({ topic, name }: GroupRef, queue: string): ConfigError {
  return new ConfigError(
    'group',
    `topic "${topic.name}" has no group "${name}" (no queue ${queue}); subscribe with it first, or provision it`,
    { adapter: adapterName },
  );
}
