import { backOff, type Clock, type Timer } from '@waybill/core/adapter';
import { isNotFound, status, statusOf, textOf } from './errors.ts';
import type { Link } from './link.ts';
import type { Origin, ReceivedMessage } from './message.ts';
import { cutAnswer, noAnswer, pull } from './pull.ts';

/** Milliseconds of a pull that is made because something was acked: the emulator answers it at once. */
const nudgeWait = 1_000;

/**
 * Milliseconds that the broker may wait with its answer. A pull is never cancelled: what the broker was just handing out
 * would be hidden until its deadline, measured.
 */
const pullWait = 2_000;
/** Milliseconds in which its answer has to get here; where it does not the time grows. */
const patience = { shortest: 5_000, longest: 20_000 };

/** Bytes to ask for in one pull, as far as their size can be told: they have to get here within its time. */
const pullBytes = 8 * 1_024 * 1_024;
/** Messages to ask for before anything is known about their size. */
const firstPull = 10;
/** What a pull asks for beyond what there is room for, when full ones follow each other this quickly (milliseconds). */
const ahead = { first: 8, most: 64, within: 250 };

const restAfterFailure = { initial: 50, max: 5_000 };

export interface ReaderHost {
  /** What a pull that was begun then has brought, perhaps nothing. */
  arrived(reader: PullReader, received: readonly ReceivedMessage[], startedAt: number): void;
  /** Something else has changed that a waiting `receive` may care for. */
  changed(): void;
  /** The subscription is gone. */
  missing(reader: PullReader): void;
  /** Pulls fail, since so many milliseconds. */
  failed(reader: PullReader, error: unknown, since: number): void;
}

/** Pulls from one subscription, when it is told to: one pull at a time, and short ones beside it. */
export class PullReader {
  readonly subscription: string;
  /** Milliseconds for which the broker hides what it hands out. */
  readonly deadline: number;
  readonly #link: Link;
  readonly #clock: Clock;
  readonly #host: ReaderHost;
  readonly #seat: number;
  #origin: Origin;
  #state: 'idle' | 'pulling' | 'resting' = 'idle';
  #failures = 0;
  #failingSince = 0;
  #rest: Timer | undefined;
  #nudge: 'none' | 'under way' | 'again' = 'none';
  /** Messages to ask for beyond the room that there is. */
  #ahead = 0;
  #lastFull = Number.NEGATIVE_INFINITY;
  #patience = patience.shortest;
  /** Most messages to ask for: by their size, and after an answer that did not get here in time. */
  #most = firstPull;

  /** @param seat on the link, for its pulls */
  constructor(subscription: string, deadline: number, link: Link, seat: number, host: ReaderHost) {
    this.subscription = subscription;
    this.deadline = deadline;
    this.#link = link;
    this.#seat = seat;
    this.#clock = link.clock;
    this.#host = host;
    this.#origin = { subscription, life: 0 };
  }

  get pulling(): boolean {
    return this.#state === 'pulling' || this.#nudge !== 'none';
  }

  get origin(): Origin {
    return this.#origin;
  }

  /** The subscription was made again: what it handed out before is nobody's. */
  begin(): void {
    this.#origin = { subscription: this.subscription, life: this.#origin.life + 1 };
  }

  /** Pulls once, unless it is pulling already, or has just failed. */
  pull(max: number): void {
    if (this.#state !== 'idle' || this.#link.problem !== undefined) return;
    this.#state = 'pulling';
    void this.#pullAndWait(max);
  }

  /** A pull beside the one that waits, which does not always notice that an ack has freed the rest of a key. */
  nudge(max: number): void {
    if (this.#state !== 'pulling') this.pull(max);
    else if (this.#nudge === 'none') void this.#pullBeside(max);
    else this.#nudge = 'again';
  }

  /** Some of what was asked for lay about. */
  tooMuch(): void {
    this.#ahead = 0;
  }

  stop(): void {
    this.#rest?.cancel();
  }

  async #pullAndWait(max: number): Promise<void> {
    const startedAt = this.#clock.monotonic();
    const { origin } = this;
    const pulled = await this.#ask(Math.min(max + this.#ahead, this.#most), pullWait);
    if (!(pulled instanceof Error)) {
      this.#state = 'idle';
      this.#failures = 0;
      this.#host.arrived(this, origin === this.#origin ? pulled : [], startedAt);
      return;
    }
    this.#state = 'resting';
    const now = this.#clock.monotonic();
    if (this.#failures++ === 0) this.#failingSince = now;
    this.#rest = this.#clock.setTimeout(
      () => {
        this.#state = 'idle';
        this.#host.changed();
      },
      backOff(this.#failures, restAfterFailure),
    );
    if (isNotFound(pulled)) this.#host.missing(this);
    this.#host.failed(this, pulled, now - this.#failingSince);
    this.#host.changed();
  }

  async #pullBeside(max: number): Promise<void> {
    do {
      this.#nudge = 'under way';
      const startedAt = this.#clock.monotonic();
      const { origin } = this;
      const pulled = await this.#ask(Math.min(max, this.#most), nudgeWait);
      // How it failed is found out by the other one.
      if (!(pulled instanceof Error) && origin === this.#origin) this.#host.arrived(this, pulled, startedAt);
    } while ((this.#nudge as string) === 'again');
    this.#nudge = 'none';
    this.#host.changed();
  }

  /** What came, or why nothing could. */
  async #ask(maxMessages: number, wait: number): Promise<readonly ReceivedMessage[] | Error> {
    try {
      const { subscription } = this;
      const received = await pull(this.#link, { subscription, maxMessages }, wait, this.#patience, this.#seat);
      if (received.length > 0) this.#adapt(received, received.length >= maxMessages);
      return received;
    } catch (error) {
      const text = textOf(error);
      const late = statusOf(error) === status.deadlineExceeded;
      const silent = late && text.includes(noAnswer);
      // Too much to get here in time.
      if (silent || (late && text.includes(cutAnswer))) this.#most = Math.max(1, Math.floor(maxMessages / 4));
      if (silent) this.#patience = Math.min(patience.longest, 2 * this.#patience);
      else if (late) return [];
      this.#link.learn(error);
      return error instanceof Error ? error : new Error(text);
    }
  }

  #adapt(received: readonly ReceivedMessage[], full: boolean): void {
    let bytes = 0;
    for (const { message } of received) bytes += message?.data?.length ?? 0;
    const most = Math.max(1, Math.floor((pullBytes * received.length) / Math.max(1, bytes)));
    // Up again by degrees, where an answer has failed.
    this.#most = this.#most < most ? Math.min(most, 2 * this.#most) : most;
    if (this.#patience > patience.shortest && this.#most === most) this.#patience /= 2;
    if (!full) return;
    const now = this.#clock.monotonic();
    if (now - this.#lastFull < ahead.within) this.#ahead = Math.min(ahead.most, Math.max(ahead.first, 2 * this.#ahead));
    this.#lastFull = now;
  }
}
