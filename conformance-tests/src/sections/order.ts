import { setTimeout as wait } from 'node:timers/promises';
import { topic as declare, RetryError, type Topic } from '@waybill/core';
import { expect } from 'vitest';
import { AT_ONCE, contract, RECOVERY, type Scenario, type Seen } from '../scenario.ts';

/** A message of these tests: the nth of its key. */
interface Step {
  readonly key: string;
  readonly n: number;
}

function ordered(name: string): Topic<Step> {
  return declare<Step>(name, { ordered: true, key: ({ key }) => key });
}

function steps(keys: readonly string[], count: number): { data: Step }[] {
  return Array.from({ length: count }, (_, n) => keys.map((key) => ({ data: { key, n } }))).flat();
}

/** More keys than a topic has lanes by default, so that some share one. */
const many = Array.from({ length: 12 }, (_, at) => `key-${at}`);

const numbersOf = (seen: readonly Seen<Step>[], key: string): number[] =>
  seen.filter(({ data }) => data.key === key).map(({ data }) => data.n);

/** Notes whether two handlers ever had one key at once. */
function together() {
  const running = new Map<string, number>();
  const overlaps: string[] = [];
  return {
    overlaps,
    async during({ key, n }: Step, work: () => unknown): Promise<void> {
      const other = running.get(key);
      if (other !== undefined) overlaps.push(`${key}: ${n} began while ${other} ran`);
      running.set(key, n);
      try {
        await work();
      } finally {
        running.delete(key);
      }
    },
  };
}

/** Every step of a key at least once, and never one before an earlier one of its key was handed out. */
function expectNoOvertaking(seen: readonly Seen<Step>[], key: string, count: number): void {
  const numbers = numbersOf(seen, key);
  let reached = -1;
  for (const n of numbers) {
    expect(n, `${key} came as ${numbers}`).toBeLessThanOrEqual(reached + 1);
    // After a step back, all that follows it comes again: it counts on from there.
    reached = n;
  }
  expect(new Set(numbers).size, `${key} came as ${numbers}`).toBe(count);
}

contract('ORD-01', 'messages of a key are handled one at a time, in stored order, by several members', async (s) => {
  const topic = ordered(s.topicName());
  // Enough for every lane, so that every member's share has some.
  const keys = Array.from({ length: 32 }, (_, at) => `key-${at}`);
  const guard = together();
  const records = [0, 1, 2].map(() =>
    s.recorder<Step>(({ data }) => guard.during(data, () => wait(1 + ((data.n * 7) % 5)))),
  );
  for (const record of records) {
    const bus = await s.connect();
    await bus.subscribe(topic, { group: 'g', lease: s.lease, concurrency: 8 }, record.handler);
  }
  const bus = await s.connect();
  const all = (): Seen<Step>[] => records.flatMap(({ seen }) => seen).sort((a, b) => a.at - b.at);
  // Rounds, until every member has got a share: a late one may need a moment to get its lanes.
  let rounds = 0;
  await s.eventually('every member to get a share', async () => {
    await bus.publishBatch(
      topic,
      keys.map((key) => ({ data: { key, n: rounds } })),
    );
    rounds++;
    await wait(50);
    return records.every(({ count }) => count > 0);
  });
  await bus.publishBatch(
    topic,
    Array.from({ length: 5 }, (_, at) => keys.map((key) => ({ data: { key, n: rounds + at } }))).flat(),
  );
  const last = rounds + 4;
  await s.eventually('the last of every key', () => keys.filter((key) => !numbersOf(all(), key).includes(last)), {
    until: ({ length }) => length === 0,
    within: RECOVERY + s.takeOver,
  });
  expect(guard.overlaps).toEqual([]);
  for (const key of keys) expectNoOvertaking(all(), key, last + 1);
});

contract('ORD-01', 'different keys run side by side, and one key never', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<Step>(() => gate.promise);
  await bus.subscribe(topic, { group: 'g', concurrency: 16 }, record.handler);
  await bus.publishBatch(topic, steps(many, 3));
  await record.waitFor(many.length);
  await record.nothingMore();
  // The first of each key, all at once.
  expect(record.running).toBe(many.length);
  expect(record.seen.map(({ data }) => data.n)).toEqual(many.map(() => 0));
  gate.resolve();
  await record.waitFor(3 * many.length);
  for (const key of many) expect(numbersOf(record.seen, key)).toEqual([0, 1, 2]);
});

contract('ORD-01', 'batches keep the order of each key', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const seen: Step[] = [];
  const guard = together();
  const options = { group: 'g', batch: { size: 5, wait: 50 }, concurrency: 4 };
  await bus.subscribeBatch(topic, options, async (messages) => {
    // Within a batch the handler sees the stored order; side by side, no two batches have one key.
    const keys = [...new Set(messages.map(({ data }) => data.key))];
    seen.push(...messages.map(({ data }) => data));
    await Promise.all(keys.map((key) => guard.during({ key, n: -1 }, () => wait(5))));
  });
  await bus.publishBatch(topic, steps(many, 6));
  await s.eventually('all messages', () => seen.length >= 6 * many.length);
  for (const key of many) expect(seen.filter((step) => step.key === key).map(({ n }) => n)).toEqual([0, 1, 2, 3, 4, 5]);
  expect(guard.overlaps).toEqual([]);
});

contract(
  'ORD-02',
  'a failing message holds back its key and no other, until it succeeds',
  async (s) => {
    const topic = ordered(s.topicName());
    const bus = await s.connect();
    let fixed = false;
    const record = s.recorder<Step>(({ data }) => {
      if (data.key === 'key-0' && data.n === 0 && !fixed) throw new Error('not yet');
    });
    const options = { group: 'g', retry: { attempts: 100, delay: 300 } };
    const subscription = await bus.subscribe(topic, options, record.handler);
    const others = many.slice(1);
    // Not only what is fetched together with the failing one: it goes on while that is tried again and again.
    for (let round = 0; round < 3; round++) {
      await bus.publishBatch(
        topic,
        many.map((key) => ({ data: { key, n: round } })),
      );
      await record.waitFor((seen) => others.every((key) => numbersOf(seen, key).includes(round)), AT_ONCE);
      await wait(500);
    }
    expect(new Set(numbersOf(record.seen, 'key-0'))).toEqual(new Set([0]));
    fixed = true;
    await record.waitFor((seen) => numbersOf(seen, 'key-0').includes(2));
    const attempts = record.seen
      .filter(({ data }) => data.key === 'key-0' && data.n === 0)
      .map(({ attempt }) => attempt);
    expect(attempts).toEqual(attempts.map((_, at) => at + 1));
    expect(numbersOf(record.seen, 'key-0')).toEqual([...attempts.map(() => 0), 1, 2]);
    await s.eventually('nothing to be held back', () => subscription.stats().heldBack === 0);
  },
  { timing: true },
);

contract('ORD-02', 'a dead letter lets its key go on', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const record = s.recorder<Step>(({ data }) => {
    if (data.n === 0) throw new Error('never');
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 300 } }, record.handler);
  await bus.publishBatch(topic, steps(['k'], 3));
  await record.waitFor(4);
  expect(numbersOf(record.seen, 'k')).toEqual([0, 0, 1, 2]);
  await s.eventually('one dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
});

/** More than one lane's window of followers (256), so that a lane that cannot see past them has to wait. */
const crowd = 600;

contract('ORD-02', 'followers of a held key stay bounded, and a lane that waits for them says so', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  let opened = false;
  const record = s.recorder<Step>(({ data }) => {
    if (data.key === 'held' && data.n === 0 && !opened) throw new RetryError({ after: 200 });
  });
  const options = { group: 'g', concurrency: 4, retry: { attempts: 10_000, delay: 0 } };
  const subscription = await bus.subscribe(topic, options, record.handler);
  await bus.publishBatch(topic, steps(['held'], crowd));
  // Behind the crowd: some of these share its lane.
  await bus.publishBatch(topic, steps(many, 1));
  const others = (): number => record.seen.filter(({ data }) => data.key !== 'held').length;
  await s.eventually('the other keys to flow, or a lane to wait and say so', () => {
    const { heldBack } = subscription.stats();
    return others() === many.length || heldBack > 0;
  });
  // The fetch goes on until it is stopped; what it holds stays bounded.
  await wait(1_500);
  const { heldBack, buffered } = subscription.stats();
  expect(heldBack).toBeLessThan(crowd - 1);
  expect(buffered).toBeLessThan(crowd - 1);
  if (others() < many.length) expect(heldBack).toBeGreaterThan(0);
  expect(new Set(numbersOf(record.seen, 'held'))).toEqual(new Set([0]));
  opened = true;
  // One after the other, which takes an emulator long that flushes for each of them.
  await record.waitFor((seen) => new Set(numbersOf(seen, 'held')).size === crowd, 2 * RECOVERY);
  const after = numbersOf(record.seen, 'held').filter((n) => n > 0);
  expect(after).toEqual(Array.from({ length: crowd - 1 }, (_, at) => at + 1));
  await s.eventually('the other keys to have flowed', () => others() === many.length);
});

contract(
  'ORD-03',
  'what a dead member held comes before the later messages of its key',
  async (s) => {
    const name = s.topicName();
    const topic = ordered(name);
    const options = { group: 'g', lease: s.lease, concurrency: 16 };
    const member = await s.member('consumer', { topic: name, ordered: true, options, work: 'hold' });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    const keys = many.slice(0, 5);
    await bus.publishBatch(topic, steps(keys, 4));
    await member.waitFor(() => member.told('received').length === keys.length);
    await member.kill();
    await bus.publishBatch(
      topic,
      keys.map((key) => ({ data: { key, n: 4 } })),
    );
    const guard = together();
    const record = s.recorder<Step>(({ data }) => guard.during(data, () => wait(5)));
    await bus.subscribe(topic, options, record.handler);
    await record.waitFor((seen) => keys.every((key) => numbersOf(seen, key).includes(4)), s.takeOver + RECOVERY);
    await record.nothingMore();
    for (const key of keys) expect(numbersOf(record.seen, key)).toEqual([0, 1, 2, 3, 4]);
    expect(guard.overlaps).toEqual([]);
  },
  { deadly: true },
);

contract(
  'ORD-03',
  'a member that stands by takes over a key where the dead one stopped',
  async (s) => {
    const name = s.topicName();
    const topic = ordered(name);
    const options = { group: 'g', lease: s.lease, concurrency: 16 };
    const bus = await s.connect();
    const record = s.recorder<Step>(() => wait(2));
    await bus.subscribe(topic, options, record.handler);
    const member = await s.member('consumer', { topic: name, ordered: true, options, work: 30 });
    await member.waitFor('subscribed');
    let rounds = 0;
    const round = async (): Promise<void> => {
      await bus.publishBatch(
        topic,
        many.map((key) => ({ data: { key, n: rounds } })),
      );
      rounds++;
    };
    await s.eventually('the member to have keys in hand', async () => {
      await round();
      return member.told('done').length > 3;
    });
    await member.kill();
    for (let more = 0; more < 3; more++) await round();
    const last = rounds - 1;
    await record.waitFor((seen) => many.every((key) => numbersOf(seen, key).includes(last)), s.takeOver + RECOVERY);
    // The dead one's calls and ours, in the order of the clock they share.
    const theirs = member.told('received').map(({ data, at }) => ({ data: data as Step, at }));
    const ours = record.seen.map(({ data, at }) => ({ data, at }));
    const all = [...theirs, ...ours].sort((a, b) => a.at - b.at) as unknown as Seen<Step>[];
    for (const key of many) expectNoOvertaking(all, key, last + 1);
  },
  { deadly: true },
);

contract(
  'ORD-03',
  'order holds while members come and go',
  async (s) => {
    const topic = ordered(s.topicName());
    const guard = together();
    const record = s.recorder<Step>(({ data }) => guard.during(data, () => wait(2)));
    const options = { group: 'g', lease: s.lease, concurrency: 4 };
    const keys = many.slice(0, 6);
    const publisher = await s.connect();
    await publisher.provision([{ topic, groups: ['g'] }]);
    let rounds = 0;
    let publishing = true;
    const publish = (async () => {
      while (publishing) {
        await publisher.publishBatch(
          topic,
          keys.map((key) => ({ data: { key, n: rounds } })),
        );
        rounds++;
        await wait(15);
      }
    })();
    publish.catch(() => {});
    s.afterwards(() => {
      publishing = false;
      return publish;
    });
    const join = async (): Promise<() => Promise<void>> => {
      const bus = await s.connect();
      const before = record.count;
      await bus.subscribe(topic, options, record.handler);
      await record.waitFor(before + 2 * keys.length, s.takeOver);
      return () => bus.close();
    };
    const leaves = [await join()];
    leaves.push(await join());
    leaves.push(await join());
    for (const leave of leaves.splice(0, 2)) {
      await leave();
      await record.waitFor(record.count + 2 * keys.length, s.takeOver);
    }
    leaves.push(await join());
    publishing = false;
    await publish;
    const last = rounds - 1;
    await record.waitFor((seen) => keys.every((key) => numbersOf(seen, key).includes(last)), s.takeOver + RECOVERY);
    for (const key of keys) expectNoOvertaking(record.seen, key, last + 1);
    expect(guard.overlaps).toEqual([]);
  },
  { timeout: (lease) => 120_000 + 8 * lease },
);

contract('ORD-04', 'a publish without a key, and one with a delay, are rejected at the call', async (s) => {
  const name = s.topicName();
  const keyless = declare<number>(name, { ordered: true, key: () => undefined as unknown as string });
  const keyed = declare<number>(name, { ordered: true, key: () => 'k' });
  const bus = await s.connect();
  const record = s.recorder<number>();
  await bus.subscribe(keyed, { group: 'g' }, record.handler);
  const invalid = (field: string): unknown => expect.objectContaining({ code: 'INVALID_MESSAGE', field });
  await expect(bus.publish(keyless, 1)).rejects.toEqual(invalid('key'));
  await expect(bus.publish(keyed, 1, { delay: '1s' })).rejects.toEqual(invalid('delay'));
  const deliverAt = new Date(Date.now() + 1_000);
  await expect(bus.publish(keyed, 1, { deliverAt })).rejects.toEqual(invalid('deliverAt'));
  // In a batch it is the message's own result.
  const results = await bus.publishBatch(keyed, [{ data: 1, delay: 50 }, { data: 2 }]);
  expect(results.map(({ ok }) => ok)).toEqual([false, true]);
  await bus.publish(keyed, 3);
  await record.waitFor(2);
  await record.nothingMore();
  expect(record.data).toEqual([2, 3]);
});

contract('ORD-04', 'a foreign message without a key is a key of its own', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<Step>(() => gate.promise);
  const subscription = await bus.subscribe(topic, { group: 'g', concurrency: 8 }, record.handler);
  const count = 4;
  for (let n = 0; n < count; n++) {
    const body = new TextEncoder().encode(JSON.stringify({ key: 'none', n }));
    await s.foreign.publish(topic.name, { body, contentType: 'application/json' });
  }
  // None waits for another.
  await record.waitFor(count);
  expect(record.running).toBe(count);
  gate.resolve();
  await s.eventually('all to be acked', () => subscription.stats().acked === count);
});

contract('ORD-04', 'a foreign message with a key stands in line with that key', async (s) => {
  // Where the broker has no keys of its own, a program that knows nothing of Waybill has none to give.
  if (!s.foreign.keys) return;
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  const record = s.recorder<Step>(() => gate.promise);
  await bus.subscribe(topic, { group: 'g', concurrency: 8 }, record.handler);
  for (let n = 0; n < 3; n++) {
    const body = new TextEncoder().encode(JSON.stringify({ key: 'k', n }));
    await s.foreign.publish(topic.name, { body, key: 'k', contentType: 'application/json' });
  }
  await record.waitFor(1);
  await record.nothingMore();
  expect(record.count).toBe(1);
  gate.resolve();
  await record.waitFor(3);
  expect(record.seen.map(({ data }) => data.n)).toEqual([0, 1, 2]);
  expect(record.seen.map(({ key }) => key)).toEqual(['k', 'k', 'k']);
});

contract('ORD-04', 'a redriven message goes behind what its key has waiting', async (s) => {
  const topic = ordered(s.topicName());
  const bus = await s.connect();
  const gate = Promise.withResolvers<void>();
  s.afterwards(() => gate.resolve());
  let fixed = false;
  const record = s.recorder<Step>(async ({ data }) => {
    if (data.n === 0 && !fixed) throw new Error('dies');
    if (data.n === 1) await gate.promise;
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 1 } }, record.handler);
  await bus.publish(topic, { key: 'k', n: 0 });
  await s.eventually('a dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
  for (const n of [1, 2, 3]) await bus.publish(topic, { key: 'k', n });
  await record.waitFor((seen) => seen.some(({ data }) => data.n === 1));
  fixed = true;
  expect(await bus.deadLetters(topic, 'g').redrive('all')).toBe(1);
  gate.resolve();
  await record.waitFor(5);
  await record.nothingMore();
  expect(numbersOf(record.seen, 'k')).toEqual([0, 1, 2, 3, 0]);
  expect(record.seen.at(-1)?.attempt).toBe(1);
});

/** Subscribes and publishes with a declaration that is wrong, and expects both to say so. */
async function expectRefused(s: Scenario, topic: Topic<Step>, what: string): Promise<void> {
  const config = expect.objectContaining({ code: 'CONFIG' });
  const bus = await s.connect();
  await expect(
    bus.subscribe(topic, { group: 'other' }, () => {}),
    `subscribe ${what}`,
  ).rejects.toEqual(config);
  const published = bus.publish(topic, { key: 'k', n: 0 }, { key: 'k' });
  await expect(published, `publish ${what}`).rejects.toEqual(config);
}

contract('ORD-05', 'a topic that was made ordered cannot be used as one without order, nor the reverse', async (s) => {
  const [name, plainName] = [s.topicName('ordered'), s.topicName('plain')];
  const key = (step: Step): string => step.key;
  const right = ordered(name);
  const plain = declare<Step>(plainName, { key, ordered: false });
  const bus = await s.connect();
  const [record, plainRecord] = [s.recorder<Step>(), s.recorder<Step>()];
  await bus.subscribe(right, { group: 'g' }, record.handler);
  await bus.subscribe(plain, { group: 'g' }, plainRecord.handler);
  if (s.supports('knowsOrder')) {
    await expectRefused(s, declare<Step>(name, { key, ordered: false }), 'without order');
    await expectRefused(s, ordered(plainName), 'with order');
  } else {
    await s.unsupported('knowsOrder');
  }
  // Nothing was altered, and the right declaration goes on working.
  await bus.publishBatch(right, steps(['a', 'b'], 3));
  await record.waitFor(6);
  expect(record.count).toBe(6);
  for (const one of ['a', 'b']) expect(numbersOf(record.seen, one)).toEqual([0, 1, 2]);
  await bus.publish(plain, { key: 'a', n: 7 });
  await plainRecord.waitFor(1);
});

contract('ORD-05', 'a number of lanes that disagrees with the broker is refused', async (s) => {
  const name = s.topicName();
  const key = (step: Step): string => step.key;
  const lanes = (count: number): Topic<Step> => declare<Step>(name, { ordered: true, key, lanes: count });
  const bus = await s.connect();
  const record = s.recorder<Step>();
  await bus.subscribe(lanes(3), { group: 'g' }, record.handler);
  await expectRefused(s, lanes(4), 'with more lanes');
  await expectRefused(s, lanes(2), 'with fewer lanes');
  // Undeclared lanes are taken as they stand.
  const other = await s.connect();
  await other.publishBatch(ordered(name), steps(many, 2));
  await record.waitFor(2 * many.length);
  for (const one of many) expect(numbersOf(record.seen, one)).toEqual([0, 1]);
});

contract('ORD-05', 'a bare name takes the order that the topic has', async (s) => {
  const name = s.topicName();
  const bus = await s.connect();
  await bus.provision([{ topic: ordered(name), groups: ['g'] }]);
  if (!s.supports('knowsOrder')) return await s.unsupported('knowsOrder');
  const guard = together();
  const record = s.recorder<unknown>(({ data }) => guard.during(data as Step, () => wait(5)));
  await bus.subscribe(name, { group: 'g', concurrency: 8 }, record.handler);
  await bus.publishBatch(
    name,
    steps(['a', 'b', 'c'], 5).map(({ data }) => ({ data, key: data.key })),
  );
  await record.waitFor(15);
  expect(guard.overlaps).toEqual([]);
  for (const one of ['a', 'b', 'c']) {
    expect(numbersOf(record.seen as readonly Seen<Step>[], one)).toEqual([0, 1, 2, 3, 4]);
  }
});
