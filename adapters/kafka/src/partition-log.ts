import type { FetchedRecord, TopicPartition } from './driver.ts';
import { Tracker } from './tracker.ts';

/** A record in hand or ready to be handed out. */
export interface Item {
  readonly log: PartitionLog;
  readonly record: FetchedRecord;
  /** Set by a release at the same place, which does not change what is stored. */
  attempt: number | undefined;
  /** In monotonic time; 0: at once. */
  notBefore: number;
  /** Its copy (retry, dead letter) is stored: what is left is to commit. */
  copied: boolean;
  /** Done here, whether or not it is committed yet. */
  done: boolean;
}

/** One partition while it is ours: what was read of it, and what of that is done. */
export class PartitionLog implements TopicPartition {
  readonly topic: string;
  readonly partition: number;
  readonly unit: string;
  readonly tracker: Tracker;
  /** False for ever once it was handed over or lost: whatever is in hand of it is somebody else's. */
  alive = true;
  /** Being handed over: nothing new is handed out. */
  leaving = false;
  /** Where to read on. */
  next: number;
  bytes = 0;
  /** Records that were handed out and are neither done nor back. */
  inHand = 0;
  /** Counts what a commit has to tell. */
  changes = 0;
  /** Of these, what a confirmed commit has told. */
  committed = 0;
  /** Of these, what has been deleted from the broker. */
  cleaned = 0;
  /** In monotonic time: not to be fetched before, after so many failures. */
  fetchAt = 0;
  failures = 0;
  /** The position that a confirmed commit has told. */
  committedTo: number;
  #ready: Item[] = [];
  #head = 0;

  constructor({ topic, partition }: TopicPartition, unit: string, offset: number, metadata: string) {
    this.topic = topic;
    this.partition = partition;
    this.unit = unit;
    this.next = offset;
    this.committedTo = offset;
    this.tracker = new Tracker(offset, metadata);
  }

  /** How many are ready. */
  get size(): number {
    return this.#ready.length - this.#head;
  }

  /** Takes what a fetch has brought; `next` is past what does not exist, too. */
  accept(records: readonly FetchedRecord[], next: number): void {
    for (const record of records) {
      if (record.offset < this.next || !this.tracker.add(record.offset)) continue;
      this.#ready.push({ log: this, record, attempt: undefined, notBefore: 0, copied: false, done: false });
      this.bytes += weigh(record);
    }
    this.next = Math.max(this.next, next);
    this.tracker.readTo(this.next);
  }

  /** The first one that is ready; `undefined` also while the window of the bitmap is full. */
  peek(): Item | undefined {
    const first = this.#ready[this.#head];
    return first !== undefined && this.tracker.hasRoom(first.record.offset) ? first : undefined;
  }

  get dirty(): boolean {
    return this.changes !== this.committed;
  }

  /** Hands the first one out. */
  hand(): void {
    const first = this.#ready[this.#head];
    if (first === undefined) return;
    this.bytes -= weigh(first.record);
    this.#head++;
    this.inHand++;
    if (this.#head > 256 && this.#head * 2 > this.#ready.length) {
      this.#ready = this.#ready.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Done for good, as soon as it is committed. */
  finish(item: Item): void {
    item.done = true;
    this.inHand--;
    this.changes++;
    this.tracker.finish(item.record.offset);
  }

  /** Back to its old place. */
  putBack(item: Item): void {
    if (item.done || !this.alive) return;
    this.inHand--;
    let at = this.#head;
    while ((this.#ready[at]?.record.offset ?? Number.POSITIVE_INFINITY) < item.record.offset) at++;
    this.bytes += weigh(item.record);
    if (at === this.#head && this.#head > 0) this.#ready[--this.#head] = item;
    else this.#ready.splice(at, 0, item);
  }

  clear(): void {
    this.#ready = [];
    this.#head = 0;
    this.bytes = 0;
  }

  /** Where the first record stands that has not been handed out. */
  get handedTo(): number {
    return this.#ready[this.#head]?.record.offset ?? this.next;
  }
}

const weigh = ({ key, value }: FetchedRecord): number => 100 + (key?.length ?? 0) + (value?.length ?? 0);

/** A partition and the same one of the retry topic are one lane: they share what is known of its keys. */
export const laneOfPartition = ({ partition }: TopicPartition): string => String(partition);
