import type {
  Connection,
  Delivery,
  GroupRef,
  OutgoingMessage,
  Position,
  Receiver,
  ReceiverEvents,
  Settlement,
} from '../src/adapter.ts';
import type { Clock } from '../src/clock.ts';
import { Heap } from '../src/heap.ts';
import { silent } from '../src/logger.ts';
import { type MemoryOptions, memory } from '../src/memory/index.ts';
import type { DeadLetterDetails } from '../src/wire.ts';

/** A clock that stands still until a test moves it. */
export class ManualClock implements Clock {
  readonly #timers = new Heap<{ at: number; run: (() => void) | undefined }>((a, b) => a.at < b.at);
  #time = 1_000;
  /** Timers that were set and neither ran nor were cancelled. */
  open = 0;

  now(): number {
    return 1_700_000_000_000 + this.#time;
  }

  monotonic(): number {
    return this.#time;
  }

  setTimeout(run: () => void, ms: number): { cancel(): void } {
    const timer: { at: number; run: (() => void) | undefined } = { at: this.#time + ms, run };
    const end = (): void => {
      if (timer.run !== undefined) this.open--;
      timer.run = undefined;
    };
    this.open++;
    this.#timers.push(timer);
    return { cancel: end };
  }

  /** Goes on by `ms`, and runs what comes due on the way, each at its time. */
  advance(ms: number): void {
    const until = this.#time + ms;
    for (let first = this.#timers.peek(); first !== undefined && first.at <= until; first = this.#timers.peek()) {
      this.#timers.pop();
      this.#time = Math.max(this.#time, first.at);
      const { run } = first;
      if (run === undefined) continue;
      this.open--;
      first.run = undefined;
      run();
    }
    this.#time = until;
  }
}

export type Told = readonly [string, ...unknown[]];

/** One member with everything that it was told. */
export interface RigMember {
  readonly receiver: Receiver;
  readonly told: Told[];
  /** What can be had at once: bodies as text. */
  take(max?: number): Promise<readonly Delivery[]>;
}

/** A connection with short ways to what the tests do all the time; the group is `g` of topic `t`. */
export interface Rig {
  readonly clock: ManualClock;
  readonly connection: Connection;
  readonly told: Told[];
  readonly group: GroupRef;
  publish(...messages: readonly (string | Partial<OutgoingMessage>)[]): ReturnType<Connection['publish']>;
  member(lease?: number, group?: GroupRef): Promise<RigMember>;
  provision(startAt?: Position, group?: GroupRef): Promise<readonly string[]>;
}

export interface RigOptions extends MemoryOptions {
  readonly clock?: ManualClock;
  readonly client?: string;
  readonly ordered?: boolean;
  readonly lanes?: number;
  readonly topology?: 'create' | 'verify' | 'none';
  readonly adapter?: ReturnType<typeof memory>;
}

export const lease = 10_000;

export async function openRig(options: RigOptions = {}): Promise<Rig> {
  const { clock = new ManualClock(), client = 'rig', ordered = false, lanes, topology = 'create', adapter } = options;
  const { name, maxMessageBytes, retainMessages, retainBytes } = options;
  const given = Object.entries({ name, maxMessageBytes, retainMessages, retainBytes });
  const told: Told[] = [];
  const connection = await (
    adapter ?? memory(Object.fromEntries(given.filter(([, value]) => value !== undefined)))
  ).connect({
    clientName: client,
    names: {},
    namePrefix: '',
    topology,
    connectTimeout: 1_000,
    clock,
    logger: silent,
    signal: new AbortController().signal,
    events: {
      interrupted: (error) => void told.push(['interrupted', error]),
      restored: () => void told.push(['restored']),
    },
  });
  const topic = { name: 't', ordered, lanes, options: undefined };
  const group: GroupRef = { topic, name: 'g', temporary: false };
  const rig: Rig = {
    clock,
    connection,
    told,
    group,
    publish: (...messages) =>
      connection.publish(
        messages.map((message) => ({
          topic,
          id: 'id',
          key: undefined,
          type: undefined,
          contentType: 'text/plain',
          body: new TextEncoder().encode(typeof message === 'string' ? message : ''),
          headers: {},
          publishedAt: clock.now(),
          deliverAt: undefined,
          expiresAt: undefined,
          options: undefined,
          ...(typeof message === 'string' ? {} : message),
        })),
      ),
    provision: (startAt = 'latest', to = group) =>
      connection.provision(
        [{ topic: to.topic, groups: [{ name: to.name, temporary: to.temporary, startAt, options: undefined }] }],
        'create',
      ),
    async member(ms = lease, of = group) {
      const heard: Told[] = [];
      const receiver = await connection.openReceiver(
        { group: of, lease: ms, prefetch: 100, prefetchBytes: 1e9, options: undefined },
        listener(heard),
      );
      return { receiver, told: heard, take: (max = 100) => takeNow(receiver, max) };
    },
  };
  if (topology === 'create') await rig.provision();
  return rig;
}

function listener(told: Told[]): ReceiverEvents {
  return {
    assigned: (lanes) => void told.push(['assigned', lanes]),
    revoking: async () => {},
    lost: (lanes, error) => void told.push(['lost', lanes, error]),
    interrupted: (error) => void told.push(['interrupted', error]),
    restored: () => void told.push(['restored']),
    positionLost: (lane, what) => void told.push(['positionLost', lane, what]),
    failed: (error) => void told.push(['failed', error]),
  };
}

async function takeNow(receiver: Receiver, max: number): Promise<readonly Delivery[]> {
  const finish = new AbortController();
  const deliveries = receiver.receive(max, finish.signal);
  finish.abort();
  return deliveries;
}

export const text = (delivery: { readonly body: Uint8Array }): string => new TextDecoder().decode(delivery.body);
export const texts = (deliveries: readonly { readonly body: Uint8Array }[]): string[] => deliveries.map(text);
export const keyed = (key: string, body: string): Partial<OutgoingMessage> => ({
  key,
  body: new TextEncoder().encode(body),
});

export const ack = (delivery: Delivery): Settlement => ({ verb: 'ack', delivery });
export const abandon = (delivery: Delivery): Settlement => ({ verb: 'abandon', delivery });
export const giveBack = (
  delivery: Delivery,
  options: { after?: number; attempt?: number; alone?: boolean } = {},
): Settlement => ({ verb: 'giveBack', delivery, after: 0, attempt: delivery.attempt, ...options });
export const deadLetter = (delivery: Delivery, details: Partial<DeadLetterDetails> = {}): Settlement => ({
  verb: 'deadLetter',
  delivery,
  details: {
    entry: 'e1',
    reason: 'exhausted',
    errorName: 'Error',
    errorMessage: 'no',
    attempts: 3,
    at: 1,
    topic: 't',
    group: 'g',
    ...details,
  },
});
