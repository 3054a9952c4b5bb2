import { afterEach, describe, expect, test } from 'vitest';
import type { Delivery } from '../src/adapter.ts';
import { ConfigError, ConnectionError, LeaseLostError, MessageTooLargeError } from '../src/errors.ts';
import { memory, memoryBroker } from '../src/memory/index.ts';
import { FakeClock } from './fake-clock.ts';
import {
  abandon,
  ack,
  deadLetter,
  giveBack,
  keyed,
  lease,
  openRig,
  type Rig,
  type RigMember,
  type RigOptions,
  text,
  texts,
} from './memory-rig.ts';

const rigs: Rig[] = [];
const rigOf = async (options: RigOptions = {}): Promise<Rig> => {
  const rig = await openRig(options);
  rigs.push(rig);
  return rig;
};
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.connection.close();
});

let names = 0;
const newName = (): string => `test-${++names}`;
const never = new AbortController().signal;
const one = (deliveries: readonly Delivery[]): Delivery => {
  expect(deliveries).toHaveLength(1);
  return deliveries[0] as Delivery;
};
/** What a member was told of, by name. */
const heard = (member: RigMember): string[] => member.told.map(([name]) => name);

describe('factory', () => {
  test('is named as its scheme, and opens from a URL alone', () => {
    expect(memory.name).toBe('memory');
    expect(memory.schemes).toEqual(['memory']);
    expect(memory.fromUrl('memory:').target).toBe('memory:');
    expect(memory.fromUrl('memory:orders?maxMessageBytes=10').target).toBe('memory:orders');
  });

  test.each([
    ['memory:?retain=1', 'url.retain'],
    ['memory:?maxMessageBytes=-1', 'url.maxMessageBytes'],
    ['memory://orders', 'url'],
    ['memory:a b', 'name'],
  ])('CFG-01 refuses %s and names %s', (url, field) => {
    expect(() => memory.fromUrl(url)).toThrow(expect.objectContaining({ code: 'CONFIG', field }));
  });

  test('refuses options that are unknown or out of range', () => {
    expect(() => memory({ retainMessages: 1.5 })).toThrow('retainMessages');
    expect(() => memory({ retention: 1 } as object)).toThrow('retention: unknown option');
  });

  test('CFG-01 refuses options of topics, groups and publishes, which it has none of', async () => {
    const rig = await rigOf();
    const options = { nonsense: 1 };
    const topic = { ...rig.group.topic, options };
    const refusal = expect.objectContaining({ code: 'CONFIG', field: 'broker.memory.nonsense' });
    await expect(rig.connection.provision([{ topic, groups: [] }], 'create')).rejects.toEqual(refusal);
    const group = { name: 'g', temporary: false, startAt: 'latest', options } as const;
    const item = { topic: rig.group.topic, groups: [group] };
    await expect(rig.connection.provision([item], 'create')).rejects.toEqual(refusal);
    expect(await rig.publish({ options })).toMatchObject([{ outcome: 'not-sent', retryable: false, error: refusal }]);
  });

  test('a name is one broker in the process, and keeps its data while nobody is connected', async () => {
    const name = newName();
    const clock = new FakeClock();
    const first = await rigOf({ name, clock });
    await first.publish('a');
    await first.connection.close();
    const second = await rigOf({ name, clock });
    expect(texts(await (await second.member()).take())).toEqual(['a']);
  });

  test('brokers without a name are apart, unless their buses share the adapter', async () => {
    const clock = new FakeClock();
    const adapter = memory();
    const [a, b, c] = [await rigOf({ adapter, clock }), await rigOf({ adapter, clock }), await rigOf({ clock })];
    await a.publish('a');
    expect(texts(await (await c.member()).take())).toEqual([]);
    expect(texts(await (await b.member()).take())).toEqual(['a']);
  });

  test('a broker runs by one clock, and keeps to the retention that it was opened with', async () => {
    const name = newName();
    await rigOf({ name, retainMessages: 5 });
    await expect(rigOf({ name })).rejects.toThrow('clock: the broker');
    expect(() => memory({ name, retainMessages: 6 })).toThrow(ConfigError);
  });
});

describe('publish and receive', () => {
  test('everything of a message arrives, and position, attempt and count with it', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    const body = new TextEncoder().encode('body');
    const [result] = await rig.publish({
      id: 'i',
      key: 'k',
      type: 'y',
      contentType: 'c',
      body,
      headers: { a: 'ä', __proto__x: '' },
      publishedAt: 5,
      expiresAt: 7,
    });
    expect(result).toEqual({ status: 'stored', position: '0' });
    body.fill(0);
    const delivery = one(await member.take());
    expect(delivery).toMatchObject({ id: 'i', key: 'k', type: 'y', contentType: 'c', publishedAt: 5, expiresAt: 7 });
    expect(delivery).toMatchObject({ attempt: 1, deliveries: 1, position: '0', lane: '0' });
    expect(delivery.leaseUntil).toBe(rig.clock.monotonic() + lease);
    expect(text(delivery)).toBe('body');
    expect(delivery.headers).toEqual({ a: 'ä', __proto__x: '' });
  });

  test('what one group does to its bytes no other sees', async () => {
    const rig = await rigOf();
    const other = { ...rig.group, name: 'other' };
    await rig.provision('latest', other);
    const [mine, theirs] = [await rig.member(), await rig.member(lease, other)];
    await rig.publish('a');
    one(await mine.take()).body.fill(0);
    expect(texts(await theirs.take())).toEqual(['a']);
  });

  test('a receive that waits is woken by a publish, and gets at most what it asked for', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    const received = member.receiver.receive(2, never);
    await rig.publish('a', 'b', 'c');
    expect(texts(await received)).toEqual(['a', 'b']);
    expect(texts(await member.take())).toEqual(['c']);
  });

  test('finish ends a wait with nothing, and swallows nothing', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    const finish = new AbortController();
    const received = member.receiver.receive(10, finish.signal);
    finish.abort();
    expect(await received).toEqual([]);
    await rig.publish('a');
    expect(texts(await member.take())).toEqual(['a']);
  });

  test('SUB-06 members that wait share what comes', async () => {
    const rig = await rigOf();
    const members = [await rig.member(), await rig.member(), await rig.member()];
    const received = members.map(({ receiver }) => receiver.receive(100, never));
    await rig.publish(...Array.from({ length: 10 }, (_, i) => String(i)));
    expect((await Promise.all(received)).map((deliveries) => deliveries.length)).toEqual([4, 3, 3]);
  });

  test('a topic without order is one lane, which can be paused', async () => {
    const rig = await rigOf();
    const [paused, other] = [await rig.member(), await rig.member()];
    paused.receiver.pauseLane('0');
    const waiting = paused.receiver.receive(10, never);
    await rig.publish('a', 'b');
    expect(texts(await other.take(1))).toEqual(['a']);
    paused.receiver.resumeLane('0');
    expect(texts(await waiting)).toEqual(['b']);
  });

  test('PUB-03 a body over the limit is refused without harm to the others', async () => {
    const rig = await rigOf({ maxMessageBytes: 4 });
    const results = await rig.publish('1234', '12345', 'b');
    expect(results.map(({ status }) => status)).toEqual(['stored', 'failed', 'stored']);
    expect(results[1]).toMatchObject({
      outcome: 'not-sent',
      retryable: false,
      error: expect.any(MessageTooLargeError),
    });
    expect(texts(await (await rig.member()).take())).toEqual(['1234', 'b']);
  });

  test('a topic that is missing is made, or without `create` refused', async () => {
    const name = newName();
    const clock = new FakeClock();
    const strict = await rigOf({ name, clock, topology: 'none' });
    expect(await strict.publish('a')).toMatchObject([{ status: 'failed', outcome: 'not-sent', retryable: false }]);
    await (await rigOf({ name, clock })).connection.close();
    memoryBroker(name).deleteTopic('t');
    const lenient = await rigOf({ name, clock });
    memoryBroker(name).deleteTopic('t');
    expect(await lenient.publish('a')).toMatchObject([{ status: 'stored' }]);
  });
});

describe('leases', () => {
  test('one that ends brings the message back at its old place, counted', async () => {
    const rig = await rigOf();
    const [first, second] = [await rig.member(), await rig.member()];
    await rig.publish('a', 'b', 'c');
    expect(texts(await first.take(2))).toEqual(['a', 'b']);
    await rig.clock.advance(lease - 1);
    expect(texts(await second.take(1))).toEqual(['c']);
    const waiting = second.receiver.receive(10, never);
    await rig.clock.advance(1);
    const back = await waiting;
    expect(texts(back)).toEqual(['a', 'b']);
    expect(back.map(({ deliveries, attempt }) => [deliveries, attempt])).toEqual([
      [2, 1],
      [2, 1],
    ]);
  });

  test('GUAR-02 a delivery from before does nothing to the one from after', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a');
    const old = one(await member.take());
    await rig.clock.advance(lease);
    const fresh = one(await member.take());
    const settlements = [ack(old), abandon(old), giveBack(old), deadLetter(old)];
    expect(await member.receiver.settle(settlements)).toEqual(['lost', 'lost', 'lost', 'lost']);
    expect(await member.receiver.extend?.([old, fresh])).toEqual([undefined, rig.clock.monotonic() + lease]);
    expect(await member.receiver.settle([ack(fresh)])).toEqual(['applied']);
    expect(await member.receiver.settle([ack(fresh)])).toEqual(['lost']);
  });

  test('ACK-03 renewing keeps a delivery, and only that one', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a', 'b');
    const [a, b] = (await member.take()) as [Delivery, Delivery];
    for (let i = 0; i < 5; i++) {
      await rig.clock.advance(lease / 2);
      await member.receiver.extend?.([a]);
    }
    expect(texts(await member.take())).toEqual(['b']);
    expect(await member.receiver.settle([ack(a), ack(b)])).toEqual(['applied', 'lost']);
  });

  test('a member that left keeps its leases to their end', async () => {
    const rig = await rigOf();
    const [gone, stays] = [await rig.member(), await rig.member()];
    await rig.publish('a');
    await gone.take();
    await gone.receiver.close();
    expect(await rig.connection.lag(rig.group)).toMatchObject({ waiting: 0, inFlight: 1 });
    expect(texts(await stays.take())).toEqual([]);
    await rig.clock.advance(lease);
    expect(texts(await stays.take())).toEqual(['a']);
  });

  test('leases that end while nobody is connected have ended when somebody is', async () => {
    const name = newName();
    const clock = new FakeClock();
    const first = await rigOf({ name, clock });
    await first.publish('a');
    await (await first.member()).take();
    await first.connection.close();
    expect(clock.timers).toBe(0);
    await clock.advance(lease);
    const second = await rigOf({ name, clock });
    expect(texts(await (await second.member()).take())).toEqual(['a']);
  });
});

describe('settling', () => {
  test('abandoned: back at its old place at once, counted, attempt unchanged', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a', 'b');
    await member.receiver.settle([abandon(one(await member.take(1)))]);
    const back = await member.take();
    expect(texts(back)).toEqual(['a', 'b']);
    expect(back[0]).toMatchObject({ attempt: 1, deliveries: 2 });
  });

  test('given back: comes when it is due, with its attempt, counted from the start', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a', 'b');
    const [a] = (await member.take()) as [Delivery];
    expect(await member.receiver.settle([giveBack(a, { after: 500, attempt: 2 })])).toEqual(['applied']);
    expect(await rig.connection.lag(rig.group)).toEqual({ waiting: 0, delayed: 1, inFlight: 1, exact: true });
    const waiting = member.receiver.receive(1, never);
    await rig.clock.advance(499);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ delayed: 1 });
    await rig.clock.advance(1);
    expect(one(await waiting)).toMatchObject({ attempt: 2, deliveries: 1, position: '0' });
  });

  test('RETRY-03 what one group gives back no other sees', async () => {
    const rig = await rigOf();
    const other = { ...rig.group, name: 'other' };
    await rig.provision('latest', other);
    const [mine, theirs] = [await rig.member(), await rig.member(lease, other)];
    await rig.publish('a');
    await theirs.receiver.settle([ack(one(await theirs.take()))]);
    await mine.receiver.settle([giveBack(one(await mine.take()))]);
    expect(texts(await theirs.take())).toEqual([]);
    expect(texts(await mine.take())).toEqual(['a']);
  });

  test('set apart: for receiveAlone only, which counts, also after a crash', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a');
    await member.receiver.settle([giveBack(one(await member.take()), { alone: true, attempt: 2, after: 100 })]);
    expect(await member.receiver.receiveAlone?.()).toBeUndefined();
    await rig.clock.advance(100);
    expect(await member.take()).toEqual([]);
    expect(await member.receiver.receiveAlone?.()).toMatchObject({ alone: true, attempt: 2, deliveries: 1 });
    await rig.clock.advance(lease);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ waiting: 1, inFlight: 0 });
    expect(await member.receiver.receiveAlone?.()).toMatchObject({ deliveries: 2 });
    expect(await member.receiver.receiveAlone?.()).toBeUndefined();
  });

  test('RETRY-04 a hundred thousand that wait cost the others nothing', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    const count = 100_000;
    for (let i = 0; i < count; i += 1_000) {
      await rig.publish(...Array.from({ length: 1_000 }, () => 'late'));
      const deliveries = await member.take(1_000);
      await member.receiver.settle(deliveries.map((delivery) => giveBack(delivery, { after: 1_000 + (i % 7_000) })));
    }
    expect(rig.clock.timers).toBe(1);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ waiting: 0, delayed: count, inFlight: 0 });
    const began = performance.now();
    for (let i = 0; i < 1_000; i++) {
      await rig.publish('now');
      const delivery = one(await member.take());
      expect(text(delivery)).toBe('now');
      await member.receiver.settle([ack(delivery)]);
    }
    expect(performance.now() - began).toBeLessThan(1_000);
    await rig.clock.advance(8_000);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ waiting: count, delayed: 0 });
  });
});

describe('delayed publishes', () => {
  test('DELAY-01 DELAY-02 come in the order of their times, at theirs, to every group', async () => {
    const rig = await rigOf();
    const other = { ...rig.group, name: 'other' };
    await rig.provision('latest', other);
    const [mine, theirs] = [await rig.member(), await rig.member(lease, other)];
    const now = rig.clock.now();
    const at = (ms: number, body: string) => ({ deliverAt: now + ms, body: new TextEncoder().encode(body) });
    expect(await rig.publish(at(60_000, 'long'), at(1_000, 'short 1'), at(1_000, 'short 2'), at(-5, 'past'))).toEqual([
      { status: 'stored' },
      { status: 'stored' },
      { status: 'stored' },
      { status: 'stored', position: '0' },
    ]);
    expect(texts(await mine.take())).toEqual(['past']);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ delayed: 3 });
    await rig.clock.advance(999);
    expect(await mine.take()).toEqual([]);
    await rig.clock.advance(1);
    expect(texts(await mine.take())).toEqual(['short 1', 'short 2']);
    await rig.clock.advance(59_000);
    expect(texts(await theirs.take())).toEqual(['past', 'short 1', 'short 2', 'long']);
  });
});

describe('ordered topics', () => {
  const ordered = (options: RigOptions = {}): Promise<Rig> => rigOf({ ordered: true, ...options });

  test('ORD-01 one of a key is out at a time, in stored order, over all members', async () => {
    const rig = await ordered();
    const [first, second] = [await rig.member(), await rig.member()];
    await rig.publish(keyed('a', 'a1'), keyed('a', 'a2'), keyed('b', 'b1'), keyed('b', 'b2'), keyed('a', 'a3'));
    const [a1, b1] = (await first.take()) as [Delivery, Delivery];
    expect(texts([a1, b1])).toEqual(['a1', 'b1']);
    const waiting = second.receiver.receive(10, never);
    await first.receiver.settle([ack(b1)]);
    expect(texts(await waiting)).toEqual(['b2']);
    await first.receiver.settle([ack(a1)]);
    expect(texts(await second.take())).toEqual(['a2']);
  });

  test('ORD-03 what comes back comes before the later ones of its key', async () => {
    const rig = await ordered();
    const member = await rig.member();
    await rig.publish(keyed('a', 'a1'), keyed('a', 'a2'));
    await member.take();
    await rig.clock.advance(lease);
    const a1 = one(await member.take());
    expect(text(a1)).toBe('a1');
    await member.receiver.settle([abandon(a1)]);
    expect(texts(await member.take())).toEqual(['a1']);
  });

  test('ORD-02 a message given back holds its key until it is due and settled, other keys flow', async () => {
    const rig = await ordered();
    const member = await rig.member();
    await rig.publish(keyed('a', 'a1'), keyed('a', 'a2'), keyed('b', 'b1'));
    const [a1] = (await member.take(1)) as [Delivery];
    await member.receiver.settle([giveBack(a1, { after: 1_000, attempt: 2 })]);
    expect(texts(await member.take())).toEqual(['b1']);
    expect(await rig.connection.lag(rig.group)).toEqual({ waiting: 1, delayed: 1, inFlight: 1, exact: true });
    await rig.clock.advance(1_000);
    const again = one(await member.take());
    expect([text(again), again.attempt]).toEqual(['a1', 2]);
    await member.receiver.settle([ack(again)]);
    expect(texts(await member.take())).toEqual(['a2']);
  });

  test('ORD-04 a redriven message goes behind what its key has waiting, a dead one frees its key', async () => {
    const rig = await ordered();
    const member = await rig.member();
    await rig.publish(keyed('a', 'a1'), keyed('a', 'a2'), keyed('a', 'a3'));
    // Taken one by one, so that the others have not been read yet.
    await member.receiver.settle([deadLetter(one(await member.take(1)))]);
    const scan = await rig.connection.openDeadLetters(rig.group);
    expect(await scan.redrive(await scan.next(10))).toEqual(['applied']);
    await rig.publish(keyed('a', 'a4'));
    const seen: string[] = [];
    for (let i = 0; i < 4; i++) {
      const delivery = one(await member.take());
      seen.push(text(delivery));
      await member.receiver.settle([ack(delivery)]);
    }
    expect(seen).toEqual(['a2', 'a3', 'a1', 'a4']);
  });

  test('ORD-04 messages without a key wait for nobody', async () => {
    const rig = await ordered();
    const member = await rig.member();
    await rig.publish('x', 'y');
    expect(texts(await member.take())).toEqual(['x', 'y']);
  });

  test('a key in hand stays taken while the group moves past it', async () => {
    const rig = await ordered();
    const member = await rig.member();
    await rig.publish(keyed('a', 'a1'), keyed('a', 'a2'));
    const a1 = one(await member.take());
    await rig.connection.seek(rig.group, 'latest');
    await rig.publish(keyed('a', 'a3'));
    expect(await member.take()).toEqual([]);
    expect(await member.receiver.settle([ack(a1)])).toEqual(['applied']);
    expect(texts(await member.take())).toEqual(['a3']);
  });

  test('a paused lane gives nothing to this member, and to others all', async () => {
    const rig = await ordered({ lanes: 2 });
    const [paused, other] = [await rig.member(), await rig.member()];
    const keys = Array.from({ length: 8 }, (_, i) => `key ${i}`);
    await rig.publish(...keys.map((key) => keyed(key, key)));
    paused.receiver.pauseLane('0');
    const mine = await paused.take();
    expect(new Set(mine.map(({ lane }) => lane))).toEqual(new Set(['1']));
    const waiting = paused.receiver.receive(1, never);
    paused.receiver.resumeLane('0');
    expect(one(await waiting).lane).toBe('0');
    const rest = await other.take();
    expect(mine.length + 1 + rest.length).toBe(keys.length);
  });

  test('ORD-05 the broker remembers order and lanes, and tells differences', async () => {
    const rig = await ordered({ lanes: 3 });
    expect(await rig.connection.describeTopic('t')).toEqual({ ordered: true, lanes: 3 });
    expect(await rig.connection.describeTopic('unknown')).toBeUndefined();
    const declared = (ordered: boolean, lanes: number | undefined) =>
      rig.connection.provision([{ topic: { name: 't', ordered, lanes, options: undefined }, groups: [] }], 'create');
    expect(await declared(true, 3)).toEqual([]);
    expect(await declared(true, undefined)).toEqual([]);
    expect(await declared(true, 4)).toEqual(['topic "t" has 3 lanes, declared are 4']);
    expect(await declared(false, undefined)).toEqual(['topic "t" is ordered, declared is not ordered']);
  });
});

describe('topology', () => {
  test('CFG-02 verify lists what is missing and makes nothing', async () => {
    const rig = await rigOf();
    const topic = { name: 'new', ordered: false, lanes: undefined, options: undefined };
    const group = { name: 'g', temporary: false, startAt: 'latest', options: undefined } as const;
    expect(await rig.connection.provision([{ topic, groups: [group] }], 'verify')).toEqual([
      'topic "new" is missing',
      'group "g" of topic "new" is missing',
    ]);
    expect(await rig.connection.describeTopic('new')).toBeUndefined();
  });

  test('what needs a group that is not there says so', async () => {
    const rig = await rigOf();
    const group = { ...rig.group, name: 'nobody' };
    const refusal = 'group: topic "t" on memory: has no group "nobody"';
    await expect(rig.connection.lag(group)).rejects.toThrow(refusal);
    await expect(rig.connection.seek(group, 'earliest')).rejects.toThrow(refusal);
    await expect(rig.connection.countDeadLetters(group)).rejects.toThrow(refusal);
    await expect(rig.member(lease, group)).rejects.toThrow(refusal);
    await rig.connection.removeGroup(group);
  });

  test('SUB-12 a removed group leaves nothing', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a', 'b', 'c');
    const [a, b] = (await member.take(2)) as [Delivery, Delivery];
    await member.receiver.settle([deadLetter(a), giveBack(b, { after: 5_000 })]);
    await member.receiver.close();
    await rig.connection.removeGroup(rig.group);
    await rig.provision();
    expect(await rig.connection.lag(rig.group)).toEqual({ waiting: 0, delayed: 0, inFlight: 0, exact: true });
    expect(await rig.connection.countDeadLetters(rig.group)).toEqual({ value: 0, exact: true });
  });

  test('LIFE-07 a group deleted under its member is made again, and the member is told', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish('a');
    const old = one(await member.take());
    const waiting = member.receiver.receive(1, never);
    await rig.connection.removeGroup(rig.group);
    expect(await waiting).toEqual([]);
    expect(heard(member)).toEqual(['assigned', 'lost', 'assigned', 'positionLost']);
    expect(await member.receiver.settle([ack(old)])).toEqual(['lost']);
    await rig.publish('b');
    expect(texts(await member.take())).toEqual(['b']);
  });

  test('LIFE-07 without `create` its member fails loudly', async () => {
    const name = newName();
    const clock = new FakeClock();
    await rigOf({ name, clock });
    const rig = await rigOf({ name, clock, topology: 'verify' });
    const member = await rig.member();
    memoryBroker(name).deleteTopic('t');
    expect(heard(member)).toEqual(['assigned', 'lost', 'failed']);
    await expect(member.take()).rejects.toThrow(ConfigError);
  });

  test('SUB-07 a temporary group goes with its receiver or its connection', async () => {
    const name = newName();
    const rig = await rigOf({ name });
    const groups = (): readonly string[] | undefined => memoryBroker(name).topics()[0]?.groups;
    const temporary = { ...rig.group, name: 'b1', temporary: true };
    await rig.provision('latest', temporary);
    const member = await rig.member(lease, temporary);
    await rig.provision('latest', { ...temporary, name: 'b2' });
    expect(groups()).toEqual(['g', 'b1', 'b2']);
    await member.receiver.close();
    expect(groups()).toEqual(['g', 'b2']);
    await rig.connection.close();
    expect(groups()).toEqual(['g']);
  });
});

describe('positions', () => {
  const numbers = async (rig: Rig, count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      await rig.publish(String(i));
      await rig.clock.advance(10);
    }
  };
  const groupAt = async (rig: Rig, startAt: Parameters<Rig['provision']>[0]): Promise<string[]> => {
    const group = { ...rig.group, name: newName() };
    await rig.provision(startAt, group);
    return texts(await (await rig.member(lease, group)).take());
  };

  test('POS-02 a new group starts at the end, the beginning, a time or a position', async () => {
    const rig = await rigOf();
    const began = rig.clock.now();
    await numbers(rig, 4);
    expect(await groupAt(rig, 'latest')).toEqual([]);
    expect(await groupAt(rig, 'earliest')).toEqual(['0', '1', '2', '3']);
    expect(await groupAt(rig, new Date(began + 20))).toEqual(['2', '3']);
    expect(await groupAt(rig, new Date(began + 11))).toEqual(['2', '3']);
    expect(await groupAt(rig, new Date(0))).toEqual(['0', '1', '2', '3']);
    expect(await groupAt(rig, { position: '3' })).toEqual(['3']);
    expect(await groupAt(rig, { position: '4' })).toEqual([]);
  });

  test.each(['5', '-1', 'x', ''])('a position that is not there is refused: %j', async (position) => {
    const rig = await rigOf();
    await numbers(rig, 4);
    await expect(rig.connection.seek(rig.group, { position })).rejects.toThrow('is not a position of topic "t"');
  });

  test('POS-02 seek back hands out again, and what is in hand is lost', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await numbers(rig, 4);
    const [a, b, c] = (await member.take(3)) as [Delivery, Delivery, Delivery];
    await member.receiver.settle([ack(b)]);
    await rig.connection.seek(rig.group, { position: '1' });
    expect(heard(member)).toEqual(['assigned', 'lost']);
    expect(member.told.at(-1)?.[2]).toBeInstanceOf(LeaseLostError);
    expect(await member.receiver.settle([ack(a), ack(c)])).toEqual(['lost', 'lost']);
    expect(texts(await member.take())).toEqual(['0', '1', '2', '3']);
  });

  test('seek forward skips what waits, and leaves what is in hand', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await numbers(rig, 4);
    const [a, b] = (await member.take(2)) as [Delivery, Delivery];
    await member.receiver.settle([abandon(b)]);
    await rig.connection.seek(rig.group, 'latest');
    expect(heard(member)).toEqual(['assigned']);
    expect(await member.receiver.settle([ack(a)])).toEqual(['applied']);
    await rig.publish('new');
    expect(texts(await member.take())).toEqual(['new']);
  });

  test('a retry that waits is not doubled by a seek behind it, nor lost by one before it', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await numbers(rig, 3);
    const [a, , c] = (await member.take()) as [Delivery, Delivery, Delivery];
    await member.receiver.settle([giveBack(a, { after: 1_000 }), giveBack(c, { after: 1_000 })]);
    await rig.connection.seek(rig.group, { position: '1' });
    expect(texts(await member.take())).toEqual(['1', '2']);
    await rig.clock.advance(1_000);
    expect(texts(await member.take())).toEqual(['0']);
  });

  test('earliest loses nothing that is older than the log', async () => {
    const rig = await rigOf({ retainMessages: 1 });
    const member = await rig.member();
    await rig.publish('old');
    const old = one(await member.take());
    await numbers(rig, 3);
    const rest = await member.take();
    await member.receiver.settle([abandon(old), ...rest.map(ack)]);
    await rig.publish('last');
    await rig.connection.seek(rig.group, 'earliest');
    expect(texts(await member.take())).toEqual(['old', 'last']);
  });

  test('seek on an ordered topic starts every key anew', async () => {
    const rig = await rigOf({ ordered: true });
    const member = await rig.member();
    await rig.publish(keyed('a', 'a1'), keyed('b', 'b1'), keyed('a', 'a2'), keyed('b', 'b2'));
    await member.take();
    await rig.connection.seek(rig.group, 'earliest');
    const seen: string[] = [];
    for (let round = 0; round < 2; round++) {
      const deliveries = await member.take();
      seen.push(...texts(deliveries));
      await member.receiver.settle(deliveries.map(ack));
    }
    expect(seen).toEqual(['a1', 'b1', 'a2', 'b2']);
    expect(await rig.connection.lag(rig.group)).toMatchObject({ waiting: 0, inFlight: 0 });
  });

  test('the log keeps what a group has to read, and no more than it should beyond that', async () => {
    const name = newName();
    const rig = await rigOf({ name, retainMessages: 100 });
    const kept = (): number => memoryBroker(name).read('t').length;
    const batch = Array.from({ length: 1_000 }, () => 'x');
    for (let i = 0; i < 5; i++) await rig.publish(...batch);
    expect(kept()).toBe(5_000);
    const member = await rig.member();
    await member.receiver.settle((await member.take(4_500)).map(ack));
    expect(kept()).toBe(500);
    for (let i = 0; i < 200; i++) {
      await rig.publish(...batch);
      await member.receiver.settle((await member.take(1_500)).map(ack));
    }
    expect(kept()).toBe(100);
  });

  test('the log keeps no more bytes than it should', async () => {
    const name = newName();
    const rig = await rigOf({ name, retainBytes: 10 });
    await rig.connection.removeGroup(rig.group);
    await rig.publish('12345', '12345', '123456');
    expect(
      texts(
        memoryBroker(name)
          .read('t')
          .map(({ content }) => content),
      ),
    ).toEqual(['123456']);
  });

  test('RET-02 a group that lost its place is told, at once or when it is back', async () => {
    const name = newName();
    const rig = await rigOf({ name });
    const other = { ...rig.group, name: 'away' };
    await rig.provision('latest', other);
    const member = await rig.member();
    await numbers(rig, 3);
    const held = one(await member.take(1));
    memoryBroker(name).trim('t');
    expect(member.told.at(-1)).toEqual(['positionLost', '0', expect.stringContaining('lost 2 messages')]);
    expect(await member.receiver.settle([ack(held)])).toEqual(['applied']);
    const late = await rig.member(lease, other);
    expect(late.told.find(([what]) => what === 'positionLost')?.[2]).toContain('lost 3 messages');
    await rig.publish('new');
    expect(texts(await late.take())).toEqual(['new']);
  });
});

describe('dead letters', () => {
  const dead = async (rig: Rig, ...bodies: string[]): Promise<RigMember> => {
    const member = await rig.member();
    await rig.publish(...bodies);
    const deliveries = await member.take();
    await member.receiver.settle(deliveries.map((delivery) => deadLetter(delivery, { entry: text(delivery) })));
    return member;
  };

  test('DLQ-01 a walk sees those that are there now, unchanged, oldest first', async () => {
    const rig = await rigOf();
    const member = await dead(rig, 'a', 'b', 'c');
    const scan = await rig.connection.openDeadLetters(rig.group);
    const first = await scan.next(2);
    expect(texts(first)).toEqual(['a', 'b']);
    expect(first[0]).toMatchObject({ id: 'id', details: { entry: 'a', reason: 'exhausted', attempts: 3 } });
    await rig.publish('d');
    await member.receiver.settle([deadLetter(one(await member.take()), { entry: 'd' })]);
    expect(texts(await scan.next(2))).toEqual(['c']);
    expect(await scan.next(2)).toEqual([]);
    await scan.close();
    expect(await rig.connection.countDeadLetters(rig.group)).toEqual({ value: 4, exact: true });
  });

  test('DLQ-03 DLQ-04 redrive starts anew without expiry, purge removes, each once', async () => {
    const rig = await rigOf();
    const member = await rig.member();
    await rig.publish({ expiresAt: 1 }, { expiresAt: 2 });
    const [a, b] = (await member.take()) as [Delivery, Delivery];
    await member.receiver.settle([giveBack(a, { attempt: 5 })]);
    await member.receiver.settle([deadLetter(one(await member.take()), { entry: 'a' }), deadLetter(b, { entry: 'b' })]);
    const scan = await rig.connection.openDeadLetters(rig.group);
    const records = await scan.next(10);
    const [recordB, recordA] = [records[1], records[0]] as const;
    if (recordA === undefined || recordB === undefined) throw new Error('two records were expected');
    expect(await scan.redrive([recordA])).toEqual(['applied']);
    expect(await scan.purge([recordB, recordA])).toEqual(['applied', 'lost']);
    expect(await scan.redrive([recordB])).toEqual(['lost']);
    expect(one(await member.take())).toMatchObject({ attempt: 1, deliveries: 1, expiresAt: undefined });
    expect(await rig.connection.countDeadLetters(rig.group)).toEqual({ value: 0, exact: true });
  });

  test('DLQ-05 those of two groups are apart', async () => {
    const rig = await rigOf();
    const other = { ...rig.group, name: 'other' };
    await rig.provision('latest', other);
    await dead(rig, 'a');
    expect(await rig.connection.countDeadLetters(other)).toEqual({ value: 0, exact: true });
  });
});

describe('cut off', () => {
  test('calls fail for now, what waits is woken, both sides are told, and nothing is lost', async () => {
    const name = newName();
    const rig = await rigOf({ name });
    const member = await rig.member();
    await rig.publish('a');
    const a = one(await member.take());
    const waiting = member.receiver.receive(1, never);
    memoryBroker(name).disconnect();
    await expect(waiting).rejects.toThrow(ConnectionError);
    await expect(member.take()).rejects.toMatchObject({ code: 'CONNECTION', retryable: true });
    await expect(rig.connection.ping()).rejects.toThrow('cut off by disconnect()');
    await expect(openRig({ name, clock: rig.clock })).rejects.toThrow(ConnectionError);
    await expect(member.receiver.extend?.([a])).rejects.toThrow(ConnectionError);
    await expect(member.receiver.settle([ack(a)])).rejects.toThrow(ConnectionError);
    expect(await rig.publish('b')).toMatchObject([{ status: 'failed', outcome: 'not-sent', retryable: true }]);

    memoryBroker(name).reconnect();
    expect(rig.told.map(([what]) => what)).toEqual(['interrupted', 'restored']);
    expect(heard(member)).toEqual(['assigned', 'interrupted', 'restored']);
    expect(await member.receiver.settle([ack(a)])).toEqual(['applied']);
    await rig.publish('b');
    expect(texts(await member.take())).toEqual(['b']);
  });

  test('one client can be cut off alone; its leases run on', async () => {
    const name = newName();
    const clock = new FakeClock();
    const [near, far] = [await rigOf({ name, clock, client: 'near' }), await rigOf({ name, clock, client: 'far' })];
    const [here, there] = [await near.member(), await far.member()];
    await near.publish('a');
    const a = one(await there.take());
    memoryBroker(name).disconnect('far');
    await clock.advance(lease);
    expect(texts(await here.take())).toEqual(['a']);
    memoryBroker(name).reconnect('far');
    expect(await there.receiver.settle([ack(a)])).toEqual(['lost']);
  });

  test('SUB-07 a broadcast that stays away loses its group in time, and has it made again when it is back', async () => {
    const name = newName();
    const rig = await rigOf({ name });
    const temporary = { ...rig.group, name: 'b', temporary: true };
    const groups = (): readonly string[] | undefined => memoryBroker(name).topics()[0]?.groups;
    await rig.provision('latest', temporary);
    const member = await rig.member(lease, temporary);
    const cleanup = rig.connection.capabilities.broadcastCleanup;
    memoryBroker(name).disconnect();
    await rig.clock.advance(cleanup - 1);
    memoryBroker(name).reconnect();
    await rig.clock.advance(cleanup);
    expect(groups()).toEqual(['g', 'b']);
    memoryBroker(name).disconnect();
    await rig.clock.advance(cleanup);
    expect(groups()).toEqual(['g']);
    memoryBroker(name).reconnect();
    expect(groups()).toEqual(['g', 'b']);
    expect(heard(member).slice(-4)).toEqual(['lost', 'assigned', 'positionLost', 'restored']);
  });
});

describe('as a stranger sees it', () => {
  test('SUB-09 foreign messages have a body and little else, and ours can be read', async () => {
    const name = newName();
    const rig = await rigOf({ name });
    const broker = memoryBroker(name);
    expect(broker.publish('t', { body: new TextEncoder().encode('f'), headers: { a: '1' } })).toBe('0');
    const delivery = one(await (await rig.member()).take());
    expect(delivery).toMatchObject({
      id: undefined,
      key: undefined,
      headers: { a: '1' },
      publishedAt: rig.clock.now(),
    });
    await rig.publish('ours');
    expect(broker.read('t', '1').map(({ content }) => [content.id, text(content)])).toEqual([['id', 'ours']]);
    expect(() => broker.publish('unknown', { body: new Uint8Array() })).toThrow(ConfigError);
  });

  test('topics and groups made by a stranger are used as they are', async () => {
    const name = newName();
    const broker = memoryBroker(name);
    broker.createTopic('t', { lanes: 2 });
    broker.createGroup('t', 'g');
    const rig = await rigOf({ name, topology: 'verify', ordered: true });
    expect(broker.topics()).toEqual([{ name: 't', ordered: true, lanes: 2, groups: ['g'] }]);
    await rig.publish(keyed('a', 'a1'));
    expect(texts(await (await rig.member()).take())).toEqual(['a1']);
  });
});
