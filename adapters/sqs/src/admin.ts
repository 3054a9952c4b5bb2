import type { Message } from '@aws-sdk/client-sqs';
import {
  type Clock,
  type DeadLetterCount,
  type DeadLetterRecord,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  nameOfGroup,
  type SettleResult,
  type Timer,
} from '@waybill/core/adapter';
import { requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import { redriveCopy, toDeadLetter } from './message.ts';
import { messageGroupOf } from './names.ts';
import { type Done, type Handle, type Requests, settled } from './requests.ts';
import type { GroupPlace, Topology } from './topology.ts';

/** Seconds for which a scan hides what it reads, renewed until it is closed: others see it soon when we die. */
const scanVisibility = 10;
/** Milliseconds between renewals. */
const scanPulse = 3_000;
/** Entries, and bytes of them, that are read together and so shown in the order of their deaths. */
const chunk = { entries: 1_000, bytes: 32 * 1024 * 1024 };
/** Reads at once, where there is much to read. */
const reads = 5;

export interface AdminParts {
  readonly link: Link;
  readonly requests: Requests;
  readonly topology: Topology;
  readonly clock: Clock;
}

const counted = [
  'ApproximateNumberOfMessages',
  'ApproximateNumberOfMessagesDelayed',
  'ApproximateNumberOfMessagesNotVisible',
] as const;

interface Counts {
  readonly visible: number;
  readonly delayed: number;
  readonly hidden: number;
}

/** Looks at groups from outside: how much waits, and what is dead. */
export class Admin {
  readonly #parts: AdminParts;

  constructor(parts: AdminParts) {
    this.#parts = parts;
  }

  async lag(group: GroupRef): Promise<Lag> {
    const { topology } = this.#parts;
    try {
      const { queueUrl, aloneUrl } = await topology.placeOf(group);
      const [all, alone] = await Promise.all([
        this.#count(queueUrl),
        aloneUrl === undefined ? none : this.#count(aloneUrl),
      ]);
      return {
        waiting: all.visible + alone.visible,
        delayed: all.delayed,
        inFlight: all.hidden + alone.hidden,
        exact: false,
      };
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no lag to tell`);
    }
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    try {
      const { visible, hidden } = await this.#count(await this.#deadLettersOf(group));
      return { value: visible + hidden, exact: false };
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no dead letters to count`);
    }
  }

  async openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    try {
      const place = await this.#parts.topology.placeOf(group);
      const deadUrl = await this.#deadLettersOf(group);
      const { visible } = await this.#count(deadUrl);
      return new Scan(this.#parts, group, place, deadUrl, visible);
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no dead letters to read`);
    }
  }

  async #deadLettersOf(group: GroupRef): Promise<string> {
    const { deadUrl, queueUrl } = await this.#parts.topology.placeOf(group);
    return deadUrl ?? queueUrl;
  }

  async #count(QueueUrl: string): Promise<Counts> {
    const { link } = this.#parts;
    const { Attributes = {} } = await link.askSqs((sqs, options) =>
      sqs.getQueueAttributes({ QueueUrl, AttributeNames: [...counted] }, options),
    );
    return {
      visible: Number(Attributes.ApproximateNumberOfMessages ?? 0),
      delayed: Number(Attributes.ApproximateNumberOfMessagesDelayed ?? 0),
      hidden: Number(Attributes.ApproximateNumberOfMessagesNotVisible ?? 0),
    };
  }
}

const none: Counts = { visible: 0, delayed: 0, hidden: 0 };

interface Held extends Handle {
  /** End of the time in which nobody else sees it, in `clock.monotonic()`. */
  until: number;
}

/** Takes dead letters and hides them from others until it is closed, when what is left is shown again. */
class Scan implements DeadLetterScan {
  readonly #parts: AdminParts;
  readonly #group: GroupRef;
  readonly #place: GroupPlace;
  readonly #deadUrl: string;
  readonly #held = new Map<DeadLetterRecord, Held>();
  readonly #redriven = new Set<DeadLetterRecord>();
  #chunk: DeadLetterRecord[] = [];
  /** Those that were there at the beginning and have not been read; SQS only estimates it. */
  #left: number;
  readonly #openedAt: number;
  #ended = false;
  #closed = false;
  #pulse: Timer | undefined;

  constructor(parts: AdminParts, group: GroupRef, place: GroupPlace, deadUrl: string, count: number) {
    this.#parts = parts;
    this.#group = group;
    this.#place = place;
    this.#deadUrl = deadUrl;
    this.#left = count;
    this.#openedAt = parts.clock.now();
    this.#beat();
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    try {
      if (this.#chunk.length === 0 && !this.#ended) await this.#read();
    } catch (error) {
      throw requestFailure(error, `dead letters of ${nameOfGroup(this.#group)} cannot be read`);
    }
    return this.#chunk.splice(0, max);
  }

  async redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const { requests } = this.#parts;
    const { ordered } = this.#group.topic;
    const copies = records.filter((record) => this.#isOurs(record) && !this.#redriven.has(record));
    const sent = await requests.send(
      this.#place.queueUrl,
      copies.map((record) => ({
        wire: redriveCopy(record.native as Message),
        messageGroup: ordered ? messageGroupOf(record.key ?? record.details.entry) : undefined,
      })),
    );
    const results = new Map<DeadLetterRecord, Done>();
    for (let i = 0; i < copies.length; i++) {
      const record = copies[i] as DeadLetterRecord;
      if (sent[i] === 'applied') this.#redriven.add(record);
      else results.set(record, sent[i] as Done);
    }
    const deleted = await this.#delete(records.filter((record) => this.#redriven.has(record)));
    return records.map((record) => {
      const result = deleted.get(record) ?? results.get(record) ?? 'lost';
      return settled(result, `the queue of ${nameOfGroup(this.#group)}`);
    });
  }

  async purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const deleted = await this.#delete(records);
    return records.map((record) =>
      settled(deleted.get(record) ?? 'lost', `the dead letters of ${nameOfGroup(this.#group)}`),
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#pulse?.cancel();
    // After its time somebody else may have hidden it.
    const left = [...this.#held.entries()]
      .filter(([record]) => this.#isOurs(record) && !this.#redriven.has(record))
      .map(([, held]) => held);
    this.#held.clear();
    if (left.length > 0) await this.#parts.requests.hide(left, () => 0);
  }

  #beat(): void {
    const { clock, link } = this.#parts;
    this.#pulse = clock.setTimeout(() => {
      if (this.#closed || link.closed) return;
      void this.#renew().finally(() => {
        if (!this.#closed) this.#beat();
      });
    }, scanPulse);
  }

  async #renew(): Promise<void> {
    const { requests, clock } = this.#parts;
    const now = clock.monotonic();
    const all = [...this.#held.values()].filter(({ until }) => until > now);
    if (all.length === 0) return;
    const until = now + scanVisibility * 1_000;
    const done = await requests.hide(all, () => scanVisibility);
    for (let i = 0; i < all.length; i++) if (done[i] === 'applied') (all[i] as Held).until = until;
  }

  /** SQS hands messages out in no order: a chunk is read as a whole, and sorted. */
  async #read(): Promise<void> {
    let bytes = 0;
    let found = this.#chunk;
    while (found.length < chunk.entries && bytes < chunk.bytes) {
      const many = Math.min(reads, Math.ceil(Math.max(1, Math.min(this.#left, chunk.entries - found.length)) / 10));
      const read = (await Promise.all(Array.from({ length: many }, () => this.#receive()))).flat();
      this.#left -= read.length;
      for (const record of read) {
        // One that died since then, perhaps after this very redrive, is not for this walk.
        if (record.details.at > this.#openedAt) continue;
        bytes += record.body.byteLength;
        found.push(record);
      }
      // The count is an estimate: as long as all come back full there may be more.
      if (read.length === 0 || (this.#left <= 0 && read.length < many * 10)) {
        this.#ended = true;
        break;
      }
    }
    found = found.sort((a, b) => a.details.at - b.details.at);
    this.#chunk = found;
  }

  async #receive(): Promise<readonly DeadLetterRecord[]> {
    const { requests, clock } = this.#parts;
    const until = clock.monotonic() + scanVisibility * 1_000;
    const messages = await requests.receive(this.#deadUrl, { max: 10, waitSeconds: 1, visibility: scanVisibility });
    return messages.map((message) => {
      const record = toDeadLetter(message);
      this.#held.set(record, { queueUrl: this.#deadUrl, receiptHandle: message.ReceiptHandle ?? '', until });
      return record;
    });
  }

  #isOurs(record: DeadLetterRecord): boolean {
    return (this.#held.get(record)?.until ?? 0) > this.#parts.clock.monotonic();
  }

  async #delete(records: readonly DeadLetterRecord[]): Promise<Map<DeadLetterRecord, Done>> {
    const ours = records.filter((record) => this.#isOurs(record));
    const done = await this.#parts.requests.delete(ours.map((record) => this.#held.get(record) as Held));
    const results = new Map<DeadLetterRecord, Done>();
    for (let i = 0; i < ours.length; i++) {
      const record = ours[i] as DeadLetterRecord;
      results.set(record, done[i] as Done);
      if (done[i] === 'applied') this.#held.delete(record);
    }
    return results;
  }
}
