/**
 * The driver on kafkajs 2.2.4: its connections (sockets, TLS, SASL) and its codecs of the protocol.
 *
 * Its producer and consumer are not used, for what they do when something fails (measured or read in its source):
 * a failing partition makes it forget that the others of the request were stored, and it takes their sequence numbers
 * again, so that later messages are taken for doubles and dropped; its consumer reads retained partitions anew at
 * every rebalance, cannot wait between a revocation and the join, and beats its heart only between two fetches. So the
 * version is pinned in package.json: what is imported here by path is not its public interface.
 */
import { type Host, showHost, sleep } from '@waybill/core/adapter';
import kafkajs from 'kafkajs';
import {
  type CommitEntry,
  type Committed,
  type Driver,
  type FetchAnswer,
  type FetchAsk,
  type FetchLink,
  type GroupDescription,
  type GroupLink,
  type JoinAnswer,
  KafkaFailure,
  type MemberRef,
  type NewTopic,
  type OffsetAt,
  type PartitionInfo,
  type Producer,
  type RecordBatch,
  type TopicPartition,
} from './driver.ts';
import {
  closedFailure,
  foreignCodec,
  type LinkOptions,
  LinkPool,
  nameOf,
  refusal,
  refused,
  toFailure,
} from './kafkajs-link.ts';
import { decodeFetch } from './record-format.ts';

export interface DriverOptions extends LinkOptions {
  readonly brokers: readonly Host[];
  readonly compression: 'none' | 'gzip';
}

export function kafkajsDriver(options: DriverOptions): Driver {
  return new KafkajsDriver(options);
}

/** In milliseconds: a hundred years, which added to the present still fits the broker's arithmetic. */
const KEPT_FOR_EVER = 3_155_760_000_000;

class KafkajsDriver implements Driver {
  readonly #options: DriverOptions;
  readonly #brokers = new Map<number, Host>();
  readonly #topics = new Map<string, { readonly partitions: readonly PartitionInfo[]; readonly until: number }>();
  readonly #reading = new Map<string, Promise<Map<string, readonly PartitionInfo[] | KafkaFailure>>>();
  readonly #coordinators = new Map<string, number>();
  readonly #control: LinkPool;
  readonly #producing: LinkPool;
  readonly #own = new Set<{ close(): void }>();
  #controller = -1;
  #closed = false;
  #native: kafkajs.Kafka | undefined;

  constructor(options: DriverOptions) {
    this.#options = options;
    this.#control = new LinkPool(options);
    this.#producing = new LinkPool(options);
  }

  get native(): unknown {
    const { brokers, ssl, sasl, clientId, connectTimeout, logger } = this.#options;
    this.#native ??= new kafkajs.Kafka({
      brokers: brokers.map(showHost),
      ssl,
      ...(sasl === undefined ? {} : { sasl }),
      clientId,
      connectionTimeout: connectTimeout,
      logCreator:
        () =>
        ({ log }) =>
          logger.debug(`kafkajs: ${log.message}`),
    });
    return this.#native;
  }

  async connect(): Promise<void> {
    await this.#readMetadata([aTopic]);
  }

  async describeTopics(names: readonly string[]): Promise<Map<string, readonly PartitionInfo[] | KafkaFailure>> {
    // An empty list means all topics to Kafka.
    return names.length === 0 ? new Map() : this.#readMetadata(names);
  }

  async partitions(topic: string): Promise<readonly PartitionInfo[]> {
    const known = this.#topics.get(topic);
    if (known !== undefined && this.#options.clock.monotonic() < known.until) return known.partitions;
    // Everybody who asks meanwhile waits for the same answer.
    let reading = this.#reading.get(topic);
    if (reading === undefined) {
      reading = this.#readMetadata([topic]).finally(() => this.#reading.delete(topic));
      this.#reading.set(topic, reading);
    }
    const found = (await reading).get(topic);
    if (found === undefined) throw refused('UNKNOWN_TOPIC_OR_PARTITION', topic);
    if (found instanceof KafkaFailure) throw found;
    if (found.length === 0) throw refused('LEADER_NOT_AVAILABLE', `topic "${topic}" is being made`);
    return found;
  }

  forget(topic: string): void {
    this.#topics.delete(topic);
  }

  async #readMetadata(names: readonly string[]): Promise<Map<string, readonly PartitionInfo[] | KafkaFailure>> {
    const answer = (await this.#callAny('Metadata', {
      topics: names,
      allowAutoTopicCreation: false,
    })) as MetadataAnswer;
    this.#brokers.clear();
    for (const { nodeId, host, port } of answer.brokers) this.#brokers.set(nodeId, { host, port });
    this.#controller = answer.controllerId;
    const found = new Map<string, readonly PartitionInfo[] | KafkaFailure>();
    for (const { topic, topicErrorCode, partitionMetadata } of answer.topicMetadata) {
      // While a topic is new its partitions have no leader yet; that is said of each of them, not a failure.
      if (topicErrorCode !== 0 && nameOf(topicErrorCode) !== 'LEADER_NOT_AVAILABLE') {
        this.#topics.delete(topic);
        found.set(topic, refusal(topicErrorCode, `topic "${topic}"`));
        continue;
      }
      const partitions = partitionMetadata
        .map(({ partitionId, leader }) => ({ partition: partitionId, leader: leader < 0 ? undefined : leader }))
        .sort((a, b) => a.partition - b.partition);
      // Also where one has no leader: the others go on, and whoever needs that one forgets the topic and asks again.
      const until = this.#options.clock.monotonic() + TOPIC_AGE;
      if (partitions.length > 0) this.#topics.set(topic, { partitions, until });
      found.set(topic, partitions);
    }
    return found;
  }

  async createTopics(topics: readonly NewTopic[]): Promise<Map<string, KafkaFailure | undefined>> {
    const answer = (await this.#callController('CreateTopics', {
      topics: topics.map(({ topic, partitions, replicationFactor, config }) => ({
        topic,
        numPartitions: partitions,
        replicationFactor,
        configEntries: Object.entries(config).map(([name, value]) => ({ name, value })),
      })),
      timeout: this.#options.requestTimeout,
    })) as TopicErrors;
    return new Map(
      answer.topicErrors.map(({ topic, errorCode, errorMessage }) => [
        topic,
        errorCode === 0 ? undefined : refusal(errorCode, errorMessage ?? `topic "${topic}"`),
      ]),
    );
  }

  async deleteTopics(names: readonly string[]): Promise<Map<string, KafkaFailure | undefined>> {
    for (const name of names) this.#topics.delete(name);
    const answer = (await this.#callController('DeleteTopics', {
      topics: names,
      timeout: this.#options.requestTimeout,
    })) as TopicErrors;
    return new Map(
      answer.topicErrors.map(({ topic, errorCode }) => [
        topic,
        errorCode === 0 ? undefined : refusal(errorCode, `topic "${topic}"`),
      ]),
    );
  }

  async topicConfig(
    names: readonly string[],
    keys: readonly string[],
  ): Promise<Map<string, ReadonlyMap<string, string> | KafkaFailure>> {
    if (names.length === 0) return new Map();
    const answer = (await this.#callAny('DescribeConfigs', {
      resources: names.map((name) => ({ type: kafkajs.ConfigResourceTypes.TOPIC, name, configNames: keys })),
    })) as ConfigAnswer;
    return new Map(
      answer.resources.map(({ resourceName, errorCode, configEntries }) => [
        resourceName,
        errorCode === 0
          ? new Map(configEntries.map(({ configName, configValue }) => [configName, configValue ?? '']))
          : refusal(errorCode, `topic "${resourceName}"`),
      ]),
    );
  }

  async offsets(
    asks: readonly (TopicPartition & { readonly at: OffsetAt })[],
  ): Promise<readonly (number | undefined | KafkaFailure)[]> {
    const results: (number | undefined | KafkaFailure)[] = new Array(asks.length).fill(undefined);
    // One answer per partition and request: what is asked twice of a partition goes into requests of its own.
    const rounds = new Map<string, { broker: number; index: number }[]>();
    const turns = new Map<string, number>();
    for (const [index, ask] of asks.entries()) {
      const leader = await this.#leader(ask);
      if (leader instanceof KafkaFailure) {
        results[index] = leader;
        continue;
      }
      const partition = `${ask.topic}:${ask.partition}`;
      const turn = turns.get(partition) ?? 0;
      turns.set(partition, turn + 1);
      const round = `${leader} ${turn}`;
      rounds.set(round, [...(rounds.get(round) ?? []), { broker: leader, index }]);
    }
    await Promise.all(
      [...rounds.values()].map(async (members) => {
        const indexes = new Map<string, number>();
        const topics = new Map<string, { partition: number; timestamp: number }[]>();
        for (const { index } of members) {
          const { topic, partition, at } = asks[index] as TopicPartition & { at: OffsetAt };
          indexes.set(`${topic}:${partition}`, index);
          const list = topics.get(topic) ?? [];
          list.push({ partition, timestamp: at === 'latest' ? -1 : at === 'earliest' ? -2 : at });
          topics.set(topic, list);
        }
        const args = { topics: [...topics].map(([topic, partitions]) => ({ topic, partitions })) };
        const answer = (await this.#call(
          this.#control,
          members[0]?.broker as number,
          'ListOffsets',
          args,
        )) as OffsetsAnswer;
        for (const { topic, partitions } of answer.responses) {
          for (const { partition, errorCode, offset } of partitions) {
            const index = indexes.get(`${topic}:${partition}`);
            if (index === undefined) continue;
            if (errorCode !== 0) this.forget(topic);
            results[index] =
              errorCode !== 0
                ? refusal(errorCode, `partition ${partition} of topic "${topic}"`)
                : Number(offset) < 0
                  ? undefined
                  : Number(offset);
          }
        }
      }),
    );
    return results;
  }

  async #leader({ topic, partition }: TopicPartition): Promise<number | KafkaFailure> {
    let partitions: readonly PartitionInfo[];
    try {
      partitions = await this.partitions(topic);
    } catch (error) {
      const failure = toFailure(error, false);
      if (failure.code === 'UNKNOWN_TOPIC_OR_PARTITION') return failure;
      throw failure;
    }
    const leader = partitions.find((one) => one.partition === partition)?.leader;
    if (leader !== undefined) return leader;
    this.forget(topic);
    return refused('LEADER_NOT_AVAILABLE', `partition ${partition} of topic "${topic}"`);
  }

  async deleteRecords(before: readonly (TopicPartition & { readonly offset: number })[]): Promise<void> {
    const leaders = new Map<number, (TopicPartition & { offset: number })[]>();
    for (const one of before) {
      const leader = await this.#leader(one);
      if (leader instanceof KafkaFailure) continue;
      leaders.set(leader, [...(leaders.get(leader) ?? []), one]);
    }
    for (const [broker, list] of leaders) {
      await this.#call(this.#control, broker, 'DeleteRecords', {
        topics: byTopic(list, ({ partition, offset }) => ({ partition, offset: String(offset) })),
        timeout: this.#options.requestTimeout,
      });
    }
  }

  async newProducer(): Promise<Producer> {
    const answer = (await this.#whenReady('InitProducerId', { transactionalId: null })) as ProducerAnswer;
    if (answer.errorCode !== 0) throw refusal(answer.errorCode, 'a producer id');
    return { id: answer.producerId, epoch: answer.producerEpoch };
  }

  async produce(
    broker: number,
    producer: Producer,
    batches: readonly RecordBatch[],
  ): Promise<readonly (number | KafkaFailure)[]> {
    const topics = new Map<string, { partition: number; messages: unknown; firstSequence: number }[]>();
    const indexes = new Map<string, number>();
    for (const [index, { topic, partition, records, sequence }] of batches.entries()) {
      const list = topics.get(topic) ?? [];
      list.push({ partition, messages: records, firstSequence: sequence });
      topics.set(topic, list);
      indexes.set(`${topic}:${partition}`, index);
    }
    const answer = (await this.#call(
      this.#producing,
      broker,
      'Produce',
      {
        acks: -1,
        timeout: this.#options.requestTimeout,
        compression: this.#options.compression === 'gzip' ? 1 : 0,
        topicData: [...topics].map(([topic, partitions]) => ({ topic, partitions })),
        transactionalId: null,
        producerId: producer.id,
        producerEpoch: producer.epoch,
      },
      this.#options.requestTimeout * 2,
    )) as ProduceAnswer;
    const results: (number | KafkaFailure)[] = batches.map(
      ({ topic }) => new KafkaFailure('UNKNOWN', `topic "${topic}": no answer`, { sent: true }),
    );
    for (const { topicName, partitions } of answer.topics) {
      for (const { partition, errorCode, baseOffset } of partitions) {
        const index = indexes.get(`${topicName}:${partition}`);
        if (index === undefined) continue;
        if (staleLeader.has(nameOf(errorCode))) this.forget(topicName);
        results[index] =
          errorCode === 0 ? Number(baseOffset) : refusal(errorCode, `partition ${partition} of topic "${topicName}"`);
      }
    }
    return results;
  }

  async committed(
    group: string,
    partitions: readonly TopicPartition[],
  ): Promise<readonly (Committed | undefined | KafkaFailure)[]> {
    if (partitions.length === 0) return [];
    const answer = (await this.#callCoordinator('OffsetFetch', group, {
      groupId: group,
      topics: byTopic(partitions, ({ partition }) => ({ partition })),
    })) as OffsetFetchAnswer;
    if (answer.errorCode !== 0) {
      this.#forgetCoordinator(group, answer.errorCode);
      throw refusal(answer.errorCode, `group "${group}"`);
    }
    const found = new Map<string, Committed | undefined | KafkaFailure>();
    for (const { topic, partitions: list } of answer.responses) {
      for (const { partition, offset, metadata, errorCode } of list) {
        const value =
          errorCode !== 0
            ? refusal(errorCode, `partition ${partition} of topic "${topic}"`)
            : Number(offset) < 0
              ? undefined
              : { offset: Number(offset), metadata: metadata ?? '' };
        found.set(`${topic}:${partition}`, value);
      }
    }
    return partitions.map(({ topic, partition }) => found.get(`${topic}:${partition}`));
  }

  async commit(
    group: string,
    member: MemberRef | undefined,
    entries: readonly CommitEntry[],
  ): Promise<readonly (KafkaFailure | undefined)[]> {
    if (entries.length === 0) return [];
    const answer = (await this.#callCoordinator('OffsetCommit', group, {
      groupId: group,
      groupGenerationId: member?.generation ?? -1,
      memberId: member?.id ?? '',
      retentionTime: KEPT_FOR_EVER,
      topics: byTopic(entries, ({ partition, offset, metadata }) => ({ partition, offset, metadata })),
    })) as CommitAnswer;
    const found = new Map<string, number>();
    for (const { topic, partitions } of answer.responses) {
      for (const { partition, errorCode } of partitions) found.set(`${topic}:${partition}`, errorCode);
    }
    return entries.map(({ topic, partition }) => {
      const code = found.get(`${topic}:${partition}`) ?? NO_ANSWER;
      if (code === 0) return undefined;
      this.#forgetCoordinator(group, code);
      return refusal(code, `partition ${partition} of topic "${topic}" in group "${group}"`);
    });
  }

  async describeGroup(group: string): Promise<GroupDescription> {
    const answer = (await this.#callCoordinator('DescribeGroups', group, { groupIds: [group] })) as DescribeAnswer;
    const found = answer.groups[0];
    if (found === undefined) return { state: 'Dead', members: [] };
    if (nameOf(found.errorCode) === 'GROUP_ID_NOT_FOUND') return { state: 'Dead', members: [] };
    if (found.errorCode !== 0) {
      this.#forgetCoordinator(group, found.errorCode);
      throw refusal(found.errorCode, `group "${group}"`);
    }
    return { state: found.state, members: found.members.map(({ memberId }) => memberId) };
  }

  async deleteGroup(group: string): Promise<KafkaFailure | undefined> {
    const answer = (await this.#callCoordinator('DeleteGroups', group, [group])) as DeleteGroupsAnswer;
    const code = answer.results[0]?.errorCode ?? 0;
    if (code === 0) return undefined;
    this.#forgetCoordinator(group, code);
    return refusal(code, `group "${group}"`);
  }

  openFetch(): FetchLink {
    if (this.#closed) throw closedFailure();
    const links = new LinkPool(this.#options);
    const own: FetchLink = {
      fetch: (broker, asks, wait) => this.#fetch(links, broker, asks, wait),
      close: () => {
        this.#own.delete(own);
        links.close();
      },
    };
    this.#own.add(own);
    return own;
  }

  async #fetch(
    links: LinkPool,
    broker: number,
    asks: readonly FetchAsk[],
    wait: number,
  ): Promise<readonly (FetchAnswer | KafkaFailure)[]> {
    const payload = (await this.#call(
      links,
      broker,
      'Fetch',
      {
        maxWaitTime: wait,
        minBytes: 1,
        maxBytes: FETCH_BYTES,
        topics: byTopic(asks, ({ partition, offset, maxBytes }) => ({ partition, fetchOffset: offset, maxBytes })),
        rackId: '',
      },
      this.#options.requestTimeout + wait,
      (raw) => Promise.resolve(raw),
    )) as Buffer;
    const answer = await decodeFetch(payload, foreignCodec).catch((cause: Error) => {
      throw new KafkaFailure('UNREADABLE', cause.message, { sent: true, cause });
    });
    if (answer.errorCode !== 0) throw refusal(answer.errorCode, 'a fetch');
    const found = new Map(answer.partitions.map((one) => [`${one.topic}:${one.partition}`, one]));
    return asks.map(({ topic, partition, offset }) => {
      const one = found.get(`${topic}:${partition}`);
      if (one === undefined) return { records: [], next: offset, end: offset };
      if (one.errorCode !== 0) {
        if (staleLeader.has(nameOf(one.errorCode))) this.forget(topic);
        return refusal(one.errorCode, `partition ${partition} of topic "${topic}"`);
      }
      // A batch comes whole, also with what lies before the offset that was asked for.
      const records =
        (one.records[0]?.offset ?? offset) < offset ? one.records.filter((r) => r.offset >= offset) : one.records;
      return { records, next: Math.max(offset, one.next ?? offset), end: one.lastStableOffset };
    });
  }

  openGroup(group: string, timeouts: { session: number; rebalance: number }): GroupLink {
    // A heartbeat that hangs must not outlive the session that it is to keep.
    const requestTimeout = Math.min(this.#options.requestTimeout, Math.ceil(timeouts.session / 2));
    // Whoever the others wait for is put out after its session; then a join that is still not answered was lost.
    const wait = Math.min(timeouts.session, timeouts.rebalance) + this.#options.requestTimeout;
    const links = new LinkPool({ ...this.#options, requestTimeout });
    const call = (api: string, args: object, timeout?: number): Promise<unknown> =>
      this.#callCoordinator(api, group, { groupId: group, ...args }, links, timeout);
    const check = (code: number): void => {
      if (code === 0) return;
      this.#forgetCoordinator(group, code);
      throw refusal(code, `group "${group}"`);
    };
    const own: GroupLink = {
      join: async (member, protocol, metadata, named) => {
        const args = {
          sessionTimeout: timeouts.session,
          rebalanceTimeout: timeouts.rebalance,
          memberId: member,
          protocolType: 'consumer',
          groupProtocols: [{ name: protocol, metadata }],
        };
        let answer = (await call('JoinGroup', args, wait)) as JoinResponse;
        if (nameOf(answer.errorCode) === 'MEMBER_ID_REQUIRED') {
          named(answer.memberId);
          answer = (await call('JoinGroup', { ...args, memberId: answer.memberId }, wait)) as JoinResponse;
        }
        check(answer.errorCode);
        const joined: JoinAnswer = {
          id: answer.memberId,
          generation: answer.generationId,
          leader: answer.leaderId,
          members: answer.members.map(({ memberId, memberMetadata }) => ({ id: memberId, metadata: memberMetadata })),
        };
        return joined;
      },
      sync: async (member, assignments) => {
        const answer = (await call(
          'SyncGroup',
          {
            memberId: member.id,
            generationId: member.generation,
            groupAssignment: assignments.map(({ id, assignment }) => ({ memberId: id, memberAssignment: assignment })),
          },
          wait,
        )) as SyncResponse;
        check(answer.errorCode);
        return answer.memberAssignment ?? Buffer.alloc(0);
      },
      heartbeat: async (member) => {
        const answer = (await call('Heartbeat', {
          memberId: member.id,
          groupGenerationId: member.generation,
        })) as { errorCode: number };
        check(answer.errorCode);
      },
      leave: async (member) => {
        const answer = (await this.#callCoordinator('LeaveGroup', group, { groupId: group, memberId: member })) as {
          errorCode: number;
        };
        check(answer.errorCode);
      },
      moved: () => {
        this.#coordinators.delete(group);
      },
      close: () => {
        this.#own.delete(own);
        links.close();
      },
    };
    this.#own.add(own);
    return own;
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const own of [...this.#own]) own.close();
    this.#control.close();
    this.#producing.close();
  }

  #forgetCoordinator(group: string, code: number): void {
    if (staleCoordinator.has(nameOf(code))) this.#coordinators.delete(group);
  }

  async #coordinator(group: string): Promise<number> {
    const known = this.#coordinators.get(group);
    if (known !== undefined && this.#brokers.has(known)) return known;
    const answer = (await this.#whenReady('GroupCoordinator', { groupId: group })) as CoordinatorAnswer;
    if (answer.errorCode !== 0) throw refusal(answer.errorCode, `group "${group}"`);
    const { nodeId, host, port } = answer.coordinator;
    this.#brokers.set(nodeId, { host, port });
    this.#coordinators.set(group, nodeId);
    return nodeId;
  }

  /** A broker that has just started, or is asked for the first time ever, has to prepare its answer. */
  async #whenReady(api: string, args: unknown): Promise<unknown> {
    const { clock, requestTimeout } = this.#options;
    const giveUp = clock.monotonic() + requestTimeout;
    for (;;) {
      const answer = (await this.#callAny(api, args)) as { errorCode: number };
      if (!notReady.has(nameOf(answer.errorCode)) || clock.monotonic() > giveUp || this.#closed) return answer;
      await sleep(clock, 50);
    }
  }

  async #callCoordinator(
    api: string,
    group: string,
    args: unknown,
    links: LinkPool = this.#control,
    timeout?: number,
  ): Promise<unknown> {
    const broker = await this.#coordinator(group);
    try {
      return await this.#call(links, broker, api, args, timeout);
    } catch (error) {
      // It may have died, and the group moved.
      this.#coordinators.delete(group);
      throw error;
    }
  }

  async #callController(api: string, args: unknown): Promise<unknown> {
    if (!this.#brokers.has(this.#controller)) await this.#readMetadata([aTopic]);
    const answer = (await this.#call(
      this.#control,
      this.#controller,
      api,
      args,
      this.#options.requestTimeout * 2,
    )) as TopicErrors;
    if (answer.topicErrors.every(({ errorCode }) => nameOf(errorCode) !== 'NOT_CONTROLLER')) return answer;
    await this.#readMetadata([aTopic]);
    return this.#call(this.#control, this.#controller, api, args, this.#options.requestTimeout * 2);
  }

  /** Whoever answers: brokers that are known, then those of the configuration. */
  async #callAny(api: string, args: unknown): Promise<unknown> {
    const known = [...this.#brokers.values()].sort(() => Math.random() - 0.5);
    let failure: KafkaFailure | undefined;
    const tried = new Set<string>();
    for (const host of [...known, ...this.#options.brokers]) {
      const name = showHost(host);
      if (tried.has(name)) continue;
      tried.add(name);
      try {
        return await this.#control.at(host).call(api, args);
      } catch (error) {
        failure = toFailure(error, true);
        if (this.#closed || failure.code === 'AUTHENTICATION' || failure.code === 'UNREADABLE') throw failure;
      }
    }
    throw failure ?? new KafkaFailure('CONNECTION', 'no broker is known', { sent: false });
  }

  async #call(
    links: LinkPool,
    broker: number,
    api: string,
    args: unknown,
    timeout?: number,
    decode?: (raw: Buffer) => Promise<unknown>,
  ): Promise<unknown> {
    let host = this.#brokers.get(broker);
    if (host === undefined) {
      await this.#readMetadata([aTopic]);
      host = this.#brokers.get(broker);
    }
    if (host === undefined) {
      throw new KafkaFailure('BROKER_NOT_AVAILABLE', `broker ${broker} is not in the cluster at the moment`, {
        sent: false,
      });
    }
    return links.at(host).call(api, args, timeout, decode);
  }
}

/** Milliseconds after which a topic is looked at anew, as Kafka's own clients do: it may have got more partitions. */
const TOPIC_AGE = 300_000;

/** Asked for when only the brokers matter: a request without names would list every topic of the cluster. */
const aTopic = '__consumer_offsets';

/** Kafka's code for an error that it does not name. */
const NO_ANSWER = -1;

/** Of one answer, over all partitions; a first batch larger than this comes all the same. */
const FETCH_BYTES = 16 * 1024 * 1024;

const staleLeader = new Set([
  'NOT_LEADER_FOR_PARTITION',
  'LEADER_NOT_AVAILABLE',
  'FENCED_LEADER_EPOCH',
  'UNKNOWN_LEADER_EPOCH',
  'UNKNOWN_TOPIC_OR_PARTITION',
  'REPLICA_NOT_AVAILABLE',
  'KAFKA_STORAGE_ERROR',
]);

const notReady = new Set(['GROUP_COORDINATOR_NOT_AVAILABLE', 'GROUP_LOAD_IN_PROGRESS']);

const staleCoordinator = new Set(['NOT_COORDINATOR_FOR_GROUP', 'GROUP_COORDINATOR_NOT_AVAILABLE']);

function byTopic<T extends TopicPartition, R>(
  items: readonly T[],
  of: (item: T) => R,
): { topic: string; partitions: R[] }[] {
  const topics = new Map<string, R[]>();
  for (const item of items) {
    const list = topics.get(item.topic);
    if (list === undefined) topics.set(item.topic, [of(item)]);
    else list.push(of(item));
  }
  return [...topics].map(([topic, partitions]) => ({ topic, partitions }));
}

interface MetadataAnswer {
  readonly brokers: readonly { nodeId: number; host: string; port: number }[];
  readonly controllerId: number;
  readonly topicMetadata: readonly {
    topic: string;
    topicErrorCode: number;
    partitionMetadata: readonly { partitionId: number; leader: number }[];
  }[];
}
interface TopicErrors {
  readonly topicErrors: readonly { topic: string; errorCode: number; errorMessage?: string | null }[];
}
interface ConfigAnswer {
  readonly resources: readonly {
    resourceName: string;
    errorCode: number;
    configEntries: readonly { configName: string; configValue: string | null }[];
  }[];
}
interface OffsetsAnswer {
  readonly responses: readonly {
    topic: string;
    partitions: readonly { partition: number; errorCode: number; offset: string }[];
  }[];
}
interface ProducerAnswer {
  readonly errorCode: number;
  readonly producerId: string;
  readonly producerEpoch: number;
}
interface ProduceAnswer {
  readonly topics: readonly {
    topicName: string;
    partitions: readonly { partition: number; errorCode: number; baseOffset: string }[];
  }[];
}
interface OffsetFetchAnswer {
  readonly errorCode: number;
  readonly responses: readonly {
    topic: string;
    partitions: readonly { partition: number; offset: string; metadata: string | null; errorCode: number }[];
  }[];
}
interface CommitAnswer {
  readonly responses: readonly { topic: string; partitions: readonly { partition: number; errorCode: number }[] }[];
}
interface DescribeAnswer {
  readonly groups: readonly { errorCode: number; state: string; members: readonly { memberId: string }[] }[];
}
interface DeleteGroupsAnswer {
  readonly results: readonly { errorCode: number }[];
}
interface CoordinatorAnswer {
  readonly errorCode: number;
  readonly coordinator: { nodeId: number; host: string; port: number };
}
interface JoinResponse {
  readonly errorCode: number;
  readonly generationId: number;
  readonly leaderId: string;
  readonly memberId: string;
  readonly members: readonly { memberId: string; memberMetadata: Buffer }[];
}
interface SyncResponse {
  readonly errorCode: number;
  readonly memberAssignment?: Buffer;
}
