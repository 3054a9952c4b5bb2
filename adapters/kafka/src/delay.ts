/**
 * Messages that wait for their time. A level is a topic whose messages all wait equally long, so that nothing short
 * waits behind something long (DELAY-02): the largest level that is not too long is taken, and what leaves it early
 * goes to the next smaller one. The last second is waited for in the hands of a forwarder.
 *
 * Forwarders are members of one group over all buses of a prefix; each level has one of them at a time. A forwarder
 * commits only what has arrived, so a crash may double a message and loses none.
 */
import { Alarm, type Clock, Heap, integer, type Logger, wireHeaders } from '@waybill/core/adapter';
import { type Driver, KafkaFailure, type OutgoingRecord } from './driver.ts';
import { isPassing } from './errors.ts';
import type { Item, PartitionLog } from './partition-log.ts';
import type { Publisher, Send } from './publisher.ts';
import { Reader } from './reader.ts';
import { arrivedRecord, copyDelayed, delayedRecord, headerText, readDestination } from './records.ts';
import { type KafkaNames, LEVELS } from './topology.ts';
import { LAST_WORDS, shortly } from './wait.ts';

/** Milliseconds that a message waits in a forwarder's hands at most. */
const HOLD = 1_000;
/** How long the others wait for a forwarder that has died when somebody comes or goes. */
const REBALANCE = 2_000;
/** Messages in a forwarder's hands; what is beyond waits in its topic. */
const MOST_HELD = 20_000;
/** A forwarder that dies is missed after this long; the least that brokers allow. */
const SESSION = 6_000;
/** Messages that go on in one step. */
const STEP = 2_000;
/** How long the destination may be missing before its messages are given up. */
const HOMELESS = 60_000;

export interface DelayOptions {
  readonly driver: Driver;
  readonly publisher: Publisher;
  readonly names: KafkaNames;
  /** Makes the levels again, where that is allowed. */
  readonly restore: () => Promise<void>;
  readonly requestTimeout: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Destination {
  readonly topic: string;
  readonly partition: number | undefined;
}

/** A message in a forwarder's hands. */
interface Waiting {
  readonly item: Item;
  readonly to: Destination;
  readonly deliverAt: number;
  /** In wall time: when it goes on; later than `deliverAt` after a failure. */
  due: number;
  tries: number;
  /** In wall time: since when its destination is missing. */
  missingSince: number | undefined;
}

export class DelayLevels {
  readonly #options: DelayOptions;
  /** Milliseconds by topic. */
  readonly #levels: ReadonlyMap<string, number>;
  readonly #held = new Heap<Waiting>((a, b) => a.due < b.due);
  readonly #alarm: Alarm;
  #reader: Reader | undefined;
  #underWay = 0;
  #waiting: (() => void)[] = [];
  #closed = false;

  constructor(options: DelayOptions) {
    this.#options = options;
    this.#levels = new Map(LEVELS.map((level) => [options.names.level(level), level]));
    this.#alarm = new Alarm(options.clock, () => this.#move());
  }

  /** Where a record goes that is to be at `to` at `deliverAt`: there itself when that is now. */
  send(record: OutgoingRecord, to: Destination, deliverAt: number): Send {
    const left = deliverAt - this.#options.clock.now();
    if (left <= 0) return { ...to, record };
    return { topic: this.#level(left), partition: 0, record: delayedRecord(record, to, deliverAt) };
  }

  #level(left: number): string {
    let largest = '';
    for (const [topic, level] of this.#levels) if (level <= left || largest === '') largest = topic;
    return largest;
  }

  /** Takes part in forwarding from now on. */
  start(): void {
    if (this.#reader !== undefined || this.#closed) return;
    const { driver, names, requestTimeout, clock, logger } = this.#options;
    const reader = new Reader({
      driver,
      group: names.forwarders,
      topics: [...this.#levels.keys()],
      unitOf: ({ topic }) => topic,
      session: SESSION,
      rebalance: REBALANCE,
      // One forwarder has work for no more than itself; a level that moves stands still meanwhile.
      sharing: 'one',
      ahead: { records: STEP, bytes: 16 * 1024 * 1024 },
      disposable: () => true,
      patience: requestTimeout,
      clock,
      logger,
      events: {
        gained: () => this.#move(),
        // What is held in hand goes on from the next forwarder's.
        revoked: () => this.#quiet(),
        lost: () => this.#move(),
        ready: () => this.#move(),
        interrupted: (failure) => logger.debug(`kafka: delays are not forwarded at the moment: ${failure.message}`),
        restored: () => this.#move(),
        positionLost: (level, what) => logger.error(`kafka: delayed messages may be lost in "${level}": ${what}`),
        missing: () => this.#options.restore(),
        failed: (failure) => logger.error(`kafka: delayed messages are not forwarded any more: ${failure.message}`),
      },
    });
    this.#reader = reader;
    reader.start().catch((error: unknown) => {
      if (!this.#closed) logger.error(`kafka: delayed messages are not forwarded: ${String(error)}`);
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#alarm.off();
    await shortly(this.#options.clock, LAST_WORDS, this.#quiet());
    await this.#reader?.close();
  }

  /** Resolves when nothing is on its way: what has arrived and is not committed would go on once more. */
  async #quiet(): Promise<void> {
    while (this.#underWay > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Takes what may leave its level, sends what is due, and rings again for the next. */
  #move(): void {
    const { clock } = this.#options;
    const reader = this.#reader;
    if (reader === undefined || this.#closed || !reader.alive) return;
    const now = clock.now();
    const due: Waiting[] = [];
    let next = Number.POSITIVE_INFINITY;
    const leaves = (item: Item): boolean => {
      if (this.#held.size + due.length + this.#underWay >= MOST_HELD) return false;
      const at = this.#leavesAt(item);
      if (at <= now) return true;
      next = Math.min(next, at);
      return false;
    };
    for (;;) {
      const items = reader.take(STEP, leaves);
      for (const item of items) {
        const deliverAt = dueOf(item.record);
        const to = readDestination(item.record);
        if (to === undefined) {
          this.#drop(item, 'it says no destination');
          continue;
        }
        const waiting = { item, to, deliverAt, due: deliverAt, tries: 0, missingSince: undefined };
        // Far from its time it goes to the next level at once; near to it, it is waited for here.
        if (deliverAt - now <= 0 || deliverAt - now > HOLD) due.push(waiting);
        else this.#held.push(waiting);
      }
      if (items.length < STEP) break;
    }
    for (let top = this.#held.peek(); top !== undefined && top.due <= now; top = this.#held.peek()) {
      this.#held.pop();
      if (top.item.log.alive && !top.item.log.leaving) due.push(top);
    }
    const top = this.#held.peek();
    if (top !== undefined) next = Math.min(next, top.due);
    // Wall time to monotonic; a clock that is set meanwhile is noticed within the second.
    if (next < Number.POSITIVE_INFINITY) this.#alarm.at(clock.monotonic() + Math.min(next - now, HOLD));
    for (let at = 0; at < due.length; at += STEP) void this.#forward(due.slice(at, at + STEP));
  }

  #leavesAt({ record, log }: Item): number {
    const level = this.#levels.get(log.topic) ?? 0;
    // In the first level everything is near its time. The broker's clock has stamped the others.
    return level === 0 ? 0 : Math.min(record.timestamp + level, dueOf(record));
  }

  async #forward(batch: readonly Waiting[]): Promise<void> {
    const { publisher, clock } = this.#options;
    this.#underWay += batch.length;
    const now = clock.now();
    const sent = await publisher.send(batch.map((waiting) => this.#next(waiting, now)));
    const logs = new Set<PartitionLog>();
    for (const [index, waiting] of batch.entries()) {
      const result = sent[index];
      const { item } = waiting;
      if (!item.log.alive) continue;
      if (result instanceof KafkaFailure && this.#isHomeless(waiting, result)) {
        this.#drop(item, `its destination "${waiting.to.topic}" does not exist`);
        continue;
      }
      if (result instanceof KafkaFailure) {
        waiting.tries++;
        waiting.due = clock.now() + (isPassing(result) ? Math.min(5_000, 100 * 2 ** waiting.tries) : HOMELESS);
        this.#held.push(waiting);
        continue;
      }
      item.log.finish(item);
      logs.add(item.log);
    }
    for (const log of logs) void this.#reader?.commit(log);
    this.#underWay -= batch.length;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const look of waiting) look();
    this.#move();
  }

  #next({ item, to, deliverAt }: Waiting, now: number): Send {
    const { record } = item;
    if (deliverAt > now) return { topic: this.#level(deliverAt - now), partition: 0, record: copyDelayed(record) };
    return { ...to, record: arrivedRecord(record) };
  }

  /** Whether a message has no home any more: its topic or group was deleted (SUB-12). */
  #isHomeless(waiting: Waiting, failure: KafkaFailure): boolean {
    const { clock, logger } = this.#options;
    if (!isPassing(failure)) {
      logger.error(`kafka: a delayed message for "${waiting.to.topic}" is refused: ${failure.message}`);
    }
    const missing = failure.code === 'UNKNOWN_TOPIC_OR_PARTITION';
    // An outage says nothing about the destination.
    waiting.missingSince = missing ? (waiting.missingSince ?? clock.now()) : undefined;
    return waiting.missingSince !== undefined && clock.now() - waiting.missingSince > HOMELESS;
  }

  #drop(item: Item, why: string): void {
    this.#options.logger.warn(`kafka: a delayed message in "${item.log.topic}" is dropped: ${why}`);
    item.log.finish(item);
    void this.#reader?.commit(item.log);
  }
}

const dueOf = (record: Item['record']): number =>
  integer(headerText(record.headers, wireHeaders.deliverAt)) ?? record.timestamp;
