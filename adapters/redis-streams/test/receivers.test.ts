import { randomUUID } from 'node:crypto';
import { connect, topic } from '@waybill/core';
import { type Delivery, laneOf } from '@waybill/core/adapter';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { eventually } from '../../../conformance-tests/src/eventually.ts';
import { brokerFor, type GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';
import { redisStreams } from '../src/index.ts';
import { type GroupKeys, KeyNames } from '../src/names.ts';
import { readLane } from '../src/scripts.ts';
import { abandon, holdReply, Rig, settled, take, texts, untilTold } from './rig.ts';

let broker: GivenBroker;
beforeAll(async () => {
  broker = await brokerFor('redis');
}, 120_000);
afterAll(() => broker?.stop());

describe('the order of a key outlives a pause during a read', () => {
  /** A subscription whose first message is being handled, and whose second waits for it. */
  async function subscribed(lanes: number, concurrency: number) {
    const name = `t-${randomUUID()}`;
    const definition = topic<{ n: string; key: string }>(name, { ordered: true, lanes, key: ({ key }) => key });
    const bus = await connect(redisStreams.fromUrl(broker.url), { logger: false });
    onTestFinished(() => bus.close({ timeout: 0 }));
    const seen: string[] = [];
    const gate = Promise.withResolvers<void>();
    const subscription = await bus.subscribe(definition, { group: name, concurrency }, async ({ data }) => {
      seen.push(data.n);
      if (data.n === 'm1') await gate.promise;
    });
    const keyOf = (lane: number): string => {
      for (let i = 0; ; i++) if (laneOf(`k${i}`, lanes) === lane) return `k${i}`;
    };
    const publish = (n: string, lane: number) => bus.publish(definition, { n, key: keyOf(lane) });
    const fields = (n: string, lane: number) => [
      ...['body', JSON.stringify({ n, key: keyOf(lane) })],
      ...['waybill-key', keyOf(lane), 'waybill-content-type', 'application/json'],
    ];
    const holds = (buffered: number) =>
      eventually(
        `one message is handled, and ${buffered} wait`,
        () => subscription.stats().inFlight === 1 && subscription.stats().buffered === buffered,
      );
    await publish('m1', 0);
    await publish('m2', 0);
    await holds(1);
    const keys = new KeyNames('', {}).group({ topic: { name }, name }, lanes);
    const native = bus.native('redis-streams') as Redis;
    const pending = (count: number, { stream, group }: GroupKeys) =>
      eventually(`${count} are pending`, async () => ((await native.xpending(stream, group)) as [number])[0] === count);
    return { subscription, seen, gate, publish, fields, holds, pending, keys, native };
  }

  test('that brings what comes after what was let go', async () => {
    const { subscription, seen, gate, publish, pending, keys, native } = await subscribed(1, 1);
    const [lane] = keys as [GroupKeys];
    const read = holdReply(native, readLane, lane);
    await publish('m3', 0);
    await read.reached();
    await pending(3, lane);
    void subscription.pause();
    void subscription.resume();
    await settled();
    read.release();
    await settled();
    gate.resolve();
    await eventually('all are handled', () => seen.length >= 3);
    expect(seen).toEqual(['m1', 'm2', 'm3']);
  });

  test('that has its answer, and waits for another lane', async () => {
    const { subscription, seen, gate, fields, holds, pending, keys, native } = await subscribed(2, 2);
    const [lane, other] = keys as [GroupKeys, GroupKeys];
    const read = holdReply(native, readLane, other);
    // While the connection that waits for news is away, so that the look after it finds both.
    const clients = String(await native.call('CLIENT', 'LIST')).split('\n');
    const reader = clients.find((one) => one.includes(`:reads:${lane.group} `));
    await native
      .multi()
      .client('KILL', 'ID', /id=(\d+)/.exec(reader ?? '')?.[1] ?? '')
      .xadd(lane.stream, '*', ...fields('m3', 0))
      .xadd(other.stream, '*', ...fields('other', 1))
      .exec();
    await read.reached();
    await pending(3, lane);
    await holds(1);
    void subscription.pause();
    void subscription.resume();
    await settled();
    read.release();
    await settled();
    gate.resolve();
    await eventually('all are handled', () => seen.length >= 4);
    expect(seen.filter((n) => n !== 'other')).toEqual(['m1', 'm2', 'm3']);
  });
});

test('what was let go during a read is handed out at once, without any news', async () => {
  const rig = new Rig(broker.url, 1);
  const member = await rig.member();
  await rig.add(0, 'm1', 'm2');
  const [, second] = await take(member, 2);
  const read = holdReply(member.native, readLane, rig.keys[0] as GroupKeys);
  const taking = take(member, 2);
  await rig.add(0, 'm3');
  await read.reached();
  await abandon(member, second as Delivery);
  read.release();
  const released = performance.now();
  expect(texts(await taking)).toEqual(['m2', 'm3']);
  // A read that waits for news waits a second.
  expect(performance.now() - released).toBeLessThan(900);
});

describe('what was read of a lane that was lost meanwhile', () => {
  /** Two members whose names come first, so that no lane is left for the one under test. */
  const crowd = (rig: Rig) =>
    rig.asking.zadd(rig.keys[0]?.members ?? '', Date.now() + 60_000, 'a', Date.now() + 60_000, 'b');

  test('is not handed out', async () => {
    const rig = new Rig(broker.url, 2);
    const member = await rig.member();
    await rig.add(0, 'm1');
    await rig.add(1, 'other');
    const read = holdReply(member.native, readLane, rig.keys[1] as GroupKeys);
    const finish = new AbortController();
    const receiving = member.receiver.receive(10, finish.signal);
    await read.reached();
    await eventually('the other lane is read', async () => (await rig.pending(0)) === 1);
    await crowd(rig);
    await untilTold(member, 'lost');
    finish.abort();
    read.release();
    expect(texts(await receiving)).toEqual([]);
  });

  test('has no lease when core gets it', async () => {
    const rig = new Rig(broker.url, 2);
    const member = await rig.member();
    await rig.add(0, 'm1');
    const [delivery] = await take(member, 1);
    expect(delivery?.leaseUntil).toBeGreaterThan(performance.now());
    await crowd(rig);
    await untilTold(member, 'lost');
    expect(delivery?.leaseUntil).toBe(0);
  });
});

describe('a group that is deleted and made again hands out', () => {
  test.each([
    ['a lane', 1],
    ['a topic without order', 0],
  ])('what was let go of %s', async (_, lanes) => {
    const rig = new Rig(broker.url, lanes);
    const member = await rig.member();
    await rig.add(0, 'm1', 'm2', 'm3');
    const [first, ...rest] = await take(member, 3);
    await member.receiver.settle([{ verb: 'ack', delivery: first as Delivery }]);
    await abandon(member, ...rest);
    await rig.deleteGroup();
    await untilTold(member, 'lost');
    expect(texts(await take(member, 2))).toEqual(['m2', 'm3']);
  });

  test('what its last owner had in a lane', async () => {
    const rig = new Rig(broker.url, 1);
    const gone = await rig.member(1_000);
    await rig.add(0, 'm1', 'm2');
    const [first] = await take(gone, 2);
    await gone.receiver.settle([{ verb: 'ack', delivery: first as Delivery }]);
    // The second is in hand still, so the lane waits for its lease.
    await gone.receiver.close();
    const member = await rig.member(1_000);
    await untilTold(member, 'assigned');
    await rig.deleteGroup();
    await untilTold(member, 'lost');
    expect(texts(await take(member, 1))).toEqual(['m2']);
  });

  test('what is in hand of a lane whose owner was deleted with it', async () => {
    const rig = new Rig(broker.url, 1);
    const member = await rig.member();
    await rig.add(0, 'm1', 'm2');
    const [first] = await take(member, 2);
    await member.receiver.settle([{ verb: 'ack', delivery: first as Delivery }]);
    const taking = take(member, 2);
    await member.connection.removeGroup(rig.group);
    // Read before the next sign of life, which finds that there is no owner.
    await rig.add(0, 'm3');
    expect(texts(await taking)).toEqual(['m2', 'm3']);
  });
});
