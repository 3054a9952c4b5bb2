import type { EncodedMessage } from '@waybill/core/outbox';
import { laneCount } from '../lanes.ts';

/** A row in a relay's hands: waiting behind its key, on its way, or with the broker and not yet marked. */
export interface Item {
  readonly id: number;
  readonly lane: number;
  /** Let go once the broker has it. */
  message: EncodedMessage;
  /** Why it cannot be sent at all. */
  readonly fault: Error | undefined;
  readonly bytes: number;
  readonly attempts: number;
  /** It has failed before: the table itself holds back the later ones of its key until it is marked. */
  readonly failed: boolean;
  readonly queue: KeyQueue | undefined;
}

const gone: EncodedMessage = {
  topic: { name: '', ordered: undefined, lanes: undefined, broker: undefined },
  id: '',
  key: undefined,
  type: undefined,
  contentType: '',
  body: new Uint8Array(0),
  headers: {},
  publishedAt: 0,
  deliverAt: undefined,
  expiresAt: undefined,
  broker: undefined,
};

/** Never to be read from, until somebody says when. */
export const shut = Number.POSITIVE_INFINITY;

/** What is in hand of one key: one on its way, the others behind it in their order. */
export interface KeyQueue {
  readonly name: string;
  readonly topic: string;
  readonly key: string;
  busy: boolean;
  waiting: Item[];
  /**
   * Only rows that a pass of this number or a later one has read are taken. Whenever rows of a key are let go that are
   * still to be sent, or the table holds some back, a row that comes later in the same pass would overtake them.
   */
  opensAt: number;
}

/** All that is in hand. */
export class Hand {
  readonly #items = new Map<number, Item>();
  readonly #queues = new Map<string, KeyQueue>();
  /** Queues that are not open, or were not when they were looked at last. */
  readonly #gated = new Set<KeyQueue>();
  readonly #ofLane = new Uint32Array(laneCount);
  /** Rows that left our hands while a page was being read: the page may show them as they were before. */
  readonly #left = new Set<number>();

  /** Of these, how many are yet to be sent, and the bytes of their bodies. */
  unsent = 0;
  bytes = 0;

  get size(): number {
    return this.#items.size;
  }

  has(id: number): boolean {
    return this.#items.has(id) || this.#left.has(id);
  }

  /** What a page after this one would show us once more. */
  idsAfter(after: number): number[] {
    const ids: number[] = [];
    for (const id of this.#items.keys()) if (id > after) ids.push(id);
    return ids;
  }

  countOf(lane: number): number {
    return this.#ofLane[lane] ?? 0;
  }

  /** From now on what leaves is remembered, because a page is being read. */
  forgetLeft(): void {
    this.#left.clear();
  }

  queueOf(topic: string, key: string): KeyQueue {
    const name = `${topic}\0${key}`;
    let queue = this.#queues.get(name);
    if (queue === undefined) {
      queue = { name, topic, key, busy: false, waiting: [], opensAt: 0 };
      this.#queues.set(name, queue);
    }
    return queue;
  }

  add(item: Item): void {
    this.#items.set(item.id, item);
    this.unsent++;
    this.bytes += item.bytes;
    this.#ofLane[item.lane] = this.countOf(item.lane) + 1;
  }

  /** The broker has it; it stays known until that is written down. */
  arrived(item: Item): void {
    this.#noLongerUnsent(item);
    item.message = gone;
  }

  remove(item: Item): void {
    if (!this.#items.delete(item.id)) return;
    if (item.message !== gone) this.#noLongerUnsent(item);
    this.#left.add(item.id);
    this.#ofLane[item.lane] = this.countOf(item.lane) - 1;
    if (item.queue !== undefined) this.tidy(item.queue);
  }

  gate(queue: KeyQueue, opensAt: number): void {
    queue.opensAt = opensAt;
    this.#gated.add(queue);
  }

  /** A pass begins: gates that open with it are forgotten. */
  open(pass: number): void {
    for (const queue of this.#gated) {
      if (queue.opensAt > pass) continue;
      queue.opensAt = 0;
      this.#gated.delete(queue);
      this.tidy(queue);
    }
  }

  tidy(queue: KeyQueue): void {
    if (queue.busy || queue.waiting.length > 0 || queue.opensAt !== 0) return;
    // A message may outlive its queue: by the time it is marked, its key may have another.
    if (this.#queues.get(queue.name) === queue) this.#queues.delete(queue.name);
  }

  /** Lets go of what waits in a queue; its rows are read again by a later pass. */
  drop(queue: KeyQueue, opensAt: number): void {
    const { waiting } = queue;
    queue.waiting = [];
    this.gate(queue, opensAt);
    for (const item of waiting) this.remove(item);
  }

  /** Lets go of what waits in all queues that fit. */
  dropWhere(fits: (queue: KeyQueue, first: Item) => boolean, opensAt: number): void {
    for (const queue of [...this.#queues.values()]) {
      const first = queue.waiting[0];
      if (first !== undefined && fits(queue, first)) this.drop(queue, Math.max(queue.opensAt, opensAt));
    }
  }

  #noLongerUnsent(item: Item): void {
    this.unsent--;
    this.bytes -= item.bytes;
  }
}
