import { setTimeout as wait } from 'node:timers/promises';
import { RetryError } from '@waybill/core';
import { expect } from 'vitest';
import { failureWith } from '../helpers.ts';
import { contract, RECOVERY, type Scenario } from '../scenario.ts';

const key = 'k';

/** Makes a group that nobody reads. */
async function makeGroup(s: Scenario, topic: string, group: string): Promise<void> {
  const bus = await s.connect();
  await bus.provision([{ topic, groups: [group] }]);
  await bus.close();
}

contract('POS-01', 'the lag of a group without members is what waits for it', async (s) => {
  const topic = s.topicName();
  await makeGroup(s, topic, 'g');
  const bus = await s.connect();
  expect(await bus.lag(topic, 'g')).toMatchObject({ waiting: 0, inFlight: 0 });
  for (let data = 0; data < 5; data++) await bus.publish(topic, data);
  await s.eventually('five to be waiting', () => bus.lag(topic, 'g'), { until: ({ waiting }) => waiting === 5 });
  // Another group's reading changes nothing.
  const record = s.recorder();
  await bus.subscribe(topic, { group: 'other' }, record.handler);
  await bus.publish(topic, 5);
  await record.waitFor(1);
  await s.eventually('six to be waiting', () => bus.lag(topic, 'g'), { until: ({ waiting }) => waiting === 6 });
  await s.eventually('nothing to be waiting for the other', () => bus.lag(topic, 'other'), {
    until: ({ waiting }) => waiting === 0,
  });
});

contract('POS-01', 'questions about a group that does not exist are refused, and name it', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await makeGroup(s, topic, 'there');
  const about = { message: /not-there/ };
  await failureWith('CONFIG', () => bus.lag(topic, 'not-there'), about);
  await failureWith('CONFIG', () => bus.deadLetters(topic, 'not-there').count(), about);
  await failureWith('CONFIG', () => bus.deadLetters(topic, 'not-there').redrive('all'), about);
  if (s.supports('log')) await failureWith('CONFIG', () => bus.seek(topic, 'not-there', 'earliest'), about);
  await bus.removeGroup(topic, 'there');
  await failureWith('CONFIG', () => bus.lag(topic, 'there'), { message: /there/ });
});

contract('POS-01', 'what waits, what is delayed and what is in hand are told apart', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<string>(async ({ data, attempt }) => {
    if (data === 'hold') await gate.promise;
    if (data === 'retry' && attempt === 1) throw new RetryError({ after: '10m' });
  });
  const subscription = await bus.subscribe(topic, { group: 'g', concurrency: 3 }, record.handler);
  for (const data of ['retry', 'retry', 'hold', 'hold', 'hold']) await bus.publish(topic, data, { key });
  await s.eventually('two retries and three in hand', () => subscription.stats(), {
    until: ({ retried, inFlight }) => retried === 2 && inFlight === 3,
  });
  await bus.publish(topic, 'later', { key, delay: '10m' });
  const lag = await bus.lag(topic, 'g');
  for (const value of [lag.waiting, lag.delayed, lag.inFlight]) expect(value).toBeGreaterThanOrEqual(0);
  expect(typeof lag.exact).toBe('boolean');
  if (lag.exact) expect(lag).toEqual({ waiting: 0, delayed: 3, inFlight: 3, exact: true });
  gate.resolve();
  await s.eventually('all to be acked', () => subscription.stats().acked === 3);
  await s.eventually('nothing but the delayed to be left', () => bus.lag(topic, 'g'), {
    until: ({ waiting, inFlight }) => waiting === 0 && inFlight === 0,
  });
  if (lag.exact) expect(await bus.lag(topic, 'g')).toEqual({ waiting: 0, delayed: 3, inFlight: 0, exact: true });
});

contract('POS-01', 'the lag falls as a group catches up, and expired or dead messages are no lag', async (s) => {
  const topic = s.topicName();
  await makeGroup(s, topic, 'g');
  const bus = await s.connect();
  for (let data = 0; data < 20; data++) await bus.publish(topic, data, data === 7 ? { ttl: 1 } : {});
  await s.eventually('twenty to be waiting', () => bus.lag(topic, 'g'), { until: ({ waiting }) => waiting === 20 });
  const record = s.recorder<number>(({ data }) => {
    if (data === 3) throw new Error('dies');
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 1 } }, record.handler);
  await record.waitFor(19);
  await s.eventually('no lag to be left', () => bus.lag(topic, 'g'), {
    until: ({ waiting, delayed, inFlight }) => waiting + delayed + inFlight === 0,
  });
});

contract('POS-02', "a new group starts where it was told to: 'latest', 'earliest', a time, a position", async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  if (!s.supports('log')) {
    for (const startNewGroupAt of ['earliest', new Date(), { position: '0' }] as const) {
      await s.unsupported('log', () => bus.subscribe(topic, { group: 'g', startNewGroupAt }, () => {}));
    }
    return;
  }
  // A group that reads along, so that the broker has a reason to keep nothing else.
  await makeGroup(s, topic, 'first');
  const positions: string[] = [];
  for (const data of [1, 2]) positions.push((await bus.publish(topic, data, { key })).position ?? '');
  await wait(20);
  const between = new Date();
  await wait(20);
  for (const data of [3, 4]) positions.push((await bus.publish(topic, data, { key })).position ?? '');
  expect(new Set(positions).size).toBe(4);

  const starts = {
    latest: 'latest',
    earliest: 'earliest',
    time: between,
    position: { position: positions[1] ?? '' },
    future: new Date(Date.now() + 3_600_000),
  } as const;
  const expected = { latest: [5], earliest: [1, 2, 3, 4, 5], time: [3, 4, 5], position: [2, 3, 4, 5], future: [5] };
  const records = new Map<string, ReturnType<typeof s.recorder<number>>>();
  for (const [group, startNewGroupAt] of Object.entries(starts)) {
    const record = s.recorder<number>();
    records.set(group, record);
    await bus.subscribe(topic, { group, startNewGroupAt }, record.handler);
  }
  await bus.publish(topic, 5, { key });
  for (const [group, data] of Object.entries(expected)) {
    const record = records.get(group);
    await record?.waitFor(data.length);
    expect(record?.data, group).toEqual(data);
  }
});

contract('POS-02', 'a group that exists keeps its place, wherever it is told to start', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  if (!s.supports('log')) return await s.unsupported('log', () => bus.seek(topic, 'g', 'earliest'));
  const first = s.recorder<number>();
  const subscription = await bus.subscribe(topic, { group: 'g' }, first.handler);
  for (const data of [1, 2]) await bus.publish(topic, data, { key });
  await first.waitFor(2);
  await subscription.close();
  await bus.publish(topic, 3, { key });
  const second = s.recorder<number>();
  const told = () => s.logs.filter(({ text }) => text.includes(topic) && text.includes('startNewGroupAt is ignored'));
  expect(told()).toEqual([]);
  await bus.subscribe(topic, { group: 'g', startNewGroupAt: 'earliest' }, second.handler);
  expect(told()).toHaveLength(1);
  await bus.publish(topic, 4, { key });
  await second.waitFor((seen) => seen.some(({ data }) => data === 4));
  expect(second.data).toEqual([3, 4]);
});

contract('POS-02', 'seek moves a group back and forth', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  if (!s.supports('log')) {
    for (const to of ['earliest', 'latest', new Date(), { position: '0' }] as const) {
      await s.unsupported('log', () => bus.seek(topic, 'g', to));
    }
    return;
  }
  const read = async (to: Parameters<typeof bus.seek>[2], last: number): Promise<number[]> => {
    await bus.seek(topic, 'g', to);
    const record = s.recorder<number>();
    const subscription = await bus.subscribe(topic, { group: 'g' }, record.handler);
    await record.waitFor((seen) => seen.some(({ data }) => data === last));
    await record.nothingMore();
    await s.eventually('all to be acked', () => subscription.stats().acked === record.count);
    await subscription.close();
    return record.data;
  };
  await makeGroup(s, topic, 'g');
  const positions: string[] = [];
  for (const data of [1, 2]) positions.push((await bus.publish(topic, data, { key })).position ?? '');
  await wait(20);
  const between = new Date();
  await wait(20);
  for (const data of [3, 4]) positions.push((await bus.publish(topic, data, { key })).position ?? '');
  expect(await read('earliest', 4)).toEqual([1, 2, 3, 4]);
  expect(await read('earliest', 4)).toEqual([1, 2, 3, 4]);
  expect(await read(between, 4)).toEqual([3, 4]);
  expect(await read({ position: positions[1] ?? '' }, 4)).toEqual([2, 3, 4]);
  await bus.seek(topic, 'g', 'earliest');
  await bus.seek(topic, 'g', 'latest');
  const record = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.publish(topic, 5, { key });
  await record.waitFor(1);
  await record.nothingMore();
  expect(record.data).toEqual([5]);
});

contract('POS-02', 'a seek moves the member that runs, and no other group', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  if (!s.supports('log')) return await s.unsupported('log', () => bus.seek(topic, 'g', 'earliest'));
  const [record, other] = [s.recorder<number>(), s.recorder<number>()];
  await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.subscribe(topic, { group: 'other' }, other.handler);
  for (const data of [1, 2, 3]) await bus.publish(topic, data, { key });
  await record.waitFor(3);
  await bus.seek(topic, 'g', 'earliest');
  await record.waitFor(6);
  await bus.publish(topic, 4, { key });
  await record.waitFor((seen) => seen.some(({ data }) => data === 4));
  expect(record.data).toEqual([1, 2, 3, 1, 2, 3, 4]);
  await other.waitFor(4);
  expect(other.data).toEqual([1, 2, 3, 4]);
});

contract('RET-01', 'nothing that was made expires by itself, and the capability says what was set', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>(({ attempt }) => {
    throw new RetryError({ after: attempt === 1 ? 100 : '10m' });
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 5 } }, record.handler);
  // With a delay and a retry under way, whatever they need has been made.
  await bus.publish(topic, 1, { delay: 200 });
  await record.waitFor(2);
  expect(await s.foreign.retentionFaults({ topic, group: 'g' })).toEqual([]);
  expect(s.capabilities.retention.length).toBeGreaterThan(10);
});

/** Only a log can move on without a group, a queue keeps what is not acked; and who tells of it can be made to. */
async function cannotTrim(s: Scenario): Promise<void> {
  if (!s.supports('tellsLostPosition')) return await s.unsupported('tellsLostPosition');
  expect(s.supports('log')).toBe(false);
}

contract('RET-02', 'a group whose place was lost says so, and goes on', async (s) => {
  const { trim } = s.foreign;
  if (trim === undefined) return await cannotTrim(s);
  const topic = s.topicName();
  await makeGroup(s, topic, 'g');
  const bus = await s.connect();
  for (let data = 0; data < 10; data++) await bus.publish(topic, data, { key });
  await trim(topic);
  const record = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.publish(topic, 10, { key });
  await record.waitFor((seen) => seen.some(({ data }) => data === 10), RECOVERY);
  if (!s.supports('tellsLostPosition')) return await s.unsupported('tellsLostPosition');
  const said = await s.eventually(
    'the loss to be logged',
    () => s.logs.filter(({ level, text }) => (level === 'error' || level === 'warn') && text.includes('position lost')),
    { until: ({ length }) => length > 0 },
  );
  expect(said[0]?.text).toContain(topic);
  const { subscriptions } = await bus.health();
  expect(subscriptions[0]?.error).toMatch(/./);
});

contract('RET-02', 'a group that has read everything loses nothing', async (s) => {
  const { trim } = s.foreign;
  if (trim === undefined) return await cannotTrim(s);
  const topic = s.topicName();
  const bus = await s.connect();
  const first = s.recorder<number>();
  const subscription = await bus.subscribe(topic, { group: 'g' }, first.handler);
  for (const data of [1, 2]) await bus.publish(topic, data, { key });
  await first.waitFor(2);
  await subscription.close();
  await trim(topic);
  const second = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, second.handler);
  await bus.publish(topic, 3, { key });
  await second.waitFor(1, RECOVERY);
  expect(second.data).toEqual([3]);
  expect(s.logs.filter(({ text }) => text.includes('position lost'))).toEqual([]);
});
