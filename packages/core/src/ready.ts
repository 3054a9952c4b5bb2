import { Fifo } from './fifo.ts';
import type { Held } from './held.ts';

/**
 * The deliveries that wait for a handler, and the rule for which may start. Both kinds keep deliveries in the order
 * they came; the ordered one lets a key have one attempt at a time.
 */
export interface Ready {
  /** Deliveries that could start now. */
  readonly startable: number;
  /** All that are buffered here, startable or not. */
  readonly size: number;
  add(held: Held): void;
  next(): Held | undefined;
  /** The attempt of this delivery is over for good: its key is free. */
  release(held: Held): void;
  /** This delivery is to be tried again, before anything else of its key. */
  again(held: Held): void;
  takeWhere(fits: (held: Held) => boolean): Held[];
  /** Deliveries of a lane that cannot start because one of their key is being tried. */
  blocked(lane: string): number;
  /** Deliveries behind one of their key that waits for its retry. */
  heldBack(): number;
}

export class UnorderedReady implements Ready {
  readonly #queue = new Fifo<Held>();

  get startable(): number {
    return this.#queue.size;
  }
  get size(): number {
    return this.#queue.size;
  }
  add(held: Held): void {
    this.#queue.push(held);
  }
  next(): Held | undefined {
    return this.#queue.shift();
  }
  release(): void {}
  again(held: Held): void {
    this.#queue.unshift(held);
  }
  takeWhere(fits: (held: Held) => boolean): Held[] {
    return this.#queue.takeWhere(fits);
  }
  blocked(): number {
    return 0;
  }
  heldBack(): number {
    return 0;
  }
}

/** What one key of one lane has: `current` is being tried, or waits for its retry; `queue` is behind it. */
interface KeyLine {
  readonly id: string;
  readonly lane: string;
  readonly queue: Fifo<Held>;
  current: Held | undefined;
}

export class OrderedReady implements Ready {
  readonly #lines = new Map<string, KeyLine>();
  readonly #startable = new Fifo<KeyLine>();
  readonly #blocked = new Map<string, number>();
  #size = 0;

  get startable(): number {
    return this.#startable.size;
  }
  get size(): number {
    return this.#size;
  }

  add(held: Held): void {
    const line = this.#lineOf(held);
    line.queue.push(held);
    this.#size++;
    if (line.current === undefined && line.queue.size === 1) this.#startable.push(line);
    else this.#count(line.lane, 1);
  }

  next(): Held | undefined {
    const line = this.#startable.shift();
    if (line === undefined) return undefined;
    line.current = line.queue.shift();
    this.#size--;
    return line.current;
  }

  release(held: Held): void {
    const line = this.#lines.get(lineId(held));
    if (line?.current !== held) return;
    line.current = undefined;
    if (line.queue.size === 0) {
      this.#lines.delete(line.id);
    } else {
      this.#count(line.lane, -1);
      this.#startable.push(line);
    }
  }

  again(held: Held): void {
    const line = this.#lineOf(held);
    if (line.current !== held) return;
    line.current = undefined;
    line.queue.unshift(held);
    this.#size++;
    this.#startable.push(line);
  }

  takeWhere(fits: (held: Held) => boolean): Held[] {
    const taken: Held[] = [];
    for (const line of this.#lines.values()) {
      const before = line.queue.size;
      if (before === 0) continue;
      const out = line.queue.takeWhere(fits);
      if (out.length === 0) continue;
      taken.push(...out);
      // One of a line that has no current was startable, and so not counted as blocked.
      const startable = line.current === undefined;
      const emptied = line.queue.size === 0;
      this.#count(line.lane, -(startable && emptied ? out.length - 1 : out.length));
      if (startable && emptied) this.#lines.delete(line.id);
    }
    this.#size -= taken.length;
    this.#startable.takeWhere((line) => line.queue.size === 0);
    return taken;
  }

  blocked(lane: string): number {
    return this.#blocked.get(lane) ?? 0;
  }

  heldBack(): number {
    let count = 0;
    for (const line of this.#lines.values()) {
      if (line.current?.state === 'waiting') count += line.queue.size;
    }
    return count;
  }

  #lineOf(held: Held): KeyLine {
    const id = lineId(held);
    let line = this.#lines.get(id);
    if (line === undefined) {
      line = { id, lane: held.delivery.lane, queue: new Fifo(), current: undefined };
      this.#lines.set(id, line);
    }
    return line;
  }

  #count(lane: string, by: number): void {
    const count = (this.#blocked.get(lane) ?? 0) + by;
    if (count > 0) this.#blocked.set(lane, count);
    else this.#blocked.delete(lane);
  }
}

const ownLines = new WeakMap<Held, string>();
let ownLineCount = 0;

/** A message without a key is a key of its own (ORD-04). */
function lineId(held: Held): string {
  const { key, lane } = held.delivery;
  if (key !== undefined) return `${lane}\0${key}`;
  let own = ownLines.get(held);
  if (own === undefined) {
    own = `\0${++ownLineCount}`;
    ownLines.set(held, own);
  }
  return own;
}
