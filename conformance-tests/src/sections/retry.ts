import { setTimeout as wait } from 'node:timers/promises';
import { topic as declare, type Message, PermanentError, RetryError } from '@waybill/core';
import { expect } from 'vitest';
import { expectInTime } from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY, type Scenario, type Seen } from '../scenario.ts';

const key = 'k';
/** Longer than any test, so that a retry by this delay is no retry. */
const never = '30m';

/** A handler that notes when it failed, and the recorder that saw its calls. */
function failing(s: Scenario, fail: (message: Message<unknown>, call: number) => unknown) {
  const failedAt: number[] = [];
  const record = s.recorder<unknown>(async (message, call) => {
    try {
      await fail(message, call);
    } catch (error) {
      failedAt.push(performance.now());
      throw error;
    }
  });
  return { record, failedAt };
}

function attempts(seen: readonly Seen[]): number[] {
  return seen.map(({ attempt }) => attempt);
}

contract(
  'RETRY-01',
  'a throw is retried after the delays of the policy, up to its attempts',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const { record, failedAt } = failing(s, () => {
      throw new Error('never works');
    });
    const delays = [200, 900];
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 3, delay: delays } }, record.handler);
    await bus.publish(topic, 1);
    await record.waitFor(3);
    await s.eventually('a dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
    await record.nothingMore();
    expect(attempts(record.seen)).toEqual([1, 2, 3]);
    delays.forEach((delay, at) => {
      expectInTime(`attempt ${at + 2}`, failedAt[at] ?? 0, delay, record.seen[at + 1]?.at);
    });
  },
  { timing: true },
);

contract(
  'RETRY-01',
  'delays grow by their factor up to their maximum',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const { record, failedAt } = failing(s, () => {
      throw new Error('never works');
    });
    const delay = { initial: 150, factor: 4, max: 1_000, jitter: false };
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 4, delay } }, record.handler);
    await bus.publish(topic, 1);
    await record.waitFor(4);
    [150, 600, 1_000].forEach((due, at) => {
      expectInTime(`attempt ${at + 2}`, failedAt[at] ?? 0, due, record.seen[at + 1]?.at);
    });
  },
  { timing: true },
);

contract('RETRY-01', 'a success ends the retries, and a delay function is asked', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const asked: unknown[] = [];
  const record = s.recorder<number>(({ attempt }) => {
    if (attempt < 3) throw new Error(`attempt ${attempt}`);
  });
  const delay = (attempt: number, error: unknown): number => {
    asked.push([attempt, (error as Error).message]);
    return 50;
  };
  const subscription = await bus.subscribe(topic, { group: 'g', retry: { attempts: 5, delay } }, record.handler);
  const { id } = await bus.publish(topic, 1, { headers: { 'x-trace': 'ü' } });
  await s.eventually('an ack', () => subscription.stats().acked === 1);
  await record.nothingMore();
  expect(attempts(record.seen)).toEqual([1, 2, 3]);
  expect(asked).toEqual([
    [1, 'attempt 1'],
    [2, 'attempt 2'],
  ]);
  // Every attempt sees the same message.
  expect(record.ids).toEqual([id, id, id]);
  expect(record.seen.map(({ message }) => message.headers['x-trace'])).toEqual(['ü', 'ü', 'ü']);
  expect(new Set(record.seen.map(({ message }) => message.publishedAt.getTime())).size).toBe(1);
  expect(subscription.stats()).toMatchObject({ acked: 1, retried: 2, deadLettered: 0 });
});

contract(
  'RETRY-01',
  'on an ordered topic delays and attempts are the same',
  async (s) => {
    const topic = declare<number>(s.topicName(), { ordered: true, key: () => key });
    const bus = await s.connect();
    const { record, failedAt } = failing(s, ({ data }) => {
      if (data === 1) throw new Error('never works');
      if (data === 2) throw new PermanentError('cannot work');
    });
    const delays = [200, 900];
    const subscription = await bus.subscribe(
      topic,
      { group: 'g', retry: { attempts: 3, delay: delays } },
      record.handler,
    );
    for (const data of [1, 2, 3]) await bus.publish(topic, data);
    await record.waitFor(5);
    await s.eventually('two dead letters', async () => (await bus.deadLetters(topic, 'g').count()).value === 2);
    expect(record.data).toEqual([1, 1, 1, 2, 3]);
    expect(attempts(record.seen)).toEqual([1, 2, 3, 1, 1]);
    delays.forEach((delay, at) => {
      expectInTime(`attempt ${at + 2}`, failedAt[at] ?? 0, delay, record.seen[at + 1]?.at);
    });
    await s.eventually('the counts to be right', () => subscription.stats(), {
      until: ({ acked, retried, deadLettered }) => acked === 1 && retried === 2 && deadLettered === 2,
    });
  },
  { timing: true },
);

contract(
  'RETRY-01',
  'a broadcast is retried for the subscription that failed, and dropped after the last attempt',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const fails = s.recorder<string>(() => {
      throw new Error('never works');
    });
    const works = s.recorder<string>();
    const retry = { attempts: 3, delay: 50 };
    const failing = await bus.subscribe(topic, { broadcast: true, retry }, fails.handler);
    await bus.subscribe(topic, { broadcast: true, retry }, works.handler);
    await bus.publish(topic, 'message');
    await s.eventually('the message to be dropped', () => failing.stats().dropped === 1);
    await fails.nothingMore();
    expect(attempts(fails.seen)).toEqual([1, 2, 3]);
    expect(works.data).toEqual(['message']);
    expect(s.logs.filter(({ level, text }) => level === 'warn' && text.includes('dropped'))).not.toEqual([]);
  },
);

contract('RETRY-02', 'the attempt number survives a restart of the process', async (s) => {
  const topic = s.topicName();
  const options = { group: 'g', lease: s.lease, retry: { attempts: 3, delay: 1_500 } };
  const member = await s.member('consumer', { topic, options, work: 'throw' });
  await member.waitFor('subscribed');
  const bus = await s.connect();
  await bus.publish(topic, 1);
  await member.waitFor('received');
  await member.close();
  expect(member.told('received').map(({ attempt }) => attempt)).toEqual([1]);

  const record = s.recorder<number>(() => {
    throw new Error('still not');
  });
  await bus.subscribe(topic, options, record.handler);
  await record.waitFor(2);
  await s.eventually('a dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
  await record.nothingMore();
  expect(attempts(record.seen)).toEqual([2, 3]);
});

contract(
  'RETRY-02',
  'a crash between two attempts costs none of them',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease, retry: { attempts: 3, delay: 1_000 } };
    const member = await s.member('consumer', { topic, options, work: 'throw' });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    await bus.publish(topic, 1);
    await member.waitFor('received');
    // Before, while or after the retry is scheduled: nobody knows.
    await member.kill();
    const record = s.recorder<number>(() => {
      throw new Error('still not');
    });
    await bus.subscribe(topic, options, record.handler);
    // Never set aside before three real calls. Where the copy was written and the death came before its ack, there
    // are two of the message from then on, each with its own three attempts.
    await s.eventually('a dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value >= 1, {
      within: s.takeOver + RECOVERY,
    });
    const calls = member.told('received').length + record.count;
    expect(calls).toBeGreaterThanOrEqual(3);
    // The original of a message that is there twice comes when its lease ends.
    await s.eventually('the calls to end', () => performance.now() - (record.seen.at(-1)?.at ?? 0), {
      until: (quiet) => quiet > s.lease + 2_500,
      within: 3 * s.takeOver + RECOVERY,
    });
    expect(Math.max(...attempts(record.seen))).toBe(3);
    expect(record.count).toBeLessThanOrEqual(5);
    const letters = await bus.deadLetters(topic, 'g').peek();
    expect(new Set(letters.map((letter) => letter.attempts))).toEqual(new Set([3]));
  },
  // Two chains of attempts, each behind leases.
  { deadly: true, timeout: (lease) => 120_000 + 8 * lease },
);

contract('RETRY-02', 'on an ordered topic a restart never costs an attempt', async (s) => {
  const topic = declare<number>(s.topicName(), { ordered: true, key: () => key });
  const options = { group: 'g', lease: s.lease, retry: { attempts: 3, delay: 1_000 } };
  const first = await s.connect();
  const fail = (): never => {
    throw new Error('not yet');
  };
  const before = s.recorder<number>(fail);
  const subscription = await first.subscribe(topic, options, before.handler);
  await first.publish(topic, 1);
  await before.waitFor(1);
  await s.eventually('the retry to be decided', () => subscription.stats().retried === 1);
  await first.close();

  const second = await s.connect();
  const after = s.recorder<number>(fail);
  await second.subscribe(topic, options, after.handler);
  await s.eventually('a dead letter', async () => (await second.deadLetters(topic, 'g').count()).value === 1, {
    within: s.takeOver + RECOVERY,
  });
  const all = [...attempts(before.seen), ...attempts(after.seen)];
  if (s.supports('orderedAttempts')) expect(all).toEqual([1, 2, 3]);
  else expect([...new Set(all)]).toEqual([1, 2, 3]);
  expect(all.length).toBeGreaterThanOrEqual(3);
});

contract('RETRY-03', 'only the group that failed sees the retry', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const fails = s.recorder<string>(({ data, attempt }) => {
    if (data === 'message' && attempt < 3) throw new Error('again');
  });
  const works = s.recorder<string>();
  await bus.subscribe(topic, { group: 'fails', retry: { attempts: 3, delay: 100 } }, fails.handler);
  await bus.subscribe(topic, { group: 'works' }, works.handler);
  const foreign = await s.foreign.read(topic);
  s.afterwards(() => foreign.close());
  await bus.publish(topic, 'message', { key });
  await fails.waitFor(3);
  await bus.publish(topic, 'marker', { key });
  await works.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
  await fails.waitFor(4);
  await works.nothingMore();
  expect(works.data).toEqual(['message', 'marker']);
  expect(fails.data).toEqual(['message', 'message', 'message', 'marker']);
  // Nor does a program that knows nothing of Waybill.
  const text = async (): Promise<string> => new TextDecoder().decode((await foreign.next(AT_ONCE)).body);
  expect([await text(), await text()]).toEqual(['"message"', '"marker"']);
});

/** Messages that wait in RETRY-04: as many as there is time for, in steps, and never fewer than a step. */
const crowd = { most: 100_000, step: 2_000, time: 20_000 };

contract(
  'RETRY-04',
  'others flow while a crowd waits for its retry',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const arrived = new Map<number, number>();
    const subscription = await bus.subscribe<string>(
      topic,
      { group: 'g', concurrency: 64, retry: { attempts: 2, delay: never } },
      ({ data }) => {
        if (typeof data !== 'number') throw new Error('waits');
        arrived.set(data, performance.now());
      },
    );
    const started = performance.now();
    let waiting = 0;
    while (waiting < crowd.most && performance.now() - started < crowd.time) {
      const results = await bus.publishBatch(
        topic,
        Array.from({ length: crowd.step }, () => ({ data: 'waits' })),
      );
      expect(results.every(({ ok }) => ok)).toBe(true);
      waiting += crowd.step;
      await s.eventually('the step to wait for its retry', () => subscription.stats().retried, {
        // More, where a connection that broke under the load has doubled some.
        until: (retried) => retried >= waiting,
        within: 60_000,
      });
    }
    for (let probe = 0; probe < 20; probe++) {
      const sent = performance.now();
      await bus.publish(topic, probe);
      await s.eventually(`message ${probe} behind ${waiting} that wait`, () => arrived.has(probe), { within: AT_ONCE });
      expect((arrived.get(probe) ?? 0) - sent).toBeLessThan(AT_ONCE);
    }
    expect(subscription.stats().deadLettered).toBe(0);
  },
  { timing: true, timeout: () => 180_000 },
);

contract(
  'RETRY-05',
  'delays of any length are neither early nor late',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const asked = [0, 40, 350, 1_100, 2_700, 5_300];
    const failedAt = new Map<number, number>();
    const record = s.recorder<number>(({ data, attempt }) => {
      if (attempt > 1) return;
      failedAt.set(data, performance.now());
      throw new RetryError({ after: data });
    });
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: never } }, record.handler);
    // One at a time: the machine is to be idle.
    for (const data of asked) {
      await bus.publish(topic, data);
      await record.waitFor((seen) => seen.some((one) => one.data === data && one.attempt === 2));
    }
    for (const delay of asked) {
      const again = record.of(delay).find(({ attempt }) => attempt === 2);
      expectInTime('a retry', failedAt.get(delay) ?? 0, delay, again?.at);
    }
  },
  { timing: true },
);

contract('RETRY-05', 'very long delays do not end early, and the longest is accepted', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const { maxDelay } = s.capabilities;
  const day = 86_400_000;
  // 25 days are more than a 32-bit number of milliseconds.
  const asked = [day, 10 * day, 25 * day, 60 * day, maxDelay].filter((one) => one <= maxDelay && Number.isFinite(one));
  expect(maxDelay).toBeGreaterThanOrEqual(day);
  const record = s.recorder<number>(({ data }) => {
    if (data > 1) throw new RetryError({ after: data });
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry: { attempts: 3 } }, record.handler);
  for (const data of asked) await bus.publish(topic, data, { key });
  await s.eventually('all to wait', () => subscription.stats().retried === asked.length);
  await bus.publish(topic, 1, { key, delay: 1_000 });
  for (const delay of asked) await bus.publish(topic, 0, { key, delay });
  await record.waitFor((seen) => seen.some(({ data }) => data === 1));
  await record.nothingMore(1_000);
  expect([...record.data].sort((a, b) => a - b)).toEqual([...asked, 1].sort((a, b) => a - b));
  const lag = await bus.lag(topic, 'g');
  if (lag.exact) expect(lag).toMatchObject({ delayed: 2 * asked.length, waiting: 0 });
});

contract('RETRY-05', 'a delay beyond the longest is refused', async (s) => {
  const { maxDelay } = s.capabilities;
  if (maxDelay === Number.POSITIVE_INFINITY) return;
  const topic = s.topicName();
  const bus = await s.connect();
  const tooLong = maxDelay + 1;
  const unsupported = expect.objectContaining({ code: 'UNSUPPORTED', capability: 'maxDelay' });
  await expect(bus.publish(topic, 1, { delay: tooLong })).rejects.toEqual(unsupported);
  await expect(bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: tooLong } }, () => {})).rejects.toEqual(
    unsupported,
  );
  let thrown: unknown;
  const record = s.recorder<number>(async (message) => {
    try {
      await message.retry({ after: tooLong });
    } catch (error) {
      thrown = error;
    }
  });
  const subscription = await bus.subscribe(topic, { group: 'g' }, record.handler);
  await bus.publish(topic, 2);
  await s.eventually('the message to be acked', () => subscription.stats().acked === 1);
  expect(thrown).toEqual(unsupported);
  // What was refused was not published either.
  expect(record.data).toEqual([2]);
});

contract(
  'RETRY-06',
  'RetryError sets the delay, PermanentError goes to the dead letters at once',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const { record, failedAt } = failing(s, ({ data, attempt }) => {
      if (data === 'permanent') throw new PermanentError('no such customer');
      if (data === 'soon' && attempt === 1) throw new RetryError({ after: 400 });
    });
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 5, delay: never } }, record.handler);
    await bus.publish(topic, 'soon');
    await record.waitFor(2);
    expectInTime('the retry', failedAt[0] ?? 0, 400, record.seen[1]?.at);
    await bus.publish(topic, 'permanent');
    const letters = await s.eventually('a dead letter', () => bus.deadLetters(topic, 'g').peek(), {
      until: (found) => found.length === 1,
      within: AT_ONCE,
    });
    expect(letters[0]).toMatchObject({
      data: 'permanent',
      attempts: 1,
      reason: 'rejected',
      error: { name: 'PermanentError', message: 'no such customer' },
    });
    await record.nothingMore();
    expect(record.data).toEqual(['soon', 'soon', 'permanent']);
  },
  { timing: true },
);

contract('RETRY-06', 'RetryError without a delay takes the delay and the attempts of the policy', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>(() => {
    throw new RetryError();
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 50 } }, record.handler);
  await bus.publish(topic, 1);
  await record.waitFor(2);
  await s.eventually('a dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
  expect(attempts(record.seen)).toEqual([1, 2]);
});

/** Handler calls of a killer before it is set aside, at most: `attempts` beside others, then `attempts` alone. */
const mostDeaths = (allowed: number): number => 2 * allowed + 1;

contract(
  'RETRY-07',
  'a message that kills its process is set aside, and those beside it are not',
  async (s) => {
    const topic = s.topicName();
    const allowed = 2;
    const bus = await s.connect();
    const options = { group: 'g', lease: s.lease, concurrency: 1, retry: { attempts: allowed, delay: 50 } };
    const start = () => s.member('consumer', { topic, options, workFor: { killer: 'crash' } });
    let member = await start();
    await member.waitFor('subscribed');
    const innocents = ['a', 'b', 'c', 'd'];
    for (const data of ['killer', ...innocents]) await bus.publish(topic, data, { key });
    const letters = bus.deadLetters(topic, 'g');
    const handled = new Set<unknown>();
    const most = mostDeaths(allowed);
    let deaths = 0;
    while (deaths <= most) {
      const died = await Promise.race([
        member.ended.then(() => true),
        s.eventually('the killer to be set aside', async () => (await letters.count()).value > 0, {
          within: s.takeOver + RECOVERY,
        }),
      ]).catch(() => false);
      for (const { data } of member.told('done')) handled.add(data);
      if ((await letters.count()).value > 0) break;
      if (!died) throw new Error(`after ${deaths} deaths the killer was neither handed out again nor set aside`);
      deaths++;
      if (!s.supports('countsDeliveries') && deaths > allowed + 2) break;
      member = await start();
    }
    if (!s.supports('countsDeliveries')) {
      // Here the killer goes on for ever, and what stands beside it must not be blamed for it.
      expect(await letters.count()).toMatchObject({ value: 0 });
      const healthy = s.recorder<string>();
      await bus.subscribe(topic, options, healthy.handler);
      const missing = innocents.filter((one) => !handled.has(one));
      await healthy.waitFor(
        (seen) => ['killer', ...missing].every((one) => seen.some(({ data }) => data === one)),
        s.takeOver + RECOVERY,
      );
      await s.unsupported('countsDeliveries');
      return;
    }
    expect(deaths).toBeGreaterThanOrEqual(allowed);
    expect(deaths).toBeLessThanOrEqual(most);
    await s.eventually('the innocent to be handled', () => {
      for (const { data } of member.told('done')) handled.add(data);
      return innocents.every((one) => handled.has(one));
    });
    const dead = await letters.peek();
    expect(dead.map(({ data, reason }) => [data, reason])).toEqual([['killer', 'crashed']]);
    expect(dead[0]?.attempts).toBeGreaterThanOrEqual(allowed);
  },
  { deadly: true, timeout: (lease) => 120_000 + 8 * lease },
);

contract(
  'RETRY-07',
  'a message that no handler was given is never set aside',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease, concurrency: 1, retry: { attempts: 2, delay: 50 } };
    const bus = await s.connect();
    const innocents = ['b', 'c', 'd', 'e'];
    const handed = new Set<unknown>();
    // Each death returns what stood in the buffer beside the head of the line, and the broker counts that.
    for (let deaths = 0; deaths < 4; deaths++) {
      const member = await s.member('consumer', { topic, options, work: 'hold' });
      await member.waitFor('subscribed');
      if (deaths === 0) for (const data of ['head', ...innocents]) await bus.publish(topic, data, { key });
      await member.waitFor('received', s.takeOver + RECOVERY);
      for (const { data } of member.told('received')) handed.add(data);
      await member.kill();
      // All of them are to be back in line, so that the head is the head again; SQS hides for whole seconds, and more.
      await wait(s.lease + 1_500);
    }
    const untouched = innocents.filter((one) => !handed.has(one));
    const record = s.recorder<string>();
    await bus.subscribe(topic, options, record.handler);
    // All that were ever seen: where a look hides them for a while, the next one does not see them.
    const dead = new Set<unknown>();
    const look = async (): Promise<void> => {
      for (const { data } of await bus.deadLetters(topic, 'g').peek()) dead.add(data);
    };
    // What died in a handler's hands may come alone, after the others, or be a dead letter by then.
    await s.eventually(
      'each to be handled or dead',
      async () => {
        await look();
        return ['head', ...innocents].filter((one) => record.of(one).length === 0 && !dead.has(one));
      },
      { until: ({ length }) => length === 0, within: s.takeOver + RECOVERY },
    );
    // One of those that were handed out may be there twice; the others came once.
    await wait(500);
    await look();
    expect(untouched.length).toBeGreaterThan(0);
    expect([...dead].filter((data) => !handed.has(data))).toEqual([]);
    for (const one of untouched) expect(record.of(one).map(({ attempt }) => attempt)).toEqual([1]);
  },
  { deadly: true, timeout: (lease) => 120_000 + 12 * lease },
);

contract('RETRY-08', 'what a closing member gives back has used up no attempt', async (s) => {
  const topic = s.topicName();
  const options = { group: 'g', lease: s.lease, concurrency: 1, retry: { attempts: 2, delay: 50 } };
  const record = s.recorder<number>();
  const publisher = await s.connect();
  const count = 8;
  // Each member takes a buffer full, handles one and leaves in good order.
  for (let member = 0; member < 4; member++) {
    const bus = await s.connect();
    const gate = Promise.withResolvers<void>();
    const one = s.recorder<number>(() => gate.promise);
    const handled = record.count;
    const subscription = await bus.subscribe(topic, options, async (message) => {
      await record.handler(message);
      await one.handler(message);
    });
    if (member === 0) {
      await publisher.publishBatch(
        topic,
        Array.from({ length: count }, (_, data) => ({ data, key })),
      );
    }
    await record.waitFor(handled + 1);
    const closed = subscription.close();
    gate.resolve();
    await closed;
    await bus.close();
  }
  await publisher.subscribe(topic, options, record.handler);
  await record.waitFor(count);
  await record.nothingMore();
  expect(attempts(record.seen)).toEqual(Array.from({ length: count }, () => 1));
  expect([...record.data].sort()).toEqual(Array.from({ length: count }, (_, data) => data));
});

contract('RETRY-08', 'a pause that gives back what is buffered uses up no attempt', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<number>(({ data }) => (data === 0 ? gate.promise : undefined));
  const options = { group: 'g', lease: s.lease, concurrency: 1, retry: { attempts: 1 } };
  const subscription = await bus.subscribe(topic, options, record.handler);
  await bus.publishBatch(topic, [
    { data: 0, key },
    { data: 1, key },
    { data: 2, key },
  ]);
  await record.waitFor(1);
  for (let pauses = 0; pauses < 3; pauses++) {
    const paused = subscription.pause();
    if (pauses === 0) gate.resolve();
    await paused;
    await subscription.resume();
  }
  await record.waitFor(3);
  await record.nothingMore();
  expect(attempts(record.seen)).toEqual([1, 1, 1]);
  expect((await bus.deadLetters(topic, 'g').count()).value).toBe(0);
});

contract('RETRY-08', 'on an ordered topic giving back uses up no attempt either', async (s) => {
  const topic = declare<number>(s.topicName(), { ordered: true, key: (data) => `key-${data % 3}` });
  const options = { group: 'g', lease: s.lease, concurrency: 1, retry: { attempts: 1 } };
  const publisher = await s.connect();
  await publisher.provision([{ topic, groups: ['g'] }]);
  const count = 9;
  await publisher.publishBatch(
    topic,
    Array.from({ length: count }, (_, data) => ({ data })),
  );
  const record = s.recorder<number>();
  // Each member handles at least one, in spite of a pause, and leaves with a buffer full.
  for (let member = 0; member < 3; member++) {
    const bus = await s.connect();
    const gate = Promise.withResolvers<void>();
    s.afterwards(() => gate.resolve());
    const handled = record.count;
    const subscription = await bus.subscribe(topic, options, async (message) => {
      await record.handler(message);
      await gate.promise;
    });
    await record.waitFor(handled + 1, s.takeOver + RECOVERY);
    const paused = subscription.pause();
    const closed = bus.close();
    gate.resolve();
    await Promise.all([paused, closed]);
  }
  await publisher.subscribe(topic, options, record.handler);
  await record.waitFor(count, s.takeOver + RECOVERY);
  await record.nothingMore();
  expect(attempts(record.seen)).toEqual(Array.from({ length: count }, () => 1));
  for (const rest of [0, 1, 2]) {
    expect(record.data.filter((data) => data % 3 === rest)).toEqual([rest, rest + 3, rest + 6]);
  }
  expect((await publisher.deadLetters(topic, 'g').count()).value).toBe(0);
});

contract(
  'RETRY-09',
  'a retry that cannot be scheduled leaves the message with the broker',
  async (s) => {
    const topic = s.topicName();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const cut = Promise.withResolvers<void>();
    const record = s.recorder<number>(async ({ attempt }) => {
      if (attempt > 1 || record.count > 1) return;
      await cut.promise;
      throw new Error('and the broker is away');
    });
    // The long lease shows that the message is not merely found again when its lease ends.
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 3, delay: 100 } }, record.handler);
    const outside = await s.connect();
    await outside.publish(topic, 1);
    await record.waitFor(1);
    await link.cut('reset');
    cut.resolve();
    await s.eventually('the handler to end', () => record.running === 0);
    // Time for the first tries, which all fail.
    await wait(500);
    await link.mend();
    await record.waitFor(2, RECOVERY + s.takeOver);
  },
  { deadly: true },
);

contract(
  'RETRY-09',
  'a retry whose confirmation is lost may come twice, but comes',
  async (s) => {
    const topic = s.topicName();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const cut = Promise.withResolvers<void>();
    const record = s.recorder<number>(async ({ attempt }) => {
      if (attempt > 1 || record.count > 1) return;
      await cut.promise;
      throw new Error('and the answers are lost');
    });
    await bus.subscribe(topic, { group: 'g', lease: s.lease, retry: { attempts: 3, delay: 100 } }, record.handler);
    const outside = await s.connect();
    await outside.publish(topic, 1);
    await record.waitFor(1);
    await link.loseReplies();
    cut.resolve();
    await s.eventually('the handler to end', () => record.running === 0);
    await wait(300);
    await link.cut('reset');
    await link.mend();
    await record.waitFor(2, RECOVERY + s.takeOver);
    expect((await outside.deadLetters(topic, 'g').count()).value).toBe(0);
  },
  { deadly: true },
);
