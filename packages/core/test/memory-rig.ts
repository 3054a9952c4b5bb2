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
import { silent } from '../src/logger.ts';
import { type MemoryOptions, memory } from '../src/memory/index.ts';
import type { DeadLetterDetails } from '../src/wire.ts';
import { FakeClock } from './fake-clock.ts';

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
  readonly clock: FakeClock;
  readonly connection: Connection;
  readonly told: Told[];
  readonly group: GroupRef;
  publish(...messages: readonly (string | Partial<OutgoingMessage>)[]): ReturnType<Connection['publish']>;
  member(lease?: number, group?: GroupRef): Promise<RigMember>;
  provision(startAt?: Position, group?: GroupRef): Promise<readonly string[]>;
}

export interface RigOptions extends MemoryOptions {
  readonly clock?: FakeClock;
  readonly client?: string;
  readonly ordered?: boolean;
  readonly lanes?: number;
  readonly topology?: 'create' | 'verify' | 'none';
  readonly adapter?: ReturnType<typeof memory>;
}

export const lease = 10_000;

export async function openRig(options: RigOptions = {}): Promise<Rig> {
  const { clock = new FakeClock(), client = 'rig', ordered = false, lanes, topology = 'create', adapter } = options;
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
