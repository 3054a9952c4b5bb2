/**
 * Reads the partitions that a member of a group owns, or all of them for a reader without group: fetches ahead within
 * bounds, knows what is done, commits it, and starts and stops with the assignment.
 */
import { backOff, type Clock, type Logger, sleep } from '@waybill/core/adapter';
import type { Sharing } from './assignment.ts';
import { type CommitResult, Committer } from './commits.ts';
import {
  type Committed,
  type Driver,
  type FetchLink,
  KafkaFailure,
  type PartitionInfo,
  type TopicPartition,
} from './driver.ts';
import { asFailure, isNetwork, isPassing } from './errors.ts';
import { Member } from './member.ts';
import { type Item, PartitionLog } from './partition-log.ts';
import { movedBy } from './tracker.ts';
import { LAST_WORDS, shortly } from './wait.ts';

export interface ReaderEvents {
  /** Units that are ours, each with its logs ready to be read. */
  gained(units: readonly string[]): void;
  /** Units to be let go; what has been settled when this resolves is committed. */
  revoked(units: readonly string[]): Promise<void>;
  /** Logs of these units died with something in hand, or may have. */
  lost(units: readonly string[], failure: KafkaFailure): void;
  /** There is something to take. */
  ready(): void;
  interrupted(failure: KafkaFailure): void;
  restored(): void;
  positionLost(unit: string, what: string): void;
  /** A topic that was there is gone; resolves when it is there again, rejects when it will not be. */
  missing(topic: string): Promise<void>;
  failed(failure: KafkaFailure): void;
}

export interface ReaderOptions {
  readonly driver: Driver;
  /** `undefined`: reads everything, for itself, from `startAt` on, and commits nothing. */
  readonly group: string | undefined;
  readonly topics: readonly string[];
  readonly unitOf: (partition: TopicPartition) => string;
  readonly session: number;
  readonly rebalance: number;
  readonly sharing: Sharing;
  /** Ready records of one partition, and bytes of all of them, at which no more are fetched. */
  readonly ahead: { readonly records: number; readonly bytes: number };
  /** First offsets of a reader without group, by `topic:partition`; the beginning where there is none. */
  readonly startAt?: ReadonlyMap<string, number>;
  /** Whether a group without any place in this topic has lost it, rather than never having had one. */
  readonly remembered?: (topic: string) => boolean;
  /** Topics that are only ours: what is done in them is deleted, because the broker keeps them without limit. */
  readonly disposable: (topic: string) => boolean;
  readonly patience: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: ReaderEvents;
}

/** What does not work at the moment: a broker to read from, the membership, the look for places or for leaders. */
type Outage = number | 'membership' | 'places' | 'leaders';

interface Place extends Committed {
  /** The broker does not know it yet. */
  readonly isNew: boolean;
}

/** Milliseconds that a broker holds a fetch without news: what is read next can change only after it. */
const FETCH_WAIT = 200;
/** The same while others are being emptied, which are asked for only after it. */
const SHORT_WAIT = 20;
/** Bytes of one partition in one answer. */
const LARGEST_FETCH = 262_144;
const SMALLEST_FETCH = 65_536;
const backOffs = { initial: 50, max: 2_000 };
/** Refusals in a row that are no outage yet: leaders and coordinators change in an instant. */
const LASTING = 1;
/** How often a reader without group looks for new partitions. */
const LOOK = 15_000;
/** How often space is given back. */
const CLEAN = 60_000;

export class Reader {
  readonly #options: ReaderOptions;
  readonly #fetch: FetchLink;
  readonly #member: Member | undefined;
  readonly #committer: Committer | undefined;
  readonly #logs = new Map<string, PartitionLog>();
  /** Units whose places are being looked up, each with whoever does it: it may be lost and gained again meanwhile. */
  readonly #opening = new Map<string, object>();
  readonly #loops = new Map<number, Promise<void>>();
  readonly #closing = new AbortController();
  readonly #paused = new Set<string>();
  readonly #missing = new Map<string, Promise<void>>();
  /** Fetch loops that have nothing to ask for. */
  #asleep: (() => void)[] = [];
  /** Counts what may have changed that. */
  #pokes = 0;
  #order: PartitionLog[] = [];
  #turn = 0;
  readonly #outages = new Set<Outage>();
  #down = false;
  #looking = false;
  /** Looks in a row that have not found a leader for everything. */
  #looks = 0;
  #cleanAt: number;

  constructor(options: ReaderOptions) {
    this.#options = options;
    const { driver, group, clock, logger } = options;
    this.#fetch = driver.openFetch();
    this.#cleanAt = clock.monotonic() + CLEAN;
    if (group === undefined) return;
    const member = new Member({
      driver,
      group,
      topics: options.topics,
      unitOf: options.unitOf,
      session: options.session,
      rebalance: options.rebalance,
      sharing: options.sharing,
      clock,
      logger,
      events: {
        gained: (units) => void this.#open(units),
        revoked: (units) => this.#letGo(units),
        lost: (failure) => this.#loseAll(failure),
        moved: (offsets, move) => this.#moved(offsets, move),
        missing: (topic) => this.#restore(topic),
        interrupted: (failure) => this.#outage('membership', failure),
        restored: () => this.#answered('membership'),
        failed: (failure) => options.events.failed(failure),
      },
    });
    this.#member = member;
    this.#committer = new Committer({
      driver,
      group,
      member: () => member.ref,
      fenced: () => member.check(),
      patience: options.patience,
      clock,
      logger,
    });
  }

  /** Resolves when it reads, or would read if there were anything for it. */
  async start(): Promise<void> {
    if (this.#member !== undefined) return this.#member.start();
    await this.#openAll();
    void this.#lookForNew();
  }

  /** Whether what it has is surely still its own. */
  get alive(): boolean {
    return this.#member?.alive ?? true;
  }

  /** Units that it reads. */
  get units(): readonly string[] {
    return [...new Set(this.#order.map(({ unit }) => unit))];
  }

  log(topic: string, partition: number): PartitionLog | undefined {
    return this.#logs.get(`${topic}:${partition}`);
  }

  get logs(): readonly PartitionLog[] {
    return this.#order;
  }

  /** Up to `max` records that are ready, from all partitions in turn; `free` may hold a partition's first one back. */
  take(max: number, free: (item: Item) => boolean): Item[] {
    const taken: Item[] = [];
    const logs = this.#order;
    for (let idle = 0; taken.length < max && idle < logs.length; this.#turn++) {
      const log = logs[this.#turn % logs.length];
      const item = log === undefined || log.leaving || this.#paused.has(log.unit) ? undefined : log.peek();
      if (log === undefined || item === undefined || !free(item)) {
        idle++;
        continue;
      }
      idle = 0;
      log.hand();
      taken.push(item);
    }
    if (taken.length > 0) this.#poke();
    return taken;
  }

  pause(unit: string): void {
    this.#paused.add(unit);
  }

  resume(unit: string): void {
    if (!this.#paused.delete(unit)) return;
    this.#poke();
    this.#options.events.ready();
  }

  /** Done for good, once the commit that covers it is confirmed. */
  commit(log: PartitionLog): Promise<CommitResult> {
    if (this.#committer === undefined) return Promise.resolve(log.alive ? 'applied' : 'lost');
    if (this.#options.clock.monotonic() > this.#cleanAt) this.#clean();
    return this.#committer.commit(log);
  }

  #clean(): void {
    const { driver, disposable, clock, logger } = this.#options;
    this.#cleanAt = clock.monotonic() + CLEAN;
    const done = this.#order.filter((log) => log.committed > log.cleaned && disposable(log.topic));
    if (done.length === 0) return;
    for (const log of done) log.cleaned = log.committed;
    const before = done.map(({ topic, partition, committedTo }) => ({ topic, partition, offset: committedTo }));
    driver.deleteRecords(before).catch((error: unknown) => {
      logger.debug(`kafka: space of what is done is not given back: ${asFailure(error).message}`);
    });
  }

  /**
   * Reads these partitions from other offsets on, and forgets what was done beyond. What is in hand of their units is
   * lost; the rest of a unit begins again where it was.
   */
  async #moveTo(offsets: ReadonlyMap<string, number>, metadata: string, failure: KafkaFailure): Promise<void> {
    const units = new Set<string>();
    for (const [name, log] of this.#logs) if (offsets.has(name)) units.add(log.unit);
    const moved: PartitionLog[] = [];
    for (const [name, log] of this.#logs) {
      if (!units.has(log.unit)) continue;
      const offset = offsets.get(name);
      const { tracker } = log;
      const fresh =
        offset === undefined
          ? new PartitionLog(log, log.unit, tracker.position, tracker.metadata())
          : new PartitionLog(log, log.unit, offset, metadata);
      log.alive = false;
      fresh.leaving = log.leaving;
      fresh.changes = 1;
      this.#logs.set(name, fresh);
      moved.push(fresh);
    }
    // Whoever had them paused has forgotten them as well.
    for (const unit of units) this.#paused.delete(unit);
    this.#arrange();
    if (units.size > 0) this.#options.events.lost([...units], failure);
    await Promise.all(moved.map((log) => this.commit(log)));
  }

  /** POS-02, from whichever process it was asked. */
  #moved(offsets: ReadonlyMap<string, number>, move: string): void {
    void this.#moveTo(
      offsets,
      movedBy(move),
      new KafkaFailure('MOVED', 'the group was moved to another place by seek', { sent: false }),
    );
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#poke();
    this.#fetch.close();
    // What was settled and is not committed yet would come back.
    if (this.#committer !== undefined && this.alive) {
      const dirty = this.#order.filter((log) => log.alive && log.dirty);
      await shortly(this.#options.clock, LAST_WORDS, Promise.all(dirty.map((log) => this.commit(log))));
    }
    for (const log of this.#order) log.alive = false;
    if (this.#member !== undefined) await shortly(this.#options.clock, LAST_WORDS, this.#member.close());
    this.#committer?.close();
    await shortly(this.#options.clock, LAST_WORDS, Promise.all(this.#loops.values()));
    this.#logs.clear();
    this.#order = [];
  }

  // Units that come and go.

  async #open(units: readonly string[]): Promise<void> {
    const me = {};
    for (const unit of units) this.#opening.set(unit, me);
    const isMine = (unit: string): boolean => this.#opening.get(unit) === me;
    const { driver, group, topics, unitOf } = this.#options;
    await this.#persist(async () => {
      const wanted = units.filter(isMine);
      if (wanted.length === 0) return;
      const found = await driver.describeTopics(topics);
      const all: TopicPartition[] = [];
      for (const topic of topics) {
        const partitions = found.get(topic);
        if (partitions instanceof KafkaFailure || partitions === undefined) {
          if (partitions !== undefined && partitions.code !== 'UNKNOWN_TOPIC_OR_PARTITION') throw partitions;
          await this.#restore(topic);
          throw partitions ?? new KafkaFailure('UNKNOWN_TOPIC_OR_PARTITION', topic, { sent: true });
        }
        for (const { partition } of partitions) all.push({ topic, partition });
      }
      const places = await this.#places(all);
      const opened = new Set<string>();
      for (const [index, partition] of all.entries()) {
        const unit = unitOf(partition);
        if (!isMine(unit)) continue;
        const { offset, metadata, isNew } = places[index] ?? { offset: 0, metadata: '', isNew: true };
        const log = new PartitionLog(partition, unit, offset, metadata);
        this.#logs.set(`${partition.topic}:${partition.partition}`, log);
        opened.add(unit);
        // Or the broker's retention might move the first place before anything is settled.
        if (isNew && group !== undefined) {
          log.changes++;
          void this.commit(log);
        }
      }
      for (const unit of opened) this.#opening.delete(unit);
      this.#arrange();
      this.#options.events.gained([...opened]);
      await this.#ensureLoops();
    });
  }

  /** Where to start with each of these. */
  async #places(partitions: readonly TopicPartition[]): Promise<Place[]> {
    const { driver, group, startAt, remembered, unitOf, events } = this.#options;
    const committed = group === undefined ? [] : await driver.committed(group, partitions);
    const places: Place[] = [];
    const unknown: number[] = [];
    const having = new Set<string>();
    for (const [index, partition] of partitions.entries()) {
      const place = committed[index];
      if (place instanceof KafkaFailure) throw place;
      const start = startAt?.get(`${partition.topic}:${partition.partition}`);
      if (place !== undefined) having.add(partition.topic);
      if (place === undefined && start === undefined) unknown.push(index);
      places.push(place === undefined ? { offset: start ?? 0, metadata: '', isNew: true } : { ...place, isNew: false });
    }
    if (unknown.length === 0) return places;
    const asks = unknown.map((index) => ({ ...(partitions[index] as TopicPartition), at: 'earliest' as const }));
    const first = await driver.offsets(asks);
    for (const [at, index] of unknown.entries()) {
      const offset = first[at];
      if (offset instanceof KafkaFailure) throw offset;
      places[index] = { offset: offset ?? 0, metadata: '', isNew: true };
      const ask = partitions[index] as TopicPartition;
      if (group !== undefined && !having.has(ask.topic) && remembered?.(ask.topic) === true) {
        events.positionLost(
          unitOf(ask),
          `the broker has no place of group "${group}" in partition ${ask.partition} of topic "${ask.topic}" any more; it goes on from the earliest message, offset ${offset ?? 0}`,
        );
      }
    }
    return places;
  }

  async #letGo(units: readonly string[]): Promise<void> {
    const going = new Set(units);
    for (const unit of units) this.#opening.delete(unit);
    const logs = this.#order.filter(({ unit }) => going.has(unit));
    for (const log of logs) {
      log.leaving = true;
      log.clear();
    }
    const known = [...new Set(logs.map(({ unit }) => unit))];
    if (known.length > 0) await this.#options.events.revoked(known);
    // Not those that were lost meanwhile and are perhaps ours anew; but those that were moved.
    const left = this.#order.filter((log) => log.leaving && going.has(log.unit));
    await Promise.all(left.map((log) => (log.dirty ? this.commit(log) : undefined)));
    const held = new Set(left.filter((log) => log.alive && log.inHand > 0).map(({ unit }) => unit));
    this.#drop(left);
    if (held.size > 0) {
      const text = 'the partition was handed over to another member before its handler had ended';
      this.#options.events.lost([...held], new KafkaFailure('REVOKED', text, { sent: false }));
    }
  }

  #loseAll(failure: KafkaFailure): void {
    this.#opening.clear();
    const logs = this.#order;
    const units = this.units;
    this.#drop(logs);
    if (units.length > 0) this.#options.events.lost(units, failure);
  }

  #drop(logs: readonly PartitionLog[]): void {
    for (const log of logs) {
      log.alive = false;
      log.clear();
      this.#paused.delete(log.unit);
      const name = `${log.topic}:${log.partition}`;
      if (this.#logs.get(name) === log) this.#logs.delete(name);
    }
    this.#arrange();
  }

  #arrange(): void {
    this.#order = [...this.#logs.values()];
    this.#poke();
  }

  async #openAll(): Promise<void> {
    const { driver, topics, unitOf } = this.#options;
    const units = new Set<string>();
    for (const topic of topics) {
      for (const { partition } of await driver.partitions(topic)) units.add(unitOf({ topic, partition }));
    }
    const fresh = [...units].filter((unit) => !this.#order.some((log) => log.unit === unit));
    if (fresh.length > 0) await this.#open(fresh);
  }

  async #lookForNew(): Promise<void> {
    const { clock, topics, driver } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await sleep(clock, LOOK, signal);
      if (signal.aborted) return;
      await driver
        .describeTopics(topics)
        .then(() => this.#openAll())
        .catch(() => {});
    }
  }

  /** Tries until it works or the reader closes. */
  async #persist(work: () => Promise<void>): Promise<void> {
    const { clock, events } = this.#options;
    const { signal } = this.#closing;
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        await work();
        this.#answered('places');
        return;
      } catch (error) {
        if (signal.aborted) return;
        const failure = asFailure(error);
        if (!isPassing(failure)) {
          events.failed(failure);
          return;
        }
        if (isNetwork(failure) || failures > LASTING) this.#outage('places', failure);
        await sleep(clock, backOff(failures, backOffs), signal);
      }
    }
  }

  // Fetching: one loop for each broker that leads something of ours.

  /** Never rejects: where something of ours has no leader, or nobody says which, it is looked for again. */
  async #ensureLoops(): Promise<void> {
    let led: ReadonlyMap<number | undefined, readonly PartitionLog[]> = new Map();
    let failure: KafkaFailure | undefined;
    try {
      led = await this.#byLeader();
    } catch (error) {
      failure = asFailure(error);
    }
    if (this.#closing.signal.aborted) return;
    for (const leader of led.keys()) {
      if (leader !== undefined && !this.#loops.has(leader)) this.#loops.set(leader, this.#run(leader));
    }
    const [log] = led.get(undefined) ?? [];
    if (log !== undefined) failure = notLed(log);
    if (failure === undefined) {
      this.#looks = 0;
      this.#answered('leaders');
    } else if (isPassing(failure)) {
      void this.#lookAgain(failure);
    } else {
      this.#options.events.failed(failure);
    }
  }

  /** Our partitions by the broker that leads them; by `undefined` those that none leads at the moment. */
  async #byLeader(): Promise<Map<number | undefined, PartitionLog[]>> {
    const logs = this.#order;
    const topics = new Map<string, readonly PartitionInfo[]>();
    for (const { topic } of logs) {
      if (!topics.has(topic)) topics.set(topic, await this.#partitionsOf(topic));
    }
    const led = new Map<number | undefined, PartitionLog[]>();
    for (const log of logs) {
      // They stand in their order, from 0 on.
      const leader = topics.get(log.topic)?.[log.partition]?.leader;
      const same = led.get(leader);
      if (same === undefined) led.set(leader, [log]);
      else same.push(log);
    }
    return led;
  }

  /** A topic that was deleted while nobody fetched from it is made again before the next look (LIFE-07). */
  async #partitionsOf(topic: string): Promise<readonly PartitionInfo[]> {
    try {
      return await this.#options.driver.partitions(topic);
    } catch (error) {
      if (asFailure(error).code === 'UNKNOWN_TOPIC_OR_PARTITION') await this.#restore(topic);
      throw error;
    }
  }

  /** A partition without another replica has no leader until its broker is back. */
  async #lookAgain(failure: KafkaFailure): Promise<void> {
    const { clock, driver, topics } = this.#options;
    if (this.#looking) return;
    this.#looking = true;
    if (++this.#looks > LASTING || this.#down) this.#outage('leaders', failure);
    await sleep(clock, backOff(this.#looks, backOffs), this.#closing.signal);
    this.#looking = false;
    if (this.#closing.signal.aborted) return;
    for (const topic of topics) driver.forget(topic);
    await this.#ensureLoops();
  }

  async #run(broker: number): Promise<void> {
    const idle = await this.#loop(broker);
    this.#loops.delete(broker);
    // Something may have come to this broker just as its loop ended, or has no leader now.
    if (idle) await this.#ensureLoops();
    this.#answered(broker);
  }

  /** True when the broker leads nothing of ours any more, false when reading has ended. */
  async #loop(broker: number): Promise<boolean> {
    const { clock } = this.#options;
    const { signal } = this.#closing;
    let failures = 0;
    let before = 0;
    while (!signal.aborted) {
      try {
        const seen = this.#pokes;
        const led = await this.#ledBy(broker);
        if (led === undefined) return true;
        const wanted = this.#wanted(led);
        if (wanted.length === 0) {
          this.#answered(broker);
          if (seen === this.#pokes) await this.#sleepTillPoked();
          continue;
        }
        // Who is not asked for now may have been emptied long before those that have no news.
        const hurried = wanted.length < led.length && seen !== before;
        before = seen;
        await this.#fetchOnce(broker, wanted, hurried ? SHORT_WAIT : FETCH_WAIT);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return false;
        const failure = asFailure(error);
        if (!isPassing(failure)) {
          this.#options.events.failed(failure);
          return false;
        }
        failures++;
        if (isNetwork(failure) || failures > LASTING) this.#outage(broker, failure);
        for (const topic of this.#options.topics) this.#options.driver.forget(topic);
        await sleep(clock, backOff(failures, backOffs), signal);
        void this.#ensureLoops();
      }
    }
    return false;
  }

  /** `undefined` when this broker leads nothing of ours any more; while nothing is ours, it may. */
  async #ledBy(broker: number): Promise<readonly PartitionLog[] | undefined> {
    const led = (await this.#byLeader()).get(broker);
    return led ?? (this.#order.length > 0 ? undefined : []);
  }

  #wanted(led: readonly PartitionLog[]): PartitionLog[] {
    const { ahead } = this.#options;
    let bytes = 0;
    for (const log of this.#order) if (!this.#paused.has(log.unit)) bytes += log.bytes;
    const now = this.#options.clock.monotonic();
    return led.filter((log) => {
      if (log.fetchAt > now) return false;
      if (log.leaving || !log.alive || log.size >= ahead.records || log.bytes >= ahead.bytes) return false;
      // A partition of which nothing is ready always gets its turn: the others may wait for it (SUB-04 bounds both).
      return log.size === 0 || bytes < ahead.bytes;
    });
  }

  async #fetchOnce(broker: number, logs: readonly PartitionLog[], wait: number): Promise<void> {
    const { ahead } = this.#options;
    const share = Math.floor(ahead.bytes / logs.length);
    const maxBytes = Math.max(SMALLEST_FETCH, Math.min(LARGEST_FETCH, share));
    const asks = logs.map(({ topic, partition, next }) => ({ topic, partition, offset: next, maxBytes }));
    const answers = await this.#fetch.fetch(broker, asks, wait);
    this.#answered(broker);
    let ready = false;
    for (const [index, log] of logs.entries()) {
      const answer = answers[index];
      // Lost, let go or moved while the fetch was under way.
      if (answer === undefined || !log.alive || log.leaving || log.next !== asks[index]?.offset) continue;
      if (answer instanceof KafkaFailure) {
        await this.#refused(log, answer);
        continue;
      }
      log.failures = 0;
      log.accept(answer.records, answer.next);
      ready ||= answer.records.length > 0;
    }
    if (ready) this.#options.events.ready();
  }

  /** One partition cannot be read at the moment; the others go on. */
  async #refused(log: PartitionLog, failure: KafkaFailure): Promise<void> {
    log.failures++;
    log.fetchAt = this.#options.clock.monotonic() + backOff(log.failures, backOffs);
    if (failure.code === 'OFFSET_OUT_OF_RANGE') return this.#outOfRange(log);
    if (!isPassing(failure)) throw failure;
    if (failure.code === 'UNKNOWN_TOPIC_OR_PARTITION') await this.#gone(log);
    await this.#ensureLoops();
  }

  /** RET-02: what the group was to read next is not there. */
  async #outOfRange(log: PartitionLog): Promise<void> {
    const { driver, events } = this.#options;
    const [earliest, latest] = await driver.offsets([
      { topic: log.topic, partition: log.partition, at: 'earliest' },
      { topic: log.topic, partition: log.partition, at: 'latest' },
    ]);
    if (earliest instanceof KafkaFailure) throw earliest;
    const first = earliest ?? 0;
    if (!log.alive || (log.next >= first && typeof latest === 'number' && log.next <= latest)) return;
    const what =
      log.next < first
        ? `offsets ${log.next} to ${first - 1} of partition ${log.partition} of topic "${log.topic}" were deleted before ${this.#who} had read them; it goes on from offset ${first}`
        : `partition ${log.partition} of topic "${log.topic}" ends at ${String(latest)}, before offset ${log.next} where ${this.#who} was; it goes on from the earliest message, offset ${first}`;
    events.positionLost(log.unit, what);
    await this.#startAnew(log, first);
  }

  /** Whoever reads, for texts. */
  get #who(): string {
    const { group } = this.#options;
    return group === undefined ? 'a broadcast' : `group "${group}"`;
  }

  async #startAnew(log: PartitionLog, offset: number): Promise<void> {
    const failure = new KafkaFailure('OFFSET_OUT_OF_RANGE', 'the message was deleted by the broker', { sent: false });
    await this.#moveTo(new Map([[`${log.topic}:${log.partition}`, offset]]), '', failure);
  }

  /** The broker does not host it: a leader that moved, or LIFE-07. */
  async #gone(log: PartitionLog): Promise<void> {
    const { driver, topics } = this.#options;
    const found = (await driver.describeTopics(topics)).get(log.topic);
    if (found === undefined || found instanceof KafkaFailure) {
      if (found !== undefined && found.code !== 'UNKNOWN_TOPIC_OR_PARTITION') throw found;
      await this.#restore(log.topic);
    }
  }

  /** A topic was deleted: its logs start anew in what takes its place. */
  #restore(topic: string): Promise<void> {
    const before = this.#missing.get(topic);
    if (before !== undefined) return before;
    const restoring = this.#restoreNow(topic).finally(() => this.#missing.delete(topic));
    this.#missing.set(topic, restoring);
    return restoring;
  }

  async #restoreNow(topic: string): Promise<void> {
    const { driver, events } = this.#options;
    await events.missing(topic);
    driver.forget(topic);
    for (const log of this.#order) {
      if (log.topic !== topic || log.next === 0) continue;
      events.positionLost(
        log.unit,
        `topic "${topic}" was deleted; ${this.#who}, which was at offset ${log.next} of partition ${log.partition}, goes on from the first message of what took its place`,
      );
      await this.#startAnew(log, 0);
    }
  }

  /** Nothing to ask for; something that was refused is asked for again after a while. */
  async #sleepTillPoked(): Promise<void> {
    const { clock } = this.#options;
    const poked = new AbortController();
    this.#asleep.push(() => poked.abort());
    const next = Math.min(...this.#order.map(({ fetchAt }) => fetchAt).filter((at) => at > clock.monotonic()));
    if (next === Number.POSITIVE_INFINITY) {
      await new Promise<void>((resolve) => poked.signal.addEventListener('abort', () => resolve(), { once: true }));
    } else {
      await sleep(clock, next - clock.monotonic(), poked.signal);
    }
  }

  #poke(): void {
    this.#pokes++;
    const asleep = this.#asleep;
    this.#asleep = [];
    for (const wake of asleep) wake();
  }

  #outage(what: Outage, failure: KafkaFailure): void {
    this.#outages.add(what);
    if (this.#down || this.#reads) return;
    this.#down = true;
    this.#options.events.interrupted(failure);
  }

  #answered(what: Outage): void {
    if (!this.#outages.delete(what) || !this.#down || !this.#reads) return;
    this.#down = false;
    this.#options.events.restored();
  }

  /** Nothing of ours stands still: one broker of several that is away hands what it leads to others. */
  get #reads(): boolean {
    for (const what of this.#outages) if (typeof what !== 'number') return false;
    return this.#outages.size === 0 || [...this.#loops.keys()].some((broker) => !this.#outages.has(broker));
  }
}

const notLed = ({ topic, partition }: TopicPartition): KafkaFailure =>
  new KafkaFailure('LEADER_NOT_AVAILABLE', `no broker leads partition ${partition} of topic "${topic}" now`, {
    sent: false,
  });
