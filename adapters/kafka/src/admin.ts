/** What is asked of a group from outside: its dead letters, its lag, its place, its end. */
import { randomUUID } from 'node:crypto';
import {
  backOff,
  type Clock,
  ConfigError,
  type DeadLetterRecord,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  laneOf,
  nameOfGroup,
  readDeadLetterHeaders,
  type SettleResult,
  sleep,
  type WaybillError,
  wireHeaders,
} from '@waybill/core/adapter';
import { divide, encodeSubscription, PROTOCOL } from './assignment.ts';
import {
  type CommitEntry,
  type Committed,
  type Driver,
  type FetchedRecord,
  type FetchLink,
  KafkaFailure,
  type TopicPartition,
} from './driver.ts';
import { adapter, asFailure, toWaybillError } from './errors.ts';
import { laneOfPartition } from './partition-log.ts';
import type { Publisher, Send } from './publisher.ts';
import { copyRecord, deadLetterKey, headerText, kafkaHeaders, readDestination, readRecord } from './records.ts';
import { type KafkaNames, LEVELS, type Offsets } from './topology.ts';
import { decodeDone, movedBy, moveOf } from './tracker.ts';

export interface AdminOptions {
  readonly driver: Driver;
  readonly publisher: Publisher;
  readonly names: KafkaNames;
  readonly target: string;
  readonly clock: Clock;
}

const FETCH_BYTES = 4 * 1024 * 1024;
/** Waiting messages that are looked at one by one, to tell whose they are; beyond it the number is not told. */
const MOST_COUNTED = 20_000;

/** A record of the dead letters; what its entry has become is in the same topic, behind it. */
interface Entry extends DeadLetterRecord {
  readonly record: FetchedRecord;
}

/** The dead letters of a group, oldest first: those that stand there when it is opened. */
export class DeadLetterReader implements DeadLetterScan {
  readonly #options: AdminOptions;
  readonly #group: GroupRef;
  readonly #log: LogScan | undefined;
  /** Entries that were struck out or have been shown: one whose write was repeated may stand there twice. */
  readonly #passed: Set<string>;
  #ready: FetchedRecord[] = [];

  private constructor(options: AdminOptions, group: GroupRef, log: LogScan | undefined, struck: Set<string>) {
    this.#options = options;
    this.#group = group;
    this.#log = log;
    this.#passed = struck;
  }

  static async open(options: AdminOptions, group: GroupRef): Promise<DeadLetterReader> {
    const { struck, log } = await survey(options, group);
    return new DeadLetterReader(options, group, log, struck);
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    const found: Entry[] = [];
    while (found.length < max) {
      if (this.#ready.length === 0) {
        const records = await this.#log?.next();
        if (records === undefined) break;
        this.#ready = records;
      }
      const taken = this.#ready.splice(0, max - found.length);
      for (const record of taken) {
        const entry = entryOf(record);
        if (record.value === null || this.#passed.has(entry)) continue;
        this.#passed.add(entry);
        found.push(readEntry(record));
      }
    }
    if (found.length === 0) this.#log?.close();
    return found;
  }

  async redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const { publisher, driver, names, target } = this.#options;
    const { topic, name } = this.#group;
    const retry = names.retry(topic.name, name);
    const ends = new Map<number, number>();
    let count = 1;
    try {
      count = (await driver.partitions(names.topic(topic.name))).length;
      if (topic.ordered) {
        const partitions = Array.from({ length: count }, (_, partition) => partition);
        const asks = partitions.map((partition) => ({
          topic: names.topic(topic.name),
          partition,
          at: 'latest' as const,
        }));
        for (const [partition, end] of (await driver.offsets(asks)).entries()) {
          if (typeof end === 'number') ends.set(partition, end);
        }
      }
    } catch (error) {
      throw toWaybillError(error, `dead letters of group "${name}"`, target);
    }
    const sends = records.map((entry): Send => {
      const { record } = entry as Entry;
      const key = deadLetterKey(record);
      const lane = key === null || !topic.ordered ? undefined : laneOf(key.toString('utf8'), count);
      const after = lane === undefined ? undefined : ends.get(lane);
      const copy = copyRecord(record, 0, {
        [wireHeaders.key]: undefined,
        [wireHeaders.attempt]: undefined,
        [wireHeaders.expiresAt]: undefined,
        [kafkaHeaders.after]: after === undefined ? undefined : String(after),
      });
      return { topic: retry, partition: lane, record: { ...copy, key } };
    });
    const sent = await publisher.send(sends);
    const stored = records.filter((_, index) => !(sent[index] instanceof KafkaFailure));
    const struck = await this.#strike(stored);
    // A copy that is stored whose entry could not be struck is redriven: at least once.
    let at = 0;
    return sent.map((result) =>
      result instanceof KafkaFailure ? this.#notDone(result) : (struck[at++] as SettleResult),
    );
  }

  purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#strike(records);
  }

  /** A tombstone of the entry: it hides it at once, and compaction removes both. */
  async #strike(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const { publisher, names, clock } = this.#options;
    const topic = names.deadLetter(this.#group.topic.name, this.#group.name);
    const timestamp = clock.now();
    const sent = await publisher.send(
      records.map((entry): Send => {
        const { key } = (entry as Entry).record;
        return { topic, partition: 0, record: { key, value: null, headers: {}, timestamp } };
      }),
    );
    return sent.map((result) => (result instanceof KafkaFailure ? this.#notDone(result) : 'applied'));
  }

  #notDone(failure: KafkaFailure): WaybillError {
    return toWaybillError(failure, `dead letters of group "${this.#group.name}"`, this.#options.target);
  }

  async close(): Promise<void> {
    this.#log?.close();
  }
}

const entryOf = (record: FetchedRecord): string => record.key?.toString('utf8') ?? '';

function readEntry(record: FetchedRecord): Entry {
  const { attempt: _, ...fields } = readRecord(record, 0, deadLetterKey(record));
  const headers: Record<string, string> = {};
  for (const name in record.headers) headers[name] = headerText(record.headers, name) ?? '';
  return { ...fields, details: readDeadLetterHeaders(headers, entryOf(record)), native: record, record };
}

/** First look at the dead letters: which entries were struck out, and how many are left. */
async function survey(
  options: AdminOptions,
  group: GroupRef,
): Promise<{ struck: Set<string>; count: number; log: LogScan | undefined }> {
  const { driver, names, target } = options;
  const topic = names.deadLetter(group.topic.name, group.name);
  const struck = new Set<string>();
  const live = new Set<string>();
  let log: LogScan | undefined;
  try {
    log = await LogScan.open(driver, { topic, partition: 0 });
    const first = log.copy();
    for (let records = await first.next(); records !== undefined; records = await first.next()) {
      for (const record of records) {
        const entry = entryOf(record);
        if (record.value === null) {
          struck.add(entry);
          live.delete(entry);
        } else if (!struck.has(entry)) live.add(entry);
      }
    }
    return { struck, count: live.size, log };
  } catch (error) {
    log?.close();
    if (error instanceof KafkaFailure && error.code === 'UNKNOWN_TOPIC_OR_PARTITION') {
      await requireGroup(options, group);
      return { struck, count: 0, log: undefined };
    }
    throw toWaybillError(error, `dead letters of group "${group.name}"`, target);
  }
}

export async function countDeadLetters(options: AdminOptions, group: GroupRef): Promise<number> {
  const { count, log } = await survey(options, group);
  log?.close();
  return count;
}

/**
 * A group that was made has a place, or at least its retries, which outlive a lost place. Returns the partitions of its
 * topic and of its retries.
 *
 * @throws ConfigError for one that does not exist
 */
async function requireGroup(options: AdminOptions, { topic, name }: GroupRef): Promise<readonly TopicPartition[]> {
  const { driver, names, target } = options;
  const what = nameOfGroup({ topic, name });
  const retry = names.retry(topic.name, name);
  try {
    const partitions = await partitionsOf(driver, [names.topic(topic.name), retry]);
    if (partitions.some((one) => one.topic === retry)) return partitions;
    const places = await driver.committed(names.group(topic.name, name), partitions);
    const failure = places.find((place) => place instanceof KafkaFailure);
    if (failure !== undefined) throw failure;
    if (places.some((place) => place !== undefined)) return partitions;
  } catch (error) {
    throw toWaybillError(error, what, target);
  }
  throw new ConfigError('group', `${what} does not exist on the broker; the first subscribe makes it`, { adapter });
}

/** Reads a partition once, from an offset (its beginning) to where it ends now. */
class LogScan {
  readonly #driver: Driver;
  readonly #place: TopicPartition;
  readonly #from: number;
  readonly #end: number;
  readonly #link: FetchLink;
  #at: number;

  private constructor(driver: Driver, place: TopicPartition, from: number, end: number, link: FetchLink) {
    this.#driver = driver;
    this.#place = place;
    this.#from = from;
    this.#at = from;
    this.#end = end;
    this.#link = link;
  }

  static async open(driver: Driver, place: TopicPartition, from?: number): Promise<LogScan> {
    const [first, end] = await driver.offsets([
      { ...place, at: 'earliest' },
      { ...place, at: 'latest' },
    ]);
    if (first instanceof KafkaFailure) throw first;
    if (end instanceof KafkaFailure) throw end;
    return new LogScan(driver, place, Math.max(first ?? 0, from ?? 0), end ?? 0, driver.openFetch());
  }

  /** The same walk once more, over the same connection. */
  copy(): LogScan {
    return new LogScan(this.#driver, this.#place, this.#from, this.#end, this.#link);
  }

  /** `undefined` at the end; may be empty before it. */
  async next(): Promise<FetchedRecord[] | undefined> {
    if (this.#at >= this.#end) return undefined;
    const { topic, partition } = this.#place;
    const leader = (await this.#driver.partitions(topic)).find((one) => one.partition === partition)?.leader;
    if (leader === undefined) {
      this.#driver.forget(topic);
      throw new KafkaFailure('LEADER_NOT_AVAILABLE', `partition ${partition} of topic "${topic}"`, { sent: false });
    }
    const [answer] = await this.#link.fetch(
      leader,
      [{ topic, partition, offset: this.#at, maxBytes: FETCH_BYTES }],
      100,
    );
    if (answer === undefined || answer instanceof KafkaFailure) {
      throw answer ?? new KafkaFailure('UNKNOWN', 'no answer', { sent: true });
    }
    this.#at = answer.next;
    return answer.records.filter(({ offset }) => offset < this.#end);
  }

  close(): void {
    this.#link.close();
  }
}

/** POS-01, from what the broker has committed; `inFlight` is what the members of this connection hold. */
export async function readLag(options: AdminOptions, group: GroupRef, inFlight: number, members: number): Promise<Lag> {
  const { driver, names, target } = options;
  const { topic, name } = group;
  const partitions = await requireGroup(options, group);
  try {
    const source = names.topic(topic.name);
    const retry = names.retry(topic.name, name);
    const left = await countUndone(driver, names.group(topic.name, name), partitions);
    const delayed = await countDelayed(driver, names, new Set([source, retry]));
    const { members: all } = await driver.describeGroup(names.group(topic.name, name));
    return {
      waiting: Math.max(0, left - inFlight),
      delayed: delayed ?? 0,
      inFlight,
      exact: delayed !== undefined && all.length <= members,
    };
  } catch (error) {
    throw toWaybillError(error, `lag of ${nameOfGroup({ topic, name })}`, target);
  }
}

/** Partitions of those of the topics that exist. */
async function partitionsOf(driver: Driver, topics: readonly string[]): Promise<TopicPartition[]> {
  const partitions: TopicPartition[] = [];
  for (const [topic, known] of await driver.describeTopics(topics)) {
    if (known instanceof KafkaFailure) {
      if (known.code === 'UNKNOWN_TOPIC_OR_PARTITION') continue;
      throw known;
    }
    for (const { partition } of known) partitions.push({ topic, partition });
  }
  return partitions;
}

/** Records from the group's place to the end, without those that its bitmap says are done. */
async function countUndone(driver: Driver, group: string, partitions: readonly TopicPartition[]): Promise<number> {
  const places = await driver.committed(group, partitions);
  const ends = await driver.offsets(partitions.map((one) => ({ ...one, at: 'latest' as const })));
  const starts = await driver.offsets(partitions.map((one) => ({ ...one, at: 'earliest' as const })));
  let left = 0;
  for (const index of partitions.keys()) {
    const place = places[index];
    const end = ends[index];
    const start = starts[index];
    if (place instanceof KafkaFailure) throw place;
    if (end instanceof KafkaFailure) throw end;
    if (start instanceof KafkaFailure) throw start;
    const from = Math.max(place?.offset ?? 0, start ?? 0);
    const done = place === undefined ? 0 : decodeDone(place.offset, place.metadata).size;
    left += Math.max(0, (end ?? 0) - from - done);
  }
  return left;
}

/** Messages in the delay levels on their way to these topics; `undefined` when there are too many to look at each. */
async function countDelayed(driver: Driver, names: KafkaNames, to: ReadonlySet<string>): Promise<number | undefined> {
  const levels = LEVELS.map((level) => ({ topic: names.level(level), partition: 0 }));
  const found = await driver.describeTopics(levels.map(({ topic }) => topic));
  const there = levels.filter(({ topic }) => !(found.get(topic) instanceof KafkaFailure));
  const places = await driver.committed(names.forwarders, there);
  const ends = await driver.offsets(there.map((one) => ({ ...one, at: 'latest' as const })));
  const waiting = there.map((level, index) => {
    const place = places[index];
    const end = ends[index];
    const committed = place instanceof KafkaFailure ? undefined : place;
    return { level, committed, count: (typeof end === 'number' ? end : 0) - (committed?.offset ?? 0) };
  });
  if (waiting.reduce((sum, { count }) => sum + count, 0) > MOST_COUNTED) return undefined;
  let delayed = 0;
  for (const { level, committed, count } of waiting) {
    if (count <= 0) continue;
    const done = committed === undefined ? new Set<number>() : decodeDone(committed.offset, committed.metadata);
    const log = await LogScan.open(driver, level, committed?.offset);
    try {
      for (let records = await log.next(); records !== undefined; records = await log.next()) {
        for (const record of records) {
          if (!done.has(record.offset) && to.has(readDestination(record)?.topic ?? '')) delayed++;
        }
      }
    } finally {
      log.close();
    }
  }
  return delayed;
}

/** POS-02: the places of a group without members are simply set; where there are members, these set them. */
export async function moveGroup(options: AdminOptions, group: GroupRef, offsets: Offsets): Promise<void> {
  const { driver, names, target } = options;
  const { topic, name } = group;
  const source = names.topic(topic.name);
  const entries = [...offsets].map(([partition, offset]) => ({ topic: source, partition, offset, metadata: '' }));
  // A commit would make it.
  await requireGroup(options, group);
  try {
    const failures = await driver.commit(names.group(topic.name, name), undefined, entries);
    const failure = failures.find((one) => one !== undefined);
    if (failure?.code === 'UNKNOWN_MEMBER_ID') await askMembers(options, group, entries);
    else if (failure !== undefined) throw failure;
  } catch (error) {
    const failure = asFailure(error);
    if (failure.code === 'INCONSISTENT_GROUP_PROTOCOL') throw foreignMembers(group, failure);
    throw toWaybillError(error, `seek of ${nameOfGroup({ topic, name })}`, target);
  }
}

/** How long members may take to go to their new places; they hear of it with their next heartbeat. */
const MOVING = 15_000;

/** Joins the group for a moment, for its leader to tell all members where to go. */
async function askMembers(options: AdminOptions, group: GroupRef, entries: readonly CommitEntry[]): Promise<void> {
  const { driver, names, clock } = options;
  const name = names.group(group.topic.name, group.name);
  const topics = [names.topic(group.topic.name), names.retry(group.topic.name, group.name)];
  const offsets = Object.fromEntries(entries.map(({ topic, partition, offset }) => [`${topic}:${partition}`, offset]));
  const move = { id: randomUUID().slice(0, 8), offsets };
  const link = driver.openGroup(name, { session: MOVING, rebalance: MOVING });
  let member = '';
  try {
    const metadata = encodeSubscription(topics, { units: [], generation: -1, move });
    const joined = await link.join('', PROTOCOL, metadata, (id) => {
      member = id;
    });
    member = joined.id;
    const leads = joined.leader === member;
    const partitions = leads ? await partitionsOf(driver, topics) : [];
    await link.sync(joined, leads ? divide(joined.members, partitions, laneOfPartition, 'even') : []);
    // The others have gone meanwhile.
    if (joined.members.length === 1) {
      await driver.commit(
        name,
        joined,
        entries.map((entry) => ({ ...entry, metadata: movedBy(move.id) })),
      );
    }
    const giveUp = clock.monotonic() + MOVING;
    for (;;) {
      const now = await driver.committed(name, entries);
      if (now.every((place) => moveOf(metadataOf(place)) === move.id)) return;
      if (clock.monotonic() > giveUp) {
        throw new KafkaFailure('REBALANCE_IN_PROGRESS', 'not all members have moved, as some come or go; seek again', {
          sent: true,
        });
      }
      await sleep(clock, 50);
    }
  } finally {
    if (member !== '') await link.leave(member).catch(() => {});
    link.close();
  }
}

const metadataOf = (place: Committed | undefined | KafkaFailure): string =>
  place === undefined || place instanceof KafkaFailure ? '' : place.metadata;

const foreignMembers = ({ topic, name }: GroupRef, cause: KafkaFailure): ConfigError =>
  new ConfigError(
    'group',
    `${nameOfGroup({ topic, name })} has members that are not Waybill's, and Kafka moves a group only by its members; close those first`,
    { adapter, cause },
  );

/** Deletes a group with its retries and dead letters; the topic stays. */
export async function removeGroup(options: AdminOptions, group: GroupRef): Promise<void> {
  const { driver, names, target } = options;
  const { topic, name } = group;
  const what = nameOfGroup({ topic, name });
  try {
    const failure = await driver.deleteGroup(names.group(topic.name, name));
    if (failure?.code === 'NON_EMPTY_GROUP') {
      throw new ConfigError('group', `${what} has members; close its subscriptions first`);
    }
    if (failure !== undefined && failure.code !== 'GROUP_ID_NOT_FOUND') throw failure;
    const own = [names.retry(topic.name, name), names.deadLetter(topic.name, name)];
    for (const one of (await driver.deleteTopics(own)).values()) {
      if (one !== undefined && one.code !== 'UNKNOWN_TOPIC_OR_PARTITION') throw one;
    }
    await untilGone(options, own);
  } catch (error) {
    throw toWaybillError(error, what, target);
  }
}

/** How long brokers may take to hear that a topic was deleted. */
const PARTING = 2_000;

/** The controller has deleted them; whoever makes the group again at once must not meet what is left. */
async function untilGone({ driver, clock }: AdminOptions, topics: readonly string[]): Promise<void> {
  const giveUp = clock.monotonic() + PARTING;
  for (let failures = 1; clock.monotonic() < giveUp; failures++) {
    const found = await driver.describeTopics(topics);
    if ([...found.values()].every((one) => one instanceof KafkaFailure)) return;
    await sleep(clock, backOff(failures, { initial: 5, max: 200 }));
  }
}
