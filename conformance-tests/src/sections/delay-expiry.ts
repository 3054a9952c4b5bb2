import { setTimeout as wait } from 'node:timers/promises';
import { topic as declare } from '@waybill/core';
import { expect } from 'vitest';
import { expectInTime } from '../helpers.ts';
import { AT_ONCE, contract, EARLY, RECOVERY, type Recorder } from '../scenario.ts';

const key = 'k';

/** When a recorder got this data, in milliseconds after `from`. */
function arrival(record: Recorder<unknown>, data: unknown, from: number): number {
  return Math.round((record.of(data)[0]?.at ?? Number.NaN) - from);
}

function expectArrival(record: Recorder<unknown>, data: unknown, from: number, delay: number): void {
  expectInTime(data, from, delay, record.of(data)[0]?.at);
}

contract(
  'DELAY-01',
  'a delayed message comes to every group at its time',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const records = [s.recorder<unknown>(), s.recorder<unknown>()];
    for (const [at, record] of records.entries()) await bus.subscribe(topic, { group: `g${at}` }, record.handler);
    const delays = [60, 400, 1_300, 3_700];
    const sent = new Map<number, number>();
    for (const delay of delays) {
      sent.set(delay, performance.now());
      await bus.publish(topic, delay, { delay });
    }
    const at = performance.now();
    await bus.publish(topic, 'at', { deliverAt: new Date(Date.now() + 1_000) });
    const past = performance.now();
    await bus.publish(topic, 'past', { deliverAt: new Date(Date.now() - 60_000) });
    for (const record of records) {
      await record.waitFor(delays.length + 2);
      for (const delay of delays) expectArrival(record, delay, sent.get(delay) ?? 0, delay);
      expectArrival(record, 'at', at, 1_000);
      expect(arrival(record, 'past', past)).toBeLessThan(AT_ONCE);
      await record.nothingMore();
      expect(record.count).toBe(delays.length + 2);
    }
  },
  { timing: true },
);

contract('DELAY-01', 'what is delayed arrives whole', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<unknown>();
  await bus.subscribe(topic, { group: 'g' }, record.handler);
  const headers = { 'x-text': 'grüße 👋', 'x-empty': '' };
  const body = new Uint8Array([0, 255, 7]);
  const before = Date.now();
  await bus.publish(topic, body, {
    id: 'delayed-1',
    key: 'key ü',
    type: 'thing',
    headers,
    contentType: 'application/x-thing',
    delay: 700,
  });
  await record.waitFor(1);
  const message = record.seen[0]?.message;
  expect(message).toMatchObject({
    id: 'delayed-1',
    key: 'key ü',
    type: 'thing',
    contentType: 'application/x-thing',
    attempt: 1,
  });
  expect(message?.headers).toEqual(headers);
  expect([...(message?.body ?? [])]).toEqual([...body]);
  // The time of the publish, not of the delivery.
  expect(Math.abs((message?.publishedAt.getTime() ?? 0) - before)).toBeLessThan(600);
});

contract('DELAY-01', 'a delay survives the end of every client', async (s) => {
  const topic = s.topicName();
  const first = await s.connect();
  await first.subscribe(topic, { group: 'g', lease: s.lease }, () => {});
  const due = performance.now() + 4_000;
  await first.publish(topic, 1, { delay: 4_000 });
  await first.publish(topic, 2, { delay: 300 });
  await first.close();
  const second = await s.connect();
  const record = s.recorder<number>();
  await second.subscribe(topic, { group: 'g', lease: s.lease }, record.handler);
  await record.waitFor((seen) => seen.some(({ data }) => data === 1));
  expect((record.of(1)[0]?.at ?? 0) - due).toBeGreaterThan(-EARLY);
  // What carries delays between clients may itself have to be taken over from the one that ended.
  expect((record.of(1)[0]?.at ?? 0) - due).toBeLessThan(s.takeOver);
});

contract(
  'DELAY-01',
  'a delay survives the death of every client',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease };
    const member = await s.member('consumer', { topic, options });
    await member.waitFor('subscribed');
    const first = await s.connect();
    await first.publish(topic, 1, { delay: 1_500 });
    const due = performance.now() + 1_500;
    await member.kill();
    await first.close();
    // Past its time, while nobody runs.
    await wait(2_000);
    const second = await s.connect();
    const record = s.recorder<number>();
    await second.subscribe(topic, options, record.handler);
    await record.waitFor(1, s.takeOver + RECOVERY);
    expect(record.seen[0]?.at).toBeGreaterThan(due);
    await record.nothingMore();
  },
  { deadly: true },
);

contract('DELAY-01', 'a group without members gets what was delayed meanwhile', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const here = s.recorder<number>();
  await bus.subscribe(topic, { group: 'here' }, here.handler);
  await bus.subscribe(topic, { group: 'away' }, () => {}).then((subscription) => subscription.close());
  await bus.publish(topic, 1, { delay: 500 });
  await here.waitFor(1);
  const away = s.recorder<number>();
  await bus.subscribe(topic, { group: 'away' }, away.handler);
  await away.waitFor(1);
  await away.nothingMore();
  expect([here.data, away.data]).toEqual([[1], [1]]);
});

contract(
  'DELAY-01',
  'a delay survives a restart of the broker',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const record = s.recorder<string>();
    await bus.subscribe(topic, { group: 'g', lease: s.lease }, record.handler);
    const sent = performance.now();
    await bus.publish(topic, 'during', { delay: 1_000 });
    await bus.publish(topic, 'after', { delay: 25_000 });
    await s.broker.restart();
    const back = performance.now();
    // Not counted: the first one's ack may be lost in the restart.
    const both = (): boolean => record.of('during').length > 0 && record.of('after').length > 0;
    await record.waitFor(both, 25_000 + RECOVERY + s.takeOver);
    const [during, after] = [record.of('during')[0]?.at ?? 0, record.of('after')[0]?.at ?? 0];
    expect(during - sent).toBeGreaterThan(1_000 - EARLY);
    expect(during).toBeLessThan(back + RECOVERY + s.takeOver);
    expect(after - sent).toBeGreaterThan(25_000 - EARLY);
    expect(after).toBeLessThan(Math.max(sent + 25_000, back + RECOVERY) + s.takeOver);
  },
  { disruptive: true, timeout: (lease) => 150_000 + 4 * lease },
);

contract(
  'DELAY-02',
  'a short delay does not wait for a long one',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const record = s.recorder<unknown>();
    await bus.subscribe(topic, { group: 'g' }, record.handler);
    // Of every size, so that whatever line the short ones stand in, a longer one stands before them.
    for (const delay of [400, 900, 4_000, 30_000, '10m', '3h'] as const) await bus.publish(topic, 'long', { delay });
    const sent = new Map<number, number>();
    for (const delay of [1_000, 300]) {
      sent.set(delay, performance.now());
      await bus.publish(topic, delay, { delay });
    }
    const direct = performance.now();
    await bus.publish(topic, 'direct');
    await record.waitFor((seen) => [1_000, 300, 'direct'].every((one) => seen.some(({ data }) => data === one)));
    expectArrival(record, 300, sent.get(300) ?? 0, 300);
    expectArrival(record, 1_000, sent.get(1_000) ?? 0, 1_000);
    expect(arrival(record, 'direct', direct)).toBeLessThan(AT_ONCE);
  },
  { timing: true },
);

contract('DELAY-03', 'what expired while its group was away is not handed out, and counted', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.subscribe(topic, { group: 'g' }, () => {}).then((subscription) => subscription.close());
  await bus.publish(topic, 'expired', { key, ttl: 500 });
  await bus.publish(topic, 'expired', { key, expiresAt: new Date(Date.now() + 400) });
  await bus.publish(topic, 'alive', { key, ttl: '1h' });
  await wait(700);
  const record = s.recorder<string>();
  const subscription = await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.publish(topic, 'marker', { key });
  await record.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
  await s.eventually('two expired ones', () => subscription.stats().expired === 2);
  await record.nothingMore();
  expect(record.data).toEqual(['alive', 'marker']);
  // Settled: neither there any more, nor dead.
  await subscription.close();
  const again = s.recorder<string>();
  const next = await bus.subscribe(topic, { group: 'g' }, again.handler);
  await bus.publish(topic, 'second marker', { key });
  await again.waitFor((seen) => seen.some(({ data }) => data === 'second marker'));
  expect(again.data).toEqual(['second marker']);
  expect(next.stats().expired).toBe(0);
  expect((await bus.deadLetters(topic, 'g').count()).value).toBe(0);
});

contract('DELAY-03', 'expiry is checked before each attempt', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>(() => {
    throw new Error('again later');
  });
  const retry = { attempts: 10, delay: 900 };
  const subscription = await bus.subscribe(topic, { group: 'g', retry }, record.handler);
  const published = performance.now();
  const ttl = 2_500;
  await bus.publish(topic, 1, { ttl });
  await s.eventually('the message to expire', () => subscription.stats().expired === 1);
  await record.nothingMore(1_500);
  // As many attempts as the time allowed, and none beyond it.
  expect(record.count).toBeGreaterThanOrEqual(1);
  expect(record.seen.map(({ at }) => at - published).filter((after) => after > ttl + EARLY)).toEqual([]);
  expect(subscription.stats()).toMatchObject({ deadLettered: 0, acked: 0, retried: record.count });
  expect((await bus.deadLetters(topic, 'g').count()).value).toBe(0);
});

contract('DELAY-03', 'on an ordered topic what has expired lets its key go on', async (s) => {
  const topic = declare<string>(s.topicName(), { ordered: true, key: () => key });
  const bus = await s.connect();
  const record = s.recorder<string>(({ data }) => {
    if (data === 'fails') throw new Error('again later');
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry: { attempts: 10, delay: 600 } }, record.handler);
  await bus.publish(topic, 'fails', { ttl: 1_500 });
  await bus.publish(topic, 'expires behind it', { ttl: 1_000 });
  await bus.publish(topic, 'lives');
  await record.waitFor((seen) => seen.some(({ data }) => data === 'lives'));
  await s.eventually('two to be counted', () => subscription.stats().expired === 2);
  expect(record.of('expires behind it')).toEqual([]);
  expect(record.of('fails').length).toBeLessThanOrEqual(3);
  expect(subscription.stats().deadLettered).toBe(0);
});

contract('DELAY-03', 'a message that expires in the buffer is not handed out', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<string>(({ data }) => (data === 'slow' ? gate.promise : undefined));
  const subscription = await bus.subscribe(topic, { group: 'g', concurrency: 1 }, record.handler);
  await bus.publish(topic, 'slow', { key });
  await record.waitFor(1);
  await bus.publish(topic, 'expires', { key, ttl: 700 });
  await wait(1_000);
  await bus.publish(topic, 'marker', { key });
  gate.resolve();
  await record.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
  expect(record.data).toEqual(['slow', 'marker']);
  await s.eventually('the other to be counted', () => subscription.stats().expired === 1);
});

contract('DELAY-03', 'the time to live counts from the publish, a delay included', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>();
  const subscription = await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.publish(topic, 'too late', { delay: 1_200, ttl: 600 });
  await bus.publish(topic, 'in time', { delay: 1_000, ttl: 30_000 });
  await record.waitFor(1);
  // By its delay or on arrival: it must not be handed out, whoever finds that out.
  await record.nothingMore(1_500);
  expect(record.data).toEqual(['in time']);
  await s.eventually('the other to be counted', () => subscription.stats().expired === 1);
});
