/** One member's hands: deliveries out of the reader's partitions, and what becomes of them. */
import {
  Alarm,
  type Clock,
  type Delivery,
  integer,
  LeaseLostError,
  type Logger,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  type WaybillError,
  wireHeaders,
} from '@waybill/core/adapter';
import type { CommitResult } from './commits.ts';
import type { DelayLevels } from './delay.ts';
import { type Driver, KafkaFailure, type OutgoingRecord } from './driver.ts';
import { adapter, isPassing, isUnknown, toWaybillError } from './errors.ts';
import { type Item, laneOfPartition } from './partition-log.ts';
import { noAnswer, type Publisher, type Send } from './publisher.ts';
import { Reader } from './reader.ts';
import { copyRecord, deadLetterRecord, headerText, kafkaHeaders, readRecord } from './records.ts';

export interface ReceiverSetup {
  readonly source: Source;
  readonly events: ReceiverEvents;
  readonly driver: Driver;
  readonly publisher: Publisher;
  readonly delays: DelayLevels;
  /** Names on the broker. */
  readonly topic: string;
  readonly group: string;
  readonly retry: string;
  readonly deadLetter: string;
  /** Whether the retry topic is this group's alone, and not one that the user has named. */
  readonly ownsRetry: boolean;
  /** First offsets of a broadcast, by `topic:partition`. */
  readonly startAt: ReadonlyMap<string, number> | undefined;
  /** Whether the group was there before the broker lost its place. */
  readonly forgotten: () => boolean;
  /** Makes topic and group again; rejects where that is not allowed. */
  readonly restore: () => Promise<void>;
  readonly target: string;
  readonly requestTimeout: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The receiver is closed. */
  readonly ended: (receiver: KafkaReceiver) => void;
}

/** A delivery of this adapter. */
interface KafkaDelivery extends Delivery {
  readonly item: Item;
}

/** What has become of a settlement; `commit`: its commit decides, `undefined`: its copy does, which is not stored yet. */
type Outcome = SettleResult | 'commit' | undefined;

const itemOf = ({ delivery }: Settlement): Item => (delivery as KafkaDelivery).item;

/** Messages that one partition may have ready: a fetch brings more than one, and the next is to be there in time. */
const READY = 2_000;

export class KafkaReceiver implements Receiver {
  readonly #setup: ReceiverSetup;
  readonly #reader: Reader;
  readonly #alarm: Alarm;
  /** The broker keeps no other's messages from us: order and broadcasts are held here, in place. */
  readonly #inPlace: boolean;
  /** Rejects when the broker goes away, or reading fails for good, before the receiver is open. */
  readonly #opening = Promise.withResolvers<never>();
  #wake: (() => void) | undefined;
  #closed = false;
  #failed = false;
  #opened = false;

  private constructor(setup: ReceiverSetup) {
    this.#setup = setup;
    const { source, events, driver, clock, logger, topic, retry, target } = setup;
    const { temporary } = source.group;
    this.#inPlace = temporary || source.group.topic.ordered;
    this.#alarm = new Alarm(clock, () => this.#ready());
    this.#reader = new Reader({
      driver,
      group: temporary ? undefined : setup.group,
      topics: temporary ? [topic] : [topic, retry],
      unitOf: laneOfPartition,
      session: source.lease,
      // A member is put out by its lease alone; the dead are, and who is alive joins again with its next heartbeat.
      rebalance: 2 * source.lease,
      sharing: 'even',
      ahead: { records: Math.max(READY, source.prefetch), bytes: source.prefetchBytes },
      ...(setup.startAt === undefined ? {} : { startAt: setup.startAt }),
      remembered: (name) => name === topic && setup.forgotten(),
      disposable: (name) => setup.ownsRetry && name === retry,
      patience: setup.requestTimeout,
      clock,
      logger,
      events: {
        gained: (units) => events.assigned(units),
        // The broker sets no bound, because we stay a member meanwhile; but a lane is not held up longer than by a death.
        revoked: (units) => events.revoking(units, source.lease),
        lost: (units, failure) => events.lost(units, this.#leaseLost(failure)),
        ready: () => this.#ready(),
        interrupted: (failure) => {
          if (this.#opened) events.interrupted(toWaybillError(failure, `group "${setup.group}"`, target));
          else this.#opening.reject(failure);
        },
        restored: () => events.restored(),
        positionLost: (unit, what) => events.positionLost(unit, what),
        missing: () => this.#restore(),
        failed: (failure) => this.#fail(toWaybillError(failure, `group "${setup.group}" of topic "${topic}"`, target)),
      },
    });
  }

  /** @throws WaybillError when the group refuses the member */
  static async open(setup: ReceiverSetup): Promise<KafkaReceiver> {
    const receiver = new KafkaReceiver(setup);
    try {
      // When the broker goes away meanwhile, core decides whether to try again: a join alone would for ever.
      await Promise.race([receiver.#reader.start(), receiver.#opening.promise]);
    } catch (error) {
      await receiver.close();
      throw toWaybillError(error, `group "${setup.group}" of topic "${setup.topic}"`, setup.target);
    }
    receiver.#opened = true;
    return receiver;
  }

  /** Messages that are in hand here. */
  get inHand(): number {
    return this.#reader.logs.reduce((sum, log) => sum + log.inHand, 0);
  }

  get source(): Source {
    return this.#setup.source;
  }

  async receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    while (!finish.aborted && !this.#closed) {
      const items = this.#reader.alive ? this.#reader.take(max, (item) => this.#isDue(item)) : [];
      if (items.length > 0) return items.map((item) => this.#delivery(item));
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          finish.removeEventListener('abort', wake);
          resolve();
        };
        this.#wake = wake;
        finish.addEventListener('abort', wake, { once: true });
      });
    }
    return [];
  }

  #ready(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  #isDue(item: Item): boolean {
    if (item.notBefore > 0 && item.notBefore > this.#setup.clock.monotonic()) {
      this.#alarm.at(item.notBefore);
      return false;
    }
    if (item.log.topic !== this.#setup.retry || !this.#inPlace) return true;
    // A redriven message of an ordered topic goes behind what its key had waiting (ORD-04).
    const after = integer(headerText(item.record.headers, kafkaHeaders.after));
    const main = this.#reader.log(this.#setup.topic, item.log.partition);
    return after === undefined || main === undefined || main.handedTo >= after;
  }

  #delivery(item: Item): KafkaDelivery {
    const { record, log } = item;
    const { id, key, type, contentType, body, headers, publishedAt, expiresAt, attempt, position } = readRecord(
      record,
      log.partition,
    );
    return {
      lane: log.unit,
      id,
      key,
      type,
      contentType,
      body,
      headers,
      publishedAt,
      expiresAt,
      attempt: item.attempt ?? attempt,
      deliveries: undefined,
      position,
      native: record,
      item,
    };
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    // The lease of all of them is the session; a process that was stopped finds out here.
    if (!this.#reader.alive) return batch.map(() => 'lost');
    const copies: { index: number; send: Send }[] = [];
    const results = batch.map((settlement, index): Outcome => {
      const item = itemOf(settlement);
      if (!item.log.alive) return 'lost';
      switch (settlement.verb) {
        case 'ack':
          return this.#finish(item);
        case 'abandon':
          return this.#release(item, 0, undefined);
        case 'giveBack': {
          const { after, attempt } = settlement;
          if (this.#inPlace) return this.#release(item, after, attempt);
          if (item.copied) return this.#finish(item);
          copies.push({ index, send: this.#retry(item, after, attempt) });
          return undefined;
        }
        default: {
          if (item.copied) return this.#finish(item);
          const record = deadLetterRecord(item.record, item.log.partition, settlement.details);
          copies.push({ index, send: { topic: this.#setup.deadLetter, partition: 0, record } });
          return undefined;
        }
      }
    });
    if (copies.length > 0) await this.#copy(batch, copies, results);
    // One commit for each partition, whatever the batch; they share a request.
    const commits = new Map<Item['log'], Promise<CommitResult>>();
    for (const [index, result] of results.entries()) {
      const { log } = itemOf(batch[index] as Settlement);
      if (result === 'commit' && !commits.has(log)) commits.set(log, this.#reader.commit(log));
    }
    // What waits beyond the window of the bitmap may be handed out now.
    if (commits.size > 0) this.#ready();
    const committed = new Map<Item['log'], CommitResult>();
    for (const [log, commit] of commits) committed.set(log, await commit);
    return results.map((result, index) => {
      const end = result === 'commit' ? committed.get(itemOf(batch[index] as Settlement).log) : result;
      return end === undefined || end instanceof KafkaFailure ? this.#notDone(end ?? noAnswer()) : end;
    });
  }

  /** Why a settlement is not done, or not known to be. */
  #notDone(failure: KafkaFailure): WaybillError {
    return toWaybillError(failure, 'a settlement', this.#setup.target);
  }

  #finish(item: Item): 'commit' {
    // A settlement that is repeated after an unknown outcome was counted the first time.
    if (!item.done) item.log.finish(item);
    return 'commit';
  }

  #release(item: Item, after: number, attempt: number | undefined): SettleResult {
    item.attempt = attempt ?? item.attempt;
    item.notBefore = after > 0 ? this.#setup.clock.monotonic() + after : 0;
    item.log.putBack(item);
    this.#ready();
    return 'applied';
  }

  #retry(item: Item, after: number, attempt: number): Send {
    const { record, log } = item;
    const copy = copyRecord(record, log.partition, { [wireHeaders.attempt]: String(attempt) });
    const to = { topic: this.#setup.retry, partition: log.partition };
    return this.#setup.delays.send(copy, to, this.#setup.clock.now() + after);
  }

  /** Stores copies; only what is confirmed may be committed (RETRY-09, DLQ-02). */
  async #copy(
    batch: readonly Settlement[],
    copies: readonly { index: number; send: Send }[],
    results: Outcome[],
  ): Promise<void> {
    const sent = await this.#setup.publisher.send(copies.map(({ send }) => send));
    let gone = false;
    for (const [at, { index, send }] of copies.entries()) {
      const settlement = batch[index] as Settlement;
      const item = itemOf(settlement);
      const result = sent[at] ?? noAnswer();
      if (!(result instanceof KafkaFailure)) {
        item.copied = true;
        results[index] = item.log.alive ? this.#finish(item) : 'lost';
        continue;
      }
      gone ||= result.code === 'UNKNOWN_TOPIC_OR_PARTITION';
      if (isUnknown(result) || isPassing(result)) results[index] = this.#notDone(result);
      else results[index] = this.#refused(settlement, item, send.record, result);
    }
    if (gone) await this.#restore().catch(() => {});
  }

  /** The broker will never take this copy: it stays here, and the log says why. */
  #refused(settlement: Settlement, item: Item, record: OutgoingRecord, failure: KafkaFailure): SettleResult {
    const { logger, topic, group } = this.#setup;
    const bytes = record.value?.length ?? 0;
    const text = `kafka: topic "${topic}", group "${group}": a ${settlement.verb} copy of ${bytes} bytes is refused: ${failure.message} (${failure.code})`;
    if (settlement.verb !== 'giveBack') {
      logger.error(`${text}; the message stays unsettled`);
      return this.#notDone(failure);
    }
    logger.error(`${text}; the message is held here until its time`);
    return this.#release(item, settlement.after, settlement.attempt);
  }

  pauseLane(lane: string): void {
    this.#reader.pause(lane);
  }

  resumeLane(lane: string): void {
    this.#reader.resume(lane);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#alarm.off();
    this.#ready();
    await this.#reader.close();
    this.#setup.ended(this);
  }

  async #restore(): Promise<void> {
    try {
      await this.#setup.restore();
    } catch (error) {
      const failure = toWaybillError(error, `topic "${this.#setup.topic}"`, this.#setup.target);
      if (failure.code === 'CONFIG') this.#fail(failure);
      throw error;
    }
  }

  #fail(error: WaybillError): void {
    if (this.#failed || this.#closed) return;
    this.#failed = true;
    if (this.#opened) this.#setup.events.failed(error);
    else this.#opening.reject(error);
  }

  #leaseLost(failure: KafkaFailure): LeaseLostError {
    const { topic, group } = this.#setup;
    return new LeaseLostError(`topic "${topic}", group "${group}": ${failure.message}`, { adapter, cause: failure });
  }
}
