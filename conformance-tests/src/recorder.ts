import { setTimeout as wait } from 'node:timers/promises';
import type { Message } from '@waybill/core';
import { eventually, PATIENCE, show } from './eventually.ts';

/** What a handler was given, at the moment of its call. */
export interface Seen<T = unknown> {
  readonly id: string;
  readonly data: T;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly attempt: number;
  readonly topic: string;
  readonly group: string;
  /** Start of the call, in `performance.now()`. */
  readonly at: number;
  readonly message: Message<T>;
}

/** What the handler does with the nth call of a recorder (from 1), after it was noted. Default: nothing, an ack. */
export type Work<T> = (message: Message<T>, call: number) => unknown;

/** How long `nothingMore` watches: longer than the "at once" of any broker on an idle machine takes in practice. */
const WATCH = 500;

/** A handler that notes every call. Handlers of several subscriptions may share one. */
export class Recorder<T = unknown> {
  readonly seen: Seen<T>[] = [];
  /** Handlers that run now, and the most that ever did at once. */
  running = 0;
  mostRunning = 0;
  readonly #work: Work<T>;

  constructor(work: Work<T> = () => {}) {
    this.#work = work;
  }

  /** Bound, to be handed to `subscribe` as it is. Topics without a type are taken to hold what the test says. */
  readonly handler = async (given: Message): Promise<void> => {
    const message = given as Message<T>;
    const { id, data, key, type, attempt, topic, group } = message;
    this.seen.push({ id, data, key, type, attempt, topic, group, at: performance.now(), message });
    this.running++;
    this.mostRunning = Math.max(this.mostRunning, this.running);
    try {
      await this.#work(message, this.seen.length);
    } finally {
      this.running--;
    }
  };

  get count(): number {
    return this.seen.length;
  }

  /** The data of all calls, in their order. */
  get data(): T[] {
    return this.seen.map(({ data }) => data);
  }

  get ids(): string[] {
    return this.seen.map(({ id }) => id);
  }

  /** The calls with this data. */
  of(data: T): Seen<T>[] {
    return this.seen.filter((one) => one.data === data);
  }

  /** Waits for that many calls, or for what `until` asks, and returns all of them. */
  async waitFor(
    until: number | ((seen: readonly Seen<T>[]) => boolean),
    within: number = PATIENCE,
  ): Promise<readonly Seen<T>[]> {
    const enough = typeof until === 'number' ? (): boolean => this.seen.length >= until : until;
    const what = typeof until === 'number' ? `${until} handler calls` : 'the handler calls that were waited for';
    return await eventually(what, () => ({ calls: this.seen.length, data: this.data, enough: enough(this.seen) }), {
      within,
      until: (state) => state.enough,
    }).then(() => this.seen);
  }

  /**
   * Fails when another call comes within `watch` milliseconds (500). Absence cannot be proven by waiting: show it by a
   * later message of the same lane where that is possible.
   */
  async nothingMore(watch: number = WATCH): Promise<void> {
    const before = this.seen.length;
    await wait(watch);
    if (this.seen.length > before) {
      throw new Error(`${before} handler calls were all that should come; then came ${show(this.data.slice(before))}`);
    }
  }
}
