/** Topics and groups: their names, how they are made, and where a new group starts. */
import {
  backOff,
  type Clock,
  ConfigError,
  checkOptions,
  type GroupRef,
  type Logger,
  type NameOverrides,
  type Names,
  nameMaker,
  type Position,
  type ProvisionItem,
  sleep,
  type TopicRef,
} from '@waybill/core/adapter';
import { type Driver, KafkaFailure, type NewTopic, type PartitionInfo, type TopicPartition } from './driver.ts';
import { asFailure, isNetwork, isPassing, toWaybillError } from './errors.ts';
import { DEFAULT_MAX_MESSAGE_BYTES, type Settings } from './options.ts';

/** Milliseconds that the delay levels hold a message; 0 is the one whose messages are due within the second. */
export const LEVELS: readonly number[] = [0, ...Array.from({ length: 22 }, (_, k) => 1_000 * 2 ** k)];

/** On top of what a topic takes: what its retries and dead letters carry beside the message (DLQ-06). */
const METADATA_RESERVE = 65_536;
/** Delay levels serve every topic of a prefix; managed clusters allow no more than this. */
const LEVEL_BYTES = 8 * 1024 * 1024;
/** Space that a level or retry topic keeps although everything in it is done. */
const SEGMENT_BYTES = 64 * 1024 * 1024;

export interface KafkaNames extends Names {
  level(milliseconds: number): string;
  /** The group of those who move messages through the levels. */
  readonly forwarders: string;
}

export function kafkaNames(prefix: string, overrides: NameOverrides): KafkaNames {
  const make = nameMaker(/[A-Za-z0-9._-]/, LONGEST_NAME);
  // Kafka takes . for _ when it compares names of topics, and names of groups may differ in just that. The prefix stays
  // as it is, so that rights can be given by it.
  const makeOwn = nameMaker(/[A-Za-z0-9_-]/, LONGEST_NAME - prefix.length);
  // `waybill-` is reserved, so no topic of a user is called so.
  const internal = `${prefix}waybill-delay.v1`;
  return {
    topic: (topic) => make(prefix + topic),
    group: (topic, group) => make(prefix + topic, group),
    retry: (topic, group) => make(prefix) + makeOwn(topic, group, 'retry'),
    deadLetter: (topic, group) => make(prefix) + makeOwn(topic, group, 'dead'),
    ...overrides,
    level: (milliseconds) => make(`${internal}.${milliseconds}`),
    forwarders: make(internal),
  };
}

const LONGEST_NAME = 249;

/** The options of a topic for this adapter: `broker: { kafka: … }`. */
export interface KafkaTopicOptions {
  readonly partitions?: number;
  readonly replicationFactor?: number;
  /** Kafka's own settings of the topic, such as `retention.ms`, when it is made. */
  readonly config?: Readonly<Record<string, string>>;
}

function topicOptions(topic: TopicRef): KafkaTopicOptions {
  const options = topic.options ?? {};
  checkOptions(options, ['partitions', 'replicationFactor', 'config'], `topic "${topic.name}" broker.kafka`);
  return options as KafkaTopicOptions;
}

export interface TopologyOptions {
  readonly driver: Driver;
  readonly names: KafkaNames;
  readonly settings: Settings;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** First offsets by partition. */
export type Offsets = ReadonlyMap<number, number>;

export class Topology {
  readonly #options: TopologyOptions;
  /** Where broadcasts start: pinned when they are provisioned (SUB-02). */
  readonly #pinned = new Map<string, Offsets>();
  /** Groups whose retry topic was there before they had a place: they have lost it (RET-02). */
  readonly #forgotten = new Set<string>();
  #levels = false;

  constructor(options: TopologyOptions) {
    this.#options = options;
  }

  /** Something that stood is gone: nothing is taken for granted any more. */
  recheck(): void {
    this.#levels = false;
  }

  /** Whether the delay levels are known to stand. */
  get hasLevels(): boolean {
    return this.#levels;
  }

  async describe(topic: string): Promise<readonly PartitionInfo[] | undefined> {
    const name = this.#options.names.topic(topic);
    const found = (await this.#ask(`topic "${topic}"`, () => this.#options.driver.describeTopics([name]))).get(name);
    if (found instanceof KafkaFailure && found.code !== 'UNKNOWN_TOPIC_OR_PARTITION') {
      throw toWaybillError(found, `topic "${topic}"`, this.#options.settings.target);
    }
    return found instanceof KafkaFailure ? undefined : found;
  }

  pinned(group: GroupRef): Offsets | undefined {
    return this.#pinned.get(`${group.topic.name}\n${group.name}`);
  }

  /** Whether the group was there once, although the broker has no place of it. */
  forgotten(group: GroupRef): boolean {
    return this.#forgotten.has(`${group.topic.name}\n${group.name}`);
  }

  /** @throws WaybillError */
  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    const { driver, names } = this.#options;
    const main = new Map(items.map(({ topic }) => [names.topic(topic.name), topic]));
    const groups = items.flatMap(({ topic, groups: list }) => list.map((group) => ({ topic, ...group })));
    const lasting = groups.filter(({ temporary }) => !temporary);
    const retry = new Map(lasting.map(({ topic, name }) => [names.retry(topic.name, name), topic]));
    const dead = new Map(lasting.map(({ topic, name }) => [names.deadLetter(topic.name, name), topic]));
    // A topic alone needs no delay levels, and to make them all takes a while; nothing at all asks for just them.
    const alone = mode === 'create' && items.length > 0 && groups.length === 0;
    const levels = this.#levels || alone ? [] : LEVELS.map((level) => names.level(level));

    const wanted = [...main.keys(), ...retry.keys(), ...dead.keys(), ...levels];
    const found = await this.#ask('provisioning', () => driver.describeTopics(wanted));
    const has = (name: string): boolean => !(found.get(name) instanceof KafkaFailure);
    for (const [name, answer] of found) {
      if (answer instanceof KafkaFailure && answer.code !== 'UNKNOWN_TOPIC_OR_PARTITION') {
        throw toWaybillError(answer, `topic "${name}"`, this.#options.settings.target);
      }
    }
    const differences = [...main].flatMap(([name, topic]) => this.#compare(name, topic, found.get(name)));
    if (mode === 'verify') {
      for (const name of wanted) if (!has(name)) differences.push(`topic "${name}" is missing`);
      for (const group of lasting) {
        if (!has(names.topic(group.topic.name))) continue;
        const partitions = await this.#partitions(names.topic(group.topic.name));
        if (!(await this.#hasPlace(names.group(group.topic.name, group.name), partitions))) {
          differences.push(`group "${names.group(group.topic.name, group.name)}" is missing`);
        }
      }
      await this.#pin(groups.filter(({ temporary, topic }) => temporary && has(names.topic(topic.name))));
      this.#levels ||= levels.every(has);
      return differences;
    }

    await this.#create([
      ...[...main].filter(([name]) => !has(name)).map(([name, topic]) => this.#mainTopic(name, topic)),
      ...levels.filter((name) => !has(name)).map((name) => this.#levelTopic(name)),
    ]);
    this.#levels ||= !alone;
    // The place first, the retry topic after it: where that stands without a place, the place was lost.
    for (const group of lasting) await this.#place(group, has(names.retry(group.topic.name, group.name)));
    const own = [...retry, ...dead].filter(([name]) => !has(name));
    const sizes = own.length === 0 ? new Map<string, number>() : await this.#maxBytes([...main.keys()]);
    const counts = new Map<string, number>();
    for (const name of own.length === 0 ? [] : main.keys()) counts.set(name, (await this.#partitions(name)).length);
    await this.#create(
      own.map(([name, topic]) => {
        const source = names.topic(topic.name);
        const bytes = (sizes.get(source) ?? DEFAULT_MAX_MESSAGE_BYTES) + METADATA_RESERVE;
        return retry.has(name) ? this.#retryTopic(name, counts.get(source) ?? 1, bytes) : this.#deadTopic(name, bytes);
      }),
    );
    await this.#pin(groups.filter(({ temporary }) => temporary));
    return differences;
  }

  /** What was declared and stands otherwise; a topic is never altered (ORD-05). */
  #compare(name: string, topic: TopicRef, found: readonly PartitionInfo[] | KafkaFailure | undefined): string[] {
    if (found === undefined || found instanceof KafkaFailure) return [];
    const declared = topicOptions(topic).partitions ?? topic.lanes;
    if (declared === undefined || declared === found.length) return [];
    return [`topic "${name}" has ${found.length} partitions and not ${declared}`];
  }

  #mainTopic(name: string, topic: TopicRef): NewTopic {
    const { settings } = this.#options;
    const options = topicOptions(topic);
    const partitions = options.partitions ?? topic.lanes ?? (topic.ordered === true ? 8 : settings.partitions);
    const bytes = settings.maxMessageBytes;
    const config = {
      ...(bytes === DEFAULT_MAX_MESSAGE_BYTES ? {} : { 'max.message.bytes': String(bytes) }),
      ...options.config,
    };
    const replicationFactor = options.replicationFactor ?? settings.replicationFactor;
    return { topic: name, partitions, replicationFactor, config };
  }

  #retryTopic(topic: string, partitions: number, bytes: number): NewTopic {
    return { topic, partitions, replicationFactor: this.#options.settings.replicationFactor, config: kept(bytes) };
  }

  #levelTopic(topic: string): NewTopic {
    const { replicationFactor, maxMessageBytes } = this.#options.settings;
    const bytes = Math.max(LEVEL_BYTES, maxMessageBytes + METADATA_RESERVE);
    // The time of arrival by the broker's clock: a producer with a wrong one would hold up all behind it.
    const config = { ...kept(bytes), 'message.timestamp.type': 'LogAppendTime' };
    return { topic, partitions: 1, replicationFactor, config };
  }

  #deadTopic(topic: string, bytes: number): NewTopic {
    const config = {
      'cleanup.policy': 'compact',
      'retention.ms': '-1',
      'retention.bytes': '-1',
      'max.message.bytes': String(bytes),
      'segment.ms': '86400000',
    };
    return { topic, partitions: 1, replicationFactor: this.#options.settings.replicationFactor, config };
  }

  async #create(topics: readonly NewTopic[]): Promise<void> {
    if (topics.length === 0) return;
    const { driver, settings } = this.#options;
    const results = await this.#ask('creating topics', () => driver.createTopics(topics));
    for (const [name, failure] of results) {
      // Somebody else has made it meanwhile.
      if (failure === undefined || failure.code === 'TOPIC_ALREADY_EXISTS') continue;
      throw toWaybillError(failure, `topic "${name}" cannot be made`, settings.target);
    }
    await this.#untilLed(topics.map(({ topic }) => topic));
  }

  /** The controller has made them; the brokers that are to lead them hear of it a moment later. */
  async #untilLed(names: readonly string[]): Promise<void> {
    const { driver, settings, clock } = this.#options;
    const giveUp = clock.monotonic() + settings.requestTimeout;
    for (let failures = 1; ; failures++) {
      const late = await this.#ask('creating topics', async () => {
        const found = await driver.describeTopics(names);
        const partitions: TopicPartition[] = [];
        for (const topic of names) {
          const known = found.get(topic);
          if (known === undefined || known instanceof KafkaFailure) return known ?? notLed(topic);
          if (known.some(({ leader }) => leader === undefined)) return notLed(topic);
          for (const { partition } of known) partitions.push({ topic, partition });
        }
        const ends = await driver.offsets(partitions.map((one) => ({ ...one, at: 'latest' as const })));
        return ends.find((end) => end instanceof KafkaFailure);
      });
      if (late === undefined) return;
      if (clock.monotonic() > giveUp) throw toWaybillError(late, 'creating topics', settings.target);
      await sleep(clock, backOff(failures, { initial: 10, max: 500 }));
    }
  }

  async #maxBytes(names: readonly string[]): Promise<Map<string, number>> {
    const key = 'max.message.bytes';
    const found = await this.#ask('reading topics', () => this.#options.driver.topicConfig(names, [key]));
    const sizes = new Map<string, number>();
    for (const [name, config] of found) {
      const bytes = config instanceof KafkaFailure ? Number.NaN : Number(config.get(key));
      if (Number.isInteger(bytes)) sizes.set(name, bytes);
    }
    return sizes;
  }

  async #partitions(name: string): Promise<readonly TopicPartition[]> {
    const found = await this.#ask(`topic "${name}"`, () => this.#options.driver.partitions(name));
    return found.map(({ partition }) => ({ topic: name, partition }));
  }

  async #hasPlace(group: string, partitions: readonly TopicPartition[]): Promise<boolean> {
    const { driver } = this.#options;
    const ask = () => this.#whenReady(() => driver.committed(group, partitions));
    return (await this.#ask(`group "${group}"`, ask)).some((place) => place !== undefined);
  }

  /**
   * Gives a new group its place (SUB-02). The offsets are read before the look at what is there: when two do this at
   * once, the later commit is of an older end, and nothing that was published in between is skipped.
   */
  async #place(
    { topic, name, startAt }: { topic: TopicRef; name: string; startAt: Position },
    remembered: boolean,
  ): Promise<void> {
    const { driver, names, settings, logger } = this.#options;
    const source = names.topic(topic.name);
    const group = names.group(topic.name, name);
    const partitions = await this.#partitions(source);
    const offsets = await this.resolve(source, startAt);
    const known = `${topic.name}\n${name}`;
    if (await this.#hasPlace(group, partitions)) {
      this.#forgotten.delete(known);
      return;
    }
    if (remembered) {
      // Whoever reads first says so, and goes on from the earliest message.
      this.#forgotten.add(known);
      return;
    }
    const entries = partitions.map((one) => ({ ...one, offset: offsets.get(one.partition) ?? 0, metadata: '' }));
    try {
      await this.#whenReady(() => driver.commit(group, undefined, entries));
    } catch (error) {
      const failure = asFailure(error);
      if (failure.code !== 'UNKNOWN_MEMBER_ID') {
        throw toWaybillError(failure, `group "${group}" cannot be made`, settings.target);
      }
      // Members are there already, so the group is not new.
      logger.debug(`kafka: group "${group}" has members and keeps its place`);
    }
  }

  async #pin(groups: readonly { topic: TopicRef; name: string; startAt: Position }[]): Promise<void> {
    for (const { topic, name, startAt } of groups) {
      const offsets = await this.resolve(this.#options.names.topic(topic.name), startAt);
      this.#pinned.set(`${topic.name}\n${name}`, offsets);
    }
  }

  unpin(group: GroupRef): void {
    this.#pinned.delete(`${group.topic.name}\n${group.name}`);
  }

  /** Offsets of a place in a topic. @throws ConfigError for a position that is none */
  async resolve(source: string, to: Position): Promise<Offsets> {
    const partitions = await this.#partitions(source);
    if (to === 'earliest' || to === 'latest') return this.#offsetsAt(partitions, to);
    if (to instanceof Date) return this.#since(partitions, to.getTime());
    const match = /^(\d{1,9}):(\d{1,15})$/.exec(to.position);
    const partition = Number(match?.[1]);
    const offset = Number(match?.[2]);
    if (match === null || !partitions.some((one) => one.partition === partition)) {
      const count = partitions.length;
      throw new ConfigError(
        'position',
        `"${to.position}" is no place in topic "${source}"; write partition:offset with a partition below ${count}, as in a receipt or message`,
      );
    }
    // The other partitions have no order relative to this one but that of time.
    const time = await this.#timeOf({ topic: source, partition }, offset);
    const others =
      time === undefined ? await this.#offsetsAt(partitions, 'latest') : await this.#since(partitions, time);
    return new Map([...others, [partition, offset]]);
  }

  async #offsetsAt(
    partitions: readonly TopicPartition[],
    at: 'earliest' | 'latest' | number,
  ): Promise<Map<number, number>> {
    const { driver } = this.#options;
    const asks = partitions.map((one) => ({ ...one, at }));
    const found = await this.#ask('reading offsets', () => this.#whenReady(() => driver.offsets(asks)));
    const offsets = new Map<number, number>();
    for (const [index, { partition }] of partitions.entries()) {
      const offset = found[index];
      if (offset !== undefined) offsets.set(partition, offset);
    }
    return offsets;
  }

  async #since(partitions: readonly TopicPartition[], time: number): Promise<Map<number, number>> {
    const ends = await this.#offsetsAt(partitions, 'latest');
    return new Map([...ends, ...(await this.#offsetsAt(partitions, Math.max(0, time)))]);
  }

  /** When the message at an offset, or the next one after it, was published; `undefined` at the end. */
  async #timeOf(place: TopicPartition, offset: number): Promise<number | undefined> {
    const { driver, settings } = this.#options;
    const earliest = (await this.#offsetsAt([place], 'earliest')).get(place.partition) ?? 0;
    const partitions = await this.#ask(`topic "${place.topic}"`, () => driver.partitions(place.topic));
    const leader = partitions.find(({ partition }) => partition === place.partition)?.leader;
    if (leader === undefined) {
      driver.forget(place.topic);
      throw toWaybillError(notLed(place.topic), 'reading a message', settings.target);
    }
    const link = driver.openFetch();
    try {
      const [answer] = await this.#ask('reading a message', () =>
        link.fetch(leader, [{ ...place, offset: Math.max(offset, earliest), maxBytes: 65_536 }], 0),
      );
      if (!(answer instanceof KafkaFailure)) return answer?.records[0]?.timestamp;
      if (answer.code === 'OFFSET_OUT_OF_RANGE') return undefined;
      throw toWaybillError(answer, 'reading a message', settings.target);
    } finally {
      link.close();
    }
  }

  /**
   * Asks until the broker knows: one that has just started is told one by one what it leads and coordinates.
   *
   * @throws KafkaFailure for a refusal that does not pass
   */
  async #whenReady<T>(request: () => Promise<readonly (T | KafkaFailure)[]>): Promise<readonly T[]> {
    const { settings, clock } = this.#options;
    const giveUp = clock.monotonic() + settings.requestTimeout;
    for (let failures = 1; ; failures++) {
      const answers = await request().catch((error: unknown): KafkaFailure[] => [asFailure(error)]);
      const refusals: KafkaFailure[] = [];
      const good: T[] = [];
      for (const answer of answers) {
        if (answer instanceof KafkaFailure) refusals.push(answer);
        else good.push(answer);
      }
      const [first] = refusals;
      if (first === undefined) return good;
      if (!isLate(first) || clock.monotonic() > giveUp) throw first;
      await sleep(clock, backOff(failures, { initial: 20, max: 500 }));
    }
  }

  async #ask<T>(what: string, request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } catch (error) {
      throw toWaybillError(error, what, this.#options.settings.target);
    }
  }
}

const isLate = (failure: KafkaFailure): boolean =>
  isPassing(failure) && !isNetwork(failure) && failure.code !== 'UNKNOWN_MEMBER_ID';

const notLed = (topic: string): KafkaFailure =>
  new KafkaFailure('LEADER_NOT_AVAILABLE', `topic "${topic}" has no leader yet`, { sent: true });

/** Of a topic that loses nothing by itself; what is done in it is deleted by whoever has done it (RET-01). */
const kept = (bytes: number): Record<string, string> => ({
  'cleanup.policy': 'delete',
  'retention.ms': '-1',
  'retention.bytes': '-1',
  'segment.bytes': String(SEGMENT_BYTES),
  'max.message.bytes': String(bytes),
});
