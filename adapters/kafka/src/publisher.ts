/**
 * Writes records: every message, retry, delay and dead letter goes through here.
 *
 * Load forms batches: one request is under way to each broker, with one batch for each of its partitions; what comes
 * meanwhile goes with the next. The producer is idempotent: a batch whose answer was lost is sent again with the same
 * sequence numbers, and the broker drops the double. When its fate stays unknown, the numbers are given up with the
 * whole producer: taken again by other messages they would make the broker drop those (GUAR-01).
 */
import { backOff, type Clock, murmur2, sleep } from '@waybill/core/adapter';
import { type Driver, KafkaFailure, type OutgoingRecord, type Producer, type TopicPartition } from './driver.ts';
import { asFailure, isNetwork, isPassing, isUnknown } from './errors.ts';
import { sizeOf } from './records.ts';

export interface Send {
  readonly topic: string;
  /** Chosen by the key unless given. */
  readonly partition?: number | undefined;
  readonly record: OutgoingRecord;
  /** On an ordered topic nothing of a partition may be stored after something before it was not. */
  readonly ordered?: boolean;
}

export type Sent = { readonly partition: number; readonly offset: number } | KafkaFailure;

/** Bytes of one partition's batch: below the broker's default of 1 MiB, whatever it is set to. */
const BATCH_BYTES = 900_000;

/** How often a topic has to be missing until it is taken for gone. */
const GONE = 6;

interface Entry extends TopicPartition {
  readonly record: OutgoingRecord;
  readonly size: number;
  readonly ordered: boolean;
  readonly settle: (sent: Sent) => void;
}

/** Numbers of a producer; dropped as a whole when one of them is in doubt. */
interface Numbers extends Producer {
  readonly next: Map<string, number>;
}

interface Chunk extends TopicPartition {
  readonly name: string;
  readonly entries: readonly Entry[];
}

export interface PublisherOptions {
  readonly driver: Driver;
  /** Milliseconds for which a batch in doubt is asked about again before its outcome is called unknown. */
  readonly patience: number;
  readonly clock: Clock;
  /** A broker could not be reached. */
  readonly unreachable: () => void;
}

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #driver: Driver;
  /** What waits, by partition, in its order. */
  readonly #pending = new Map<string, Entry[]>();
  /** Brokers with a request under way. */
  readonly #busy = new Set<number>();
  readonly #turns = new Map<string, number>();
  /** Partitions with a batch under way: also when their leader moves, the next one waits for its numbers. */
  readonly #underWay = new Set<string>();
  #numbers: Numbers | undefined;
  #making: Promise<Numbers> | undefined;
  #closed = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#driver = options.driver;
  }

  /** A result for each, in their order; never rejects. Records of one partition are stored in the order given. */
  async send(items: readonly Send[]): Promise<readonly Sent[]> {
    if (this.#closed) return items.map(() => closed());
    const counts = new Map<string, number | KafkaFailure>();
    for (const topic of new Set(items.map((item) => item.topic))) counts.set(topic, await this.#partitionsOf(topic));
    const sent = new Promise<readonly Sent[]>((resolve) => {
      const results: Sent[] = new Array(items.length);
      let left = items.length;
      if (left === 0) resolve(results);
      for (const [index, item] of items.entries()) {
        this.#enqueue(item, counts.get(item.topic) as number | KafkaFailure, (result) => {
          results[index] = result;
          if (--left === 0) resolve(results);
        });
      }
    });
    void this.#pump();
    return sent;
  }

  async #partitionsOf(topic: string): Promise<number | KafkaFailure> {
    try {
      return (await this.#driver.partitions(topic)).length;
    } catch (error) {
      return this.#unsent(asFailure(error));
    }
  }

  #enqueue(item: Send, count: number | KafkaFailure, settle: (sent: Sent) => void): void {
    if (count instanceof KafkaFailure) {
      settle(count);
      return;
    }
    const { topic, record, ordered = false } = item;
    const partition = this.#place(item, count);
    const entry: Entry = { topic, partition, record, size: sizeOf(record), ordered, settle };
    const name = `${topic}:${partition}`;
    const waiting = this.#pending.get(name);
    if (waiting === undefined) this.#pending.set(name, [entry]);
    else waiting.push(entry);
  }

  #place({ topic, partition, record }: Send, count: number): number {
    // A retry topic may have fewer partitions than its source got later.
    if (partition !== undefined) return partition % count;
    if (record.key !== null) return laneOfBytes(record.key, count);
    // By turns, so that the members of a group share what has no key.
    const turn = this.#turns.get(topic) ?? Math.floor(Math.random() * count);
    this.#turns.set(topic, turn + 1);
    return turn % count;
  }

  /** A failure before anything was sent. */
  #unsent(failure: KafkaFailure): KafkaFailure {
    const unsent = new KafkaFailure(failure.code, failure.message, { sent: false, cause: failure.cause });
    if (isNetwork(failure)) this.#options.unreachable();
    return unsent;
  }

  /** Starts a request to every broker that has none under way and something waiting. */
  async #pump(): Promise<void> {
    const topics = new Set<string>();
    for (const [entry] of this.#pending.values()) if (entry !== undefined) topics.add(entry.topic);
    const leaders = new Map<string, number | KafkaFailure>();
    for (const topic of topics) {
      try {
        for (const { partition, leader } of await this.#driver.partitions(topic)) {
          if (leader !== undefined) leaders.set(`${topic}:${partition}`, leader);
        }
      } catch (error) {
        leaders.set(topic, this.#unsent(asFailure(error)));
      }
    }
    const brokers = new Set<number>();
    for (const [name, entries] of this.#pending) {
      const [first] = entries;
      if (first === undefined || !topics.has(first.topic)) continue;
      const leader = leaders.get(name) ?? leaders.get(first.topic);
      if (typeof leader === 'number') {
        brokers.add(leader);
        continue;
      }
      this.#pending.delete(name);
      // Asked again next time, in case the partition is new or its leader has been found.
      if (leader === undefined) this.#driver.forget(first.topic);
      const failure =
        leader ?? new KafkaFailure('LEADER_NOT_AVAILABLE', `no broker leads ${name} now`, { sent: false });
      for (const { settle } of entries) settle(failure);
    }
    for (const broker of brokers) void this.#serve(broker, leaders);
  }

  async #serve(broker: number, leaders: ReadonlyMap<string, number | KafkaFailure>): Promise<void> {
    if (this.#busy.has(broker)) return;
    this.#busy.add(broker);
    const chunks = this.#take(broker, leaders);
    for (const { name } of chunks) this.#underWay.add(name);
    const inDoubt = chunks.length > 0 ? await this.#write(broker, chunks) : [];
    for (const chunk of chunks) if (!inDoubt.includes(chunk)) this.#underWay.delete(chunk.name);
    this.#busy.delete(broker);
    if (chunks.length > 0 && this.#pending.size > 0) void this.#pump();
  }

  /** The next batch of each partition that this broker leads. */
  #take(broker: number, leaders: ReadonlyMap<string, number | KafkaFailure>): Chunk[] {
    const chunks: Chunk[] = [];
    for (const [name, entries] of this.#pending) {
      const [first] = entries;
      if (first === undefined || leaders.get(name) !== broker || this.#underWay.has(name)) continue;
      let count = 1;
      let size = first.size;
      for (; count < entries.length; count++) {
        size += entries[count]?.size ?? 0;
        if (size > BATCH_BYTES) break;
      }
      const taken = count === entries.length ? entries : entries.splice(0, count);
      if (taken === entries) this.#pending.delete(name);
      chunks.push({ name, topic: first.topic, partition: first.partition, entries: taken });
    }
    return chunks;
  }

  /** Returns the batches of which nobody knows yet whether they are stored; they are seen to beside the others. */
  async #write(broker: number, chunks: readonly Chunk[]): Promise<readonly Chunk[]> {
    let numbers: Numbers;
    try {
      numbers = this.#numbers ?? (await this.#newNumbers());
    } catch (error) {
      const failure = this.#unsent(asFailure(error));
      for (const chunk of chunks) this.#fail(chunk, failure);
      return [];
    }
    const results = await this.#request(broker, numbers, chunks);
    const inDoubt: Chunk[] = [];
    for (const [index, chunk] of chunks.entries()) {
      const result = results[index] ?? noAnswer();
      if (!(result instanceof KafkaFailure)) this.#store(numbers, chunk, result);
      else if (isUnknown(result)) {
        inDoubt.push(chunk);
        void this.#findOut(numbers, chunk, result);
      } else await this.#refused(broker, numbers, chunk, result);
    }
    return inDoubt;
  }

  /**
   * Sends a batch in doubt again, with the same numbers, to whoever leads its partition now: what is stored already is
   * not stored twice. What comes after it waits.
   */
  async #findOut(numbers: Numbers, chunk: Chunk, doubt: KafkaFailure): Promise<void> {
    const { clock, patience } = this.#options;
    const giveUp = clock.monotonic() + patience;
    let stored = false;
    let missing = 0;
    for (let tries = 0; !stored && !this.#closed && clock.monotonic() < giveUp; tries++) {
      if (tries > 0) await sleep(clock, backOff(tries, { initial: 50, max: 1_000 }));
      const partitions = await this.#driver.partitions(chunk.topic).catch(asFailure);
      if (partitions instanceof KafkaFailure) {
        // Nothing is stored in a topic that is gone; but a broker that has just started may know too little yet.
        if (partitions.code === 'UNKNOWN_TOPIC_OR_PARTITION' && ++missing === GONE) break;
        continue;
      }
      const leader = partitions.find(({ partition }) => partition === chunk.partition)?.leader;
      if (leader === undefined) {
        this.#driver.forget(chunk.topic);
        continue;
      }
      const [result] = await this.#request(leader, numbers, [chunk]);
      if (typeof result === 'number') {
        this.#store(numbers, chunk, result);
        stored = true;
      } else if (result !== undefined && !isUnknown(result) && !isPassing(result)) break;
    }
    if (!stored) {
      this.#giveUp(numbers);
      this.#fail(chunk, new KafkaFailure(doubt.code, doubt.message, { sent: true, cause: doubt }));
    }
    this.#underWay.delete(chunk.name);
    void this.#pump();
  }

  async #request(
    broker: number,
    numbers: Numbers,
    chunks: readonly Chunk[],
  ): Promise<readonly (number | KafkaFailure)[]> {
    try {
      const results = await this.#driver.produce(
        broker,
        numbers,
        chunks.map(({ name, topic, partition, entries }) => ({
          topic,
          partition,
          records: entries.map(({ record }) => record),
          sequence: numbers.next.get(name) ?? 0,
        })),
      );
      // A double of something older than what the broker remembers offsets of.
      return results.map((result) =>
        result instanceof KafkaFailure && result.code === 'DUPLICATE_SEQUENCE_NUMBER' ? -1 : result,
      );
    } catch (error) {
      const failure = asFailure(error);
      if (isNetwork(failure)) {
        for (const { topic } of chunks) this.#driver.forget(topic);
        this.#options.unreachable();
      }
      return chunks.map(() => failure);
    }
  }

  #store(numbers: Numbers, { name, entries, partition }: Chunk, offset: number): void {
    this.#count(numbers, name, entries.length);
    for (const [index, { settle }] of entries.entries()) {
      settle({ partition, offset: offset < 0 ? -1 : offset + index });
    }
  }

  #count(numbers: Numbers, name: string, stored: number): void {
    const next = (numbers.next.get(name) ?? 0) + stored;
    // A sequence number has 31 bits; a new producer begins at 0.
    if (next > 2_000_000_000) this.#giveUp(numbers);
    else numbers.next.set(name, next);
  }

  #newNumbers(): Promise<Numbers> {
    this.#making ??= this.#driver
      .newProducer()
      .then((producer) => {
        this.#numbers = { ...producer, next: new Map() };
        return this.#numbers;
      })
      .finally(() => {
        this.#making = undefined;
      });
    return this.#making;
  }

  #giveUp(numbers: Numbers): void {
    if (this.#numbers === numbers) this.#numbers = undefined;
  }

  /** Surely not stored; its numbers are free. */
  async #refused(broker: number, numbers: Numbers, chunk: Chunk, failure: KafkaFailure): Promise<void> {
    if (forgotten.has(failure.code)) this.#giveUp(numbers);
    // Who may not write at all need not try with each.
    if (chunk.entries.length > 1 && !isPassing(failure) && !failure.code.endsWith('AUTHORIZATION_FAILED')) {
      await this.#oneByOne(broker, numbers, chunk);
      return;
    }
    this.#fail(chunk, failure);
  }

  /** One of them is at fault, and only that one is to fail: too large, a time out of bounds. */
  async #oneByOne(broker: number, numbers: Numbers, chunk: Chunk): Promise<void> {
    for (const [at, entry] of chunk.entries.entries()) {
      const alone = { ...chunk, entries: [entry] };
      const [result = noAnswer()] = await this.#request(broker, numbers, [alone]);
      if (typeof result === 'number') {
        this.#store(numbers, alone, result);
        continue;
      }
      if (isUnknown(result)) this.#giveUp(numbers);
      this.#fail(alone, result);
      if (!isUnknown(result) && !isPassing(result)) continue;
      // The next would overtake this one, or take the numbers that it may have used.
      const rest = { ...chunk, entries: chunk.entries.slice(at + 1) };
      this.#fail(rest, new KafkaFailure(result.code, result.message, { sent: false }));
      return;
    }
  }

  #fail({ name, entries }: Chunk, failure: KafkaFailure): void {
    for (const { settle } of entries) settle(failure);
    // What waits behind them on an ordered topic must not overtake them (PUB-08).
    const behind = this.#pending.get(name);
    if (behind === undefined || !isPassing(failure)) return;
    this.#pending.set(
      name,
      behind.filter(({ ordered, settle }) => {
        if (ordered) settle(new KafkaFailure(failure.code, failure.message, { sent: false }));
        return !ordered;
      }),
    );
    if (this.#pending.get(name)?.length === 0) this.#pending.delete(name);
  }

  /** What waits has not been sent. */
  close(): void {
    this.#closed = true;
    for (const entries of this.#pending.values()) for (const { settle } of entries) settle(closed());
    this.#pending.clear();
  }
}

/** The broker does not know us any more, after its retention or a truncated log. */
const forgotten = new Set(['OUT_OF_ORDER_SEQUENCE_NUMBER', 'UNKNOWN_PRODUCER_ID', 'INVALID_PRODUCER_EPOCH']);

export const noAnswer = (): KafkaFailure => new KafkaFailure('UNKNOWN', 'no answer', { sent: true });

const closed = (): KafkaFailure => new KafkaFailure('CLOSED', 'the bus has been closed', { sent: false });

/** The Java client's rule; a foreign key may be any bytes. */
function laneOfBytes(key: Buffer, count: number): number {
  return (murmur2(key) & 0x7fffffff) % count;
}
