import {
  type AdapterContext,
  type Clock,
  type ConnectionError,
  type ReceiverEvents,
  type Source,
  sleep,
} from '@waybill/core/adapter';
import type { Link } from './link.ts';
import type { Settings } from './options.ts';
import type { GroupPlace } from './topology.ts';

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
   * Makes the group again that was deleted under us, from these ids on by lane (LIFE-07).
   *
   * @throws ConfigError where that is not ours to do
   */
  readonly remake: (start: (lane: number) => string) => Promise<void>;
  /** Called once, at `close`. */
  readonly closed: (receiver: LinkListener) => void;
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

/** Milliseconds that each step of leaving may take: what the server is not told then, the lease tells it. */
const leavePatience = 1_000;

/** Waits for a step of leaving, which may never end on a connection that swallows everything. Never rejects. */
export async function leaving(clock: Clock, step: Promise<unknown> | undefined): Promise<void> {
  const over = new AbortController();
  const done = Promise.resolve(step).catch(() => {});
  await Promise.race([done, sleep(clock, leavePatience, over.signal)]);
  over.abort();
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
