import { randomUUID } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { type Connection, type Delivery, type GroupRef, type Receiver, systemClock } from '@waybill/core/adapter';
import { Redis } from 'ioredis';
import { onTestFinished } from 'vitest';
import { eventually } from '../../../conformance-tests/src/eventually.ts';
import { redisStreams } from '../src/index.ts';
import { type GroupKeys, KeyNames } from '../src/names.ts';
import type { Script } from '../src/scripts.ts';

export type Told = readonly [event: string, lanes?: readonly string[]];

/** One member, and what it was told. */
export interface Member {
  readonly receiver: Receiver;
  readonly connection: Connection;
  readonly native: Redis;
  readonly told: Told[];
}

/** A topic with one group, on a server, with short ways to what the tests do all the time. */
export class Rig {
  readonly group: GroupRef;
  /** By lane. */
  readonly keys: readonly GroupKeys[];
  /** What other programs would ask. */
  readonly asking: Redis;
  readonly #url: string;

  /** @param lanes 0 for a topic without order */
  constructor(url: string, lanes: number) {
    this.#url = url;
    const topic = { name: `t-${randomUUID()}`, ordered: lanes > 0, lanes: lanes || undefined, options: undefined };
    this.group = { topic, name: 'g', temporary: false };
    this.keys = new KeyNames('', {}).group(this.group, lanes);
    this.asking = new Redis(url);
    onTestFinished(() => this.asking.disconnect());
  }

  async member(lease = 30_000): Promise<Member> {
    const quiet = (): void => {};
    const connection = await redisStreams.fromUrl(this.#url).connect({
      clientName: 'test',
      names: {},
      namePrefix: '',
      topology: 'create',
      connectTimeout: 5_000,
      clock: systemClock,
      logger: { debug: quiet, info: quiet, warn: quiet, error: quiet },
      signal: new AbortController().signal,
      events: { interrupted: quiet, restored: quiet },
    });
    onTestFinished(() => connection.close());
    const { topic, name, temporary } = this.group;
    await connection.provision(
      [{ topic, groups: [{ name, temporary, startAt: 'earliest', options: undefined }] }],
      'create',
    );
    const told: Told[] = [];
    const receiver = await connection.openReceiver(
      { group: this.group, lease, prefetch: 100, prefetchBytes: 1e6, options: undefined },
      {
        assigned: (lanes) => void told.push(['assigned', lanes]),
        revoking: async (lanes) => void told.push(['revoking', lanes]),
        lost: (lanes) => void told.push(['lost', lanes]),
        interrupted: () => void told.push(['interrupted']),
        restored: () => void told.push(['restored']),
        positionLost: (lane) => void told.push(['positionLost', [lane]]),
        failed: () => void told.push(['failed']),
      },
    );
    onTestFinished(() => receiver.close());
    return { receiver, connection, native: connection.native as Redis, told };
  }

  /** Stores bodies in a lane, as messages of one key. */
  async add(lane: number, ...bodies: readonly string[]): Promise<void> {
    for (const body of bodies) await this.asking.xadd(this.keys[lane]?.stream ?? '', '*', 'body', body);
  }

  /** How many entries of a lane the group was given and has not settled. */
  async pending(lane: number): Promise<number> {
    const { stream = '', group = '' } = this.keys[lane] ?? {};
    const [count] = (await this.asking.xpending(stream, group)) as [number];
    return count;
  }

  async deleteGroup(): Promise<void> {
    for (const { stream, group } of this.keys) await this.asking.xgroup('DESTROY', stream, group);
  }
}

/** The next `count` deliveries. */
export async function take({ receiver }: Member, count: number): Promise<Delivery[]> {
  const got: Delivery[] = [];
  while (got.length < count) {
    const more = await receiver.receive(count - got.length, new AbortController().signal);
    // Only one that is closed comes back with nothing.
    if (more.length === 0) throw new Error(`the receiver has ended after ${texts(got)}`);
    got.push(...more);
  }
  return got;
}

export const texts = (deliveries: readonly Delivery[]): string[] =>
  deliveries.map(({ body }) => Buffer.from(body).toString());

export async function abandon({ receiver }: Member, ...deliveries: readonly Delivery[]): Promise<void> {
  await receiver.settle(deliveries.map((delivery) => ({ verb: 'abandon', delivery })));
}

export function untilTold(member: Member, event: string): Promise<unknown> {
  return eventually(`the member hears "${event}"`, () => member.told.some(([one]) => one === event));
}

export interface Held {
  /** That there is a reply, which is kept back. */
  readonly reached: () => Promise<unknown>;
  release(): void;
}

/** Keeps back the next reply of a script on a lane that brings something. */
export function holdReply(native: Redis, script: Script, { owner }: GroupKeys): Held {
  const { promise, resolve } = Promise.withResolvers<void>();
  let holds = false;
  const call = native.callBuffer.bind(native) as (name: string, args: unknown[]) => Promise<unknown>;
  const held = async (name: string, args: unknown[]): Promise<unknown> => {
    const reply = await call(name, args);
    const wanted = name === 'EVALSHA' && args[0] === script.sha && args[2] === owner;
    if (wanted && !holds && Array.isArray(reply) && reply.length > 0) {
      holds = true;
      await promise;
    }
    return reply;
  };
  Object.assign(native, { callBuffer: held });
  return { reached: () => eventually('the reply is there', () => holds), release: resolve };
}

/** Lets all that needs no answer of the server happen. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 5; i++) await setImmediate();
}
