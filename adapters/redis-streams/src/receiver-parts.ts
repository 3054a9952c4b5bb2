import {
  type AdapterContext,
  type Clock,
  ConnectionError,
  type ReceiverEvents,
  type Source,
  sleep,
} from '@waybill/core/adapter';
import { adapterName } from './errors.ts';
import { isAfter } from './ids.ts';
import type { Link } from './link.ts';
import type { Entry } from './message.ts';
import type { Settings } from './options.ts';
import { type GroupPlace, idBefore } from './topology.ts';

/** What a receiver is told of the connection. */
export interface LinkListener {
  /** It is up or down now; with the reason for which it is down. */
  linkChanged(error?: ConnectionError): void;
}

/** What both kinds of receiver are made of. */
export interface ReceiverParts {
  readonly source: Source;
  readonly events: ReceiverEvents;
  readonly place: GroupPlace;
  /** For all that does not block. */
  readonly link: Link;
  readonly settings: Settings;
  readonly context: AdapterContext;
  /**
   * Makes the group again that was deleted under us, from these ids on by lane (LIFE-07); not in lanes without one.
   *
   * @throws ConfigError where that is not ours to do
   */
  readonly remake: (start: (lane: number) => string | undefined) => Promise<void>;
  /** Called once, at `close`. */
  readonly closed: (receiver: LinkListener) => void;
}

/** The group's streams, by their places in the keys of scripts. */
export const topicStream = 1;
export const retryStream = 2;

/** An entry in hand: of which of the group's streams. */
interface InHand {
  readonly stream: number;
  readonly entry: Entry;
}

/** Names it among all that is in hand. */
export function handName({ stream, entry }: InHand): string {
  return `${stream}:${entry.id}`;
}

/** An entry that the group was given and has not settled. */
export interface Unsettled {
  readonly stream: number;
  readonly id: string;
}

/** After what a group that is made again begins: so that nothing unsettled is left out, and little comes twice. */
export function firstUnsettled(lastId: string, unsettled: Iterable<Unsettled>): string {
  let from = lastId;
  for (const { stream, id } of unsettled) {
    if (stream === topicStream && !isAfter(id, from)) from = idBefore(id);
  }
  return from;
}

/** Topic and group, for texts. */
export function whatOf({ group }: Source): string {
  return `topic "${group.topic.name}", group "${group.name}"`;
}

export function awayError({ target }: Settings): ConnectionError {
  return new ConnectionError(`${target} cannot be reached`, { adapter: adapterName, retryable: true });
}

/** Messages that were trimmed before the group had read them (RET-02), for whoever did not hear of it yet. */
export class Losses {
  readonly #clock: Clock;
  #place = '';
  #nextAt = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * What a script says of them, in a sentence, unless that has been said.
   *
   * @param first the oldest id that is left
   */
  sentence(lost: number, first: string, from: string): string | undefined {
    const now = this.#clock.monotonic();
    if (lost === 0 || first === this.#place || now < this.#nextAt) return undefined;
    this.#place = first;
    this.#nextAt = now + rarely;
    return `lost ${lost} messages that were trimmed from ${from} before they were read; it goes on at ${first}`;
  }
}

/** Lets those who wait look again. */
export class Wake {
  #next = Promise.withResolvers<void>();

  get promise(): Promise<void> {
    return this.#next.promise;
  }

  up(): void {
    const { resolve } = this.#next;
    this.#next = Promise.withResolvers<void>();
    resolve();
  }
}

/** Milliseconds between two signs of life of a member; four in a lease. */
export function pulseOf(lease: number): number {
  return Math.min(300, lease / 4);
}
/** Milliseconds that a read blocks; a seek is noticed after it. */
export const block = 1_000;
/** In a cluster nobody ends it early. */
export const clusterBlock = 400;
/** Milliseconds between two looks at what is seldom. */
export const rarely = 5_000;

/** Waits for one of these, or until the time is up; leaves no timer behind. */
export async function waitFor(clock: Clock, ms: number, ...first: readonly Promise<unknown>[]): Promise<void> {
  const over = new AbortController();
  await Promise.race([...first, sleep(clock, ms, over.signal)]);
  over.abort();
}

/** Milliseconds that each step of leaving may take: what the server is not told then, the lease tells it. */
const leavePatience = 1_000;

/** Waits for a step of leaving, which may never end on a connection that swallows everything. Never rejects. */
export async function leaving(clock: Clock, step: Promise<unknown> | undefined): Promise<void> {
  await waitFor(
    clock,
    leavePatience,
    Promise.resolve(step).catch(() => {}),
  );
}

/** How many messages to ask for: a server counts messages, and memory bytes. */
export class Portion {
  readonly #bytes: number;
  #average: number;

  constructor(bytes: number) {
    this.#bytes = bytes;
    // Until some have been seen they are taken for large.
    this.#average = bytes / 8;
  }

  of(max: number): number {
    return Math.max(1, Math.min(max, Math.floor(this.#bytes / Math.max(1, this.#average))));
  }

  /** Large ones are heeded at once, small ones believed slowly. */
  saw(bytes: number): void {
    this.#average = bytes > this.#average ? bytes : (3 * this.#average + bytes) / 4;
  }
}
