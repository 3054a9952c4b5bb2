import { Heap } from '../../heap.ts';
import { type Backlog, older } from './backlog.ts';
import type { Log } from './log.ts';
import { type Copy, copyOf } from './message.ts';

/** The copies of one key, first to last, linked by `next`. */
interface Line {
  readonly lane: number;
  first: Copy;
  last: Copy;
  /** Whether the first is out: then the others wait for it. */
  out: boolean;
}

/**
 * The backlog of a group on an ordered topic: a line per key, of which one copy at a time is out (ORD-01). A copy that
 * comes back is still the first of its line, and so comes before the later ones (ORD-03).
 */
export class KeyedBacklog implements Backlog {
  readonly #log: Log;
  readonly #lines = new Map<string | Copy, Line>();
  /** Per lane the lines whose first may go, the oldest on top. */
  readonly #ready: readonly Heap<Line>[];
  #next: number;
  /** Copies in lines that are not out. */
  #queued = 0;

  constructor(log: Log, start: number, lanes: number) {
    this.#log = log;
    this.#next = start;
    this.#ready = Array.from({ length: lanes }, () => new Heap<Line>((a, b) => older(a.first, b.first)));
  }

  get size(): number {
    return this.#log.end - this.#next + this.#queued;
  }

  get next(): number {
    return this.#next;
  }

  take(paused: ReadonlySet<number>): Copy | undefined {
    for (;;) {
      const line = this.#takeReady(paused);
      if (line !== undefined) {
        line.out = true;
        this.#queued--;
        return line.first;
      }
      // What is read is younger than all that is ready, so it is read only when nothing is.
      if (this.#next === this.#log.end) return undefined;
      this.#readOne();
    }
  }

  restore(copy: Copy): void {
    const line = this.#lines.get(keyOf(copy));
    if (line === undefined) return;
    line.out = false;
    this.#queued++;
    this.#ready[line.lane]?.push(line);
  }

  release(copy: Copy): void {
    const key = keyOf(copy);
    const line = this.#lines.get(key);
    if (line === undefined) return;
    if (copy.next === undefined) {
      this.#lines.delete(key);
      return;
    }
    line.first = copy.next;
    line.out = false;
    copy.next = undefined; // a dead letter must not keep its followers in memory
    this.#ready[line.lane]?.push(line);
  }

  append(copy: Copy): void {
    while (this.#next < this.#log.end) this.#readOne();
    this.#queue(copy);
  }

  moveTo(position: number, skip: boolean): void {
    const stays = (copy: Copy): boolean => !skip && copy.message.position < position;
    const outs: Copy[] = [];
    const kept: Copy[] = [];
    for (const line of this.#lines.values()) {
      let copy: Copy | undefined = line.first;
      if (line.out) {
        outs.push(copy);
        copy = copy.next;
      }
      for (; copy !== undefined; copy = copy.next) if (stays(copy)) kept.push(copy);
    }
    this.#lines.clear();
    for (const ready of this.#ready) ready.takeWhere(() => true);
    this.#queued = 0;
    this.#next = position;
    for (const copy of outs) this.#startLine(copy, true);
    for (const copy of kept) this.#queue(copy);
  }

  #takeReady(paused: ReadonlySet<number>): Line | undefined {
    let oldest: Heap<Line> | undefined;
    let first: Copy | undefined;
    for (let lane = 0; lane < this.#ready.length; lane++) {
      const ready = this.#ready[lane];
      const candidate = ready?.peek()?.first;
      if (candidate === undefined || paused.has(lane)) continue;
      if (first === undefined || older(candidate, first)) {
        oldest = ready;
        first = candidate;
      }
    }
    return oldest?.pop();
  }

  #readOne(): void {
    this.#queue(copyOf(this.#log.at(this.#next++)));
  }

  #queue(copy: Copy): void {
    this.#queued++;
    const line = this.#lines.get(keyOf(copy));
    if (line === undefined) {
      this.#ready[copy.message.lane]?.push(this.#startLine(copy, false));
    } else {
      copy.next = undefined;
      line.last.next = copy;
      line.last = copy;
    }
  }

  #startLine(copy: Copy, out: boolean): Line {
    copy.next = undefined;
    const line = { lane: copy.message.lane, first: copy, last: copy, out };
    this.#lines.set(keyOf(copy), line);
    return line;
  }
}

/** A message without a key is a key of its own (ORD-04). */
function keyOf(copy: Copy): string | Copy {
  return copy.message.content.key ?? copy;
}
