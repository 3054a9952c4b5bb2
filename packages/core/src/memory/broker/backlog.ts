import { Heap } from '../../heap.ts';
import type { Log } from './log.ts';
import { type Copy, copyOf } from './message.ts';

/**
 * What a group has still to hand out: what it has not read from its topic's log, and what came back. A copy that was
 * taken is out until it is restored or released.
 */
export interface Backlog {
  /** Copies that are not out. */
  readonly size: number;
  /** The next position to read; the log is kept from there on. */
  readonly next: number;
  /** The oldest copy that may be handed out and whose lane is not paused. */
  take(paused: ReadonlySet<number>): Copy | undefined;
  /** The copy comes again, at its old place. */
  restore(copy: Copy): void;
  /** The copy does not come again. */
  release(copy: Copy): void;
  /** Adds a copy that was not out, behind what its key has waiting. */
  append(copy: Copy): void;
  /**
   * Reads from `position` on. Of the copies that are not out, those that will be read again are dropped, and with
   * `skip` those before it too.
   */
  moveTo(position: number, skip: boolean): void;
}

export const older = (a: Copy, b: Copy): boolean => a.message.position < b.message.position;

/** The backlog of a group on a topic without order, which is a single lane. */
export class PlainBacklog implements Backlog {
  readonly #log: Log;
  readonly #restored = new Heap<Copy>(older);
  #next: number;

  constructor(log: Log, start: number) {
    this.#log = log;
    this.#next = start;
  }

  get size(): number {
    return this.#log.end - this.#next + this.#restored.size;
  }

  get next(): number {
    return this.#next;
  }

  take(paused: ReadonlySet<number>): Copy | undefined {
    if (paused.size > 0) return undefined;
    if (this.#restored.size > 0) return this.#restored.pop();
    return this.#next < this.#log.end ? copyOf(this.#log.at(this.#next++)) : undefined;
  }

  restore(copy: Copy): void {
    this.#restored.push(copy);
  }

  release(): void {}

  append(copy: Copy): void {
    this.#restored.push(copy);
  }

  moveTo(position: number, skip: boolean): void {
    this.#restored.takeWhere((copy) => skip || copy.message.position >= position);
    this.#next = position;
  }
}
