import { type ConfigError, topic as declare, type Subscription, WaybillError } from '@waybill/core';
import { expect } from 'vitest';
import { z } from 'zod';
import {
  doubles,
  failureWith,
  gate,
  lostAckWatch,
  oneGroup,
  publishAll,
  range,
  sorted,
  steadyLease,
} from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY, type Scenario, settles } from '../scenario.ts';

contract('SUB-01', 'gives two groups every message', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const [a, b] = [s.recorder<number>(), s.recorder<number>()];
  await bus.subscribe(topic, { group: 'a' }, a.handler);
  await bus.subscribe(topic, { group: 'b' }, b.handler);
  await publishAll(bus, topic, range(1, 60));
  for (const recorder of [a, b]) {
    await recorder.waitFor(60);
    await recorder.nothingMore();
    expect(sorted(recorder.data)).toEqual(range(1, 60));
  }
  expect(new Set(a.seen.map(({ group }) => group))).toEqual(new Set(['a']));
});

contract('SUB-01', 'shares a group between its members, each message to one', async (s) => {
  const topic = s.topicName();
  const members = [s.recorder<number>(pause), s.recorder<number>(pause), s.recorder<number>(pause)];
  for (const member of members) {
    const bus = await s.connect();
    await bus.subscribe(topic, { group: 'g', concurrency: 2 }, member.handler);
  }
  const publisher = await s.connect();
  const all = (): number[] => members.flatMap(({ data }) => data);
  await publishAll(publisher, topic, range(1, 120));
  await s.eventually('all are handled', () => all().length >= 120);
  await members[0]?.nothingMore();
  expect(sorted(all())).toEqual(range(1, 120));
  for (const [n, member] of members.entries()) expect(member.count, `share of member ${n + 1}`).toBeGreaterThan(0);
});

async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 10));
}

contract(
  'SUB-02',
  'has made the group when it resolves: a death before the first receive loses nothing',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease };
    const member = await s.member('consumer', { topic, options });
    await member.waitFor('subscribed');
    await member.kill();
    const bus = await s.connect();
    await publishAll(bus, topic, range(1, 10));
    const recorder = s.recorder<number>();
    await bus.subscribe(topic, options, recorder.handler);
    await recorder.waitFor(10, s.takeOver + RECOVERY);
    expect(sorted(recorder.data)).toEqual(range(1, 10));
  },
  { deadly: true },
);

contract('SUB-02', 'reaches a group with what is published right after it', async (s) => {
  if (!s.supports('groups')) return await oneGroup(s);
  const [bus, publisher] = [await s.connect(), await s.connect()];
  for (const n of range(1, 4)) {
    const topic = s.topicName();
    await publisher.publish(topic, 'before');
    const recorder = s.recorder();
    await bus.subscribe(topic, { group: 'g', concurrency: 1 }, recorder.handler);
    await publisher.publish(topic, n);
    await recorder.waitFor(1);
    // A new group starts at the end of the topic.
    expect(recorder.data).toEqual([n]);
  }
});

contract('SUB-03', 'delivers what was published while all members were away', async (s) => {
  const topic = s.topicName();
  const [first, publisher, second] = [await s.connect(), await s.connect(), await s.connect()];
  const [early, late] = [s.recorder<number>(), s.recorder<number>()];
  await first.subscribe(topic, { group: 'g' }, early.handler);
  await publishAll(publisher, topic, range(1, 5));
  await early.waitFor(5);
  await first.close();
  await publishAll(publisher, topic, range(6, 40));
  await second.subscribe(topic, { group: 'g' }, late.handler);
  await late.waitFor(35);
  await late.nothingMore();
  expect(sorted(late.data)).toEqual(range(6, 40));
});

contract('SUB-04', 'runs no more handlers than concurrency', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<number>(pause);
  await bus.subscribe(topic, { group: 'g', concurrency: 3 }, recorder.handler);
  await publishAll(bus, topic, range(1, 90));
  await recorder.waitFor(90);
  expect(recorder.mostRunning).toBeLessThanOrEqual(3);
});

/** Messages ahead of `concurrency` handlers: far more than any adapter needs to keep them busy. */
const GENEROUS = 500;

contract('SUB-04', 'leaves with the broker what slow handlers have no room for', async (s) => {
  const topic = s.topicName();
  const [bus, publisher] = [await s.connect(), await s.connect()];
  const held = gate();
  s.afterwards(held.open);
  const recorder = s.recorder<number>(() => held.opened);
  const subscription = await bus.subscribe(topic, { group: 'g', concurrency: 2 }, recorder.handler);
  await publishAll(publisher, topic, range(1, 700));
  await recorder.waitFor(2);
  await recorder.nothingMore();
  const { buffered, inFlight, received } = subscription.stats();
  expect(inFlight).toBe(2);
  expect(buffered).toBeLessThan(GENEROUS);
  expect(received).toBeLessThan(GENEROUS);
  held.open();
  // Few are in hand at a time, and an emulator that flushes for each of them takes long for all.
  await recorder.waitFor(700, 45_000);
  expect(sorted(recorder.data)).toEqual(range(1, 700));
});

contract('SUB-04', 'bounds the bytes of large messages ahead of slow handlers', async (s) => {
  const topic = s.topicName();
  const [bus, publisher] = [await s.connect(), await s.connect()];
  const held = gate();
  s.afterwards(held.open);
  const recorder = s.recorder<Uint8Array>(() => held.opened);
  const subscription = await bus.subscribe(topic, { group: 'g', concurrency: 64 }, recorder.handler);
  const size = Math.min(s.capabilities.maxMessageBytes, 900_000);
  const count = 96;
  await publishAll(publisher, topic, Array(count).fill(new Uint8Array(size)));
  await recorder.waitFor(1);
  await s.eventually('the buffer stands', async () => {
    const before = subscription.stats().received;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return subscription.stats().received === before;
  });
  const { buffered } = subscription.stats();
  // 32 MiB ahead of the handlers are documented nowhere and enough everywhere.
  expect(buffered * size).toBeLessThan(32 * 1_048_576);
  held.open();
  await recorder.waitFor(count);
});

contract(
  'SUB-04',
  'keeps the memory of a process flat that cannot keep up',
  async (s) => {
    // Here broker and member share one memory, and nothing can be told apart in it.
    if (s.broker.inProcess) return;
    const topic = s.topicName();
    const bus = await s.connect();
    const member = await s.member('consumer', { topic, options: { group: 'g', concurrency: 2 }, work: 'hold' });
    await member.waitFor('subscribed');
    const size = Math.min(s.capabilities.maxMessageBytes, 900_000);
    const count = 120;
    for (let sent = 0; sent < count; sent += 20) {
      await publishAll(bus, topic, Array(20).fill(new Uint8Array(size)));
    }
    await member.waitFor(() => member.told('received').length === 2);
    // Whatever was fetched ahead has arrived by now, or arrives while this watches: 1 s.
    for (let weighed = 1; weighed <= 5; weighed++) {
      member.tell('weigh');
      await member.waitFor(() => member.told('weighed').length === weighed);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    const bytes = member.told('weighed').map((event) => event['bytes'] as number);
    expect(Math.max(...bytes), `of ${count * size} published`).toBeLessThan(48 * 1_048_576);
  },
  { deadly: true },
);

contract('SUB-05', 'runs concurrency handlers at once', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const all = gate();
  s.afterwards(all.open);
  const recorder = s.recorder<number>(async () => {
    if (recorder.running === 24) all.open();
    await all.opened;
  });
  await bus.subscribe(topic, { group: 'g', concurrency: 24 }, recorder.handler);
  await publishAll(bus, topic, range(1, 24));
  await settles('24 handlers run at once', all.opened);
  expect(recorder.mostRunning).toBe(24);
});

contract('SUB-05', 'gives a free handler the next message while others are busy', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const held = gate();
  s.afterwards(held.open);
  const recorder = s.recorder<number>((_, call) => (call <= 3 ? held.opened : undefined));
  await bus.subscribe(topic, { group: 'g', concurrency: 4 }, recorder.handler);
  await publishAll(bus, topic, range(1, 60));
  // Three handlers stay busy; the fourth does the rest alone.
  await recorder.waitFor(60);
  expect(recorder.running).toBe(3);
});

/** Publishes the numbers from 1 on, one each `every` milliseconds, until it is stopped; resolves with the last one. */
function publishOn(
  s: Scenario,
  bus: Awaited<ReturnType<Scenario['connect']>>,
  topic: string,
  every: number,
): () => Promise<number> {
  let stopped = false;
  const running = (async (): Promise<number> => {
    let n = 0;
    while (!stopped) {
      await bus.publish(topic, ++n);
      await new Promise((resolve) => setTimeout(resolve, every));
    }
    return n;
  })();
  running.catch(() => {});
  const stop = (): Promise<number> => {
    stopped = true;
    return running;
  };
  s.afterwards(stop);
  return stop;
}

contract('SUB-06', 'gives a new member its share, doubling at most what was in hand', async (s) => {
  const topic = s.topicName();
  const [one, two, publisher] = [await s.connect(), await s.connect(), await s.connect()];
  const [first, second] = [s.recorder<number>(slow), s.recorder<number>(slow)];
  const subscription = await one.subscribe(topic, { group: 'g', concurrency: 4 }, first.handler);
  const stop = publishOn(s, publisher, topic, 5);
  await first.waitFor(40);
  const { inFlight, buffered } = subscription.stats();
  await two.subscribe(topic, { group: 'g', concurrency: 4 }, second.handler);
  await second.waitFor(20);
  const last = await stop();
  const all = (): number[] => [...first.data, ...second.data];
  await s.eventually('all are handled', () => last - new Set(all()).size, { until: (missing) => missing === 0 });
  await second.nothingMore();
  const twice = doubles(all());
  // What is in hand varies while messages flow: the bound is what the member may hold at all.
  const bound = s.supports('cleanJoin') ? 0 : Math.max(inFlight + buffered, 2 * 4 + 16);
  expect(twice.length, `doubled: ${twice}`).toBeLessThanOrEqual(bound);
});

async function slow(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 15));
}

contract('SUB-06', 'doubles nothing when a member leaves', async (s) => {
  const topic = s.topicName();
  const [one, two, publisher] = [await s.connect(), await s.connect(), await s.connect()];
  const [first, second] = [s.recorder<number>(slow), s.recorder<number>(slow)];
  const options = { group: 'g', lease: steadyLease(s), concurrency: 4 };
  await one.subscribe(topic, options, first.handler);
  await two.subscribe(topic, options, second.handler);
  const stop = publishOn(s, publisher, topic, 5);
  await s.eventually('both have a share', () => first.count >= 20 && second.count >= 20);
  // In the middle of its work: what it still handles is acked while it leaves.
  await s.eventually('the one that leaves is at work', () => first.running > 0);
  await one.close();
  const left = first.count;
  const after = second.count;
  await second.waitFor(after + 40);
  const last = await stop();
  const all = (): number[] => [...first.data, ...second.data];
  await s.eventually('all are handled', () => last - new Set(all()).size, { until: (missing) => missing === 0 });
  await second.nothingMore(lostAckWatch(s, options.lease));
  expect(first.count).toBe(left);
  expect(doubles(all())).toEqual([]);
});

contract(
  'SUB-06',
  'loses nothing and gets stuck nowhere while members come and go',
  async (s) => {
    const topic = s.topicName();
    const publisher = await s.connect();
    const recorder = s.recorder<number>(slow);
    const anchor = await s.connect();
    await anchor.subscribe(topic, { group: 'g', concurrency: 2 }, recorder.handler);
    const stop = publishOn(s, publisher, topic, 20);
    for (const _ of range(1, 3)) {
      const guest = await s.connect();
      await guest.subscribe(topic, { group: 'g', concurrency: 2 }, recorder.handler);
      const before = recorder.count;
      await recorder.waitFor(before + 20);
      await guest.close();
    }
    const last = await stop();
    await s.eventually('all are handled', () => last - new Set(recorder.data).size, {
      until: (missing) => missing === 0,
    });
  },
  { timeout: () => 90_000 },
);

contract('SUB-07', 'gives every broadcast subscription every message from now on', async (s) => {
  const topic = s.topicName();
  const [one, two, publisher] = [await s.connect(), await s.connect(), await s.connect()];
  const [first, second] = [s.recorder<number>(), s.recorder<number>()];
  await publisher.publish(topic, 0);
  await one.subscribe(topic, { broadcast: true }, first.handler);
  await two.subscribe(topic, { broadcast: true }, second.handler);
  await publishAll(publisher, topic, range(1, 20));
  for (const recorder of [first, second]) {
    await recorder.waitFor(20);
    await recorder.nothingMore();
    expect(sorted(recorder.data)).toEqual(range(1, 20));
  }
});

contract('SUB-07', 'removes at close what was made for a broadcast', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.provision([{ topic, groups: ['keeps'] }]);
  const before = await s.foreign.namesWith(topic);
  const recorder = s.recorder();
  const subscription = await bus.subscribe(topic, { broadcast: true }, recorder.handler);
  await bus.publish(topic, 1);
  await recorder.waitFor(1);
  await subscription.close();
  await s.eventually('only the other group is left', () => s.foreign.namesWith(topic), {
    until: (names) => names.length === before.length && names.every((name) => before.includes(name)),
  });
});

contract(
  'SUB-07',
  'removes what was made for a broadcast whose process died, within the time that the capability tells',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    await bus.provision([{ topic, groups: ['keeps'] }]);
    const before = await s.foreign.namesWith(topic);
    const member = await s.member('consumer', { topic, options: { broadcast: true, lease: s.lease } });
    await member.waitFor('subscribed');
    await bus.publish(topic, 1);
    await member.waitFor('done');
    await member.kill();
    const { broadcastCleanup } = s.capabilities;
    expect(Number.isFinite(broadcastCleanup)).toBe(true);
    // Longer than two minutes is the broker's own housekeeping, which its settings vouch for.
    if (broadcastCleanup > 120_000) return;
    await s.eventually('only the other group is left', () => s.foreign.namesWith(topic), {
      within: broadcastCleanup + s.takeOver,
      until: (names) => names.length === before.length && names.every((name) => before.includes(name)),
    });
  },
  { deadly: true, timeout: (lease) => 200_000 + lease },
);

contract('SUB-07', 'retries a broadcast for its own subscription, and drops it after the last attempt', async (s) => {
  const topic = s.topicName();
  const [one, two] = [await s.connect(), await s.connect()];
  const failing = s.recorder<number>(() => {
    throw new Error('as told');
  });
  const other = s.recorder<number>();
  const retry = { attempts: 3, delay: 20 };
  const subscription = await one.subscribe(topic, { broadcast: true, retry }, failing.handler);
  await two.subscribe(topic, { broadcast: true }, other.handler);
  await one.publish(topic, 1);
  await failing.waitFor(3);
  await s.eventually('the message is dropped', () => subscription.stats().dropped === 1);
  await failing.nothingMore();
  expect(failing.seen.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
  expect(other.count).toBe(1);
  await failureWith('CONFIG', () =>
    one.subscribe(s.topicName(), { broadcast: true, whenExhausted: 'dead-letter' }, () => {}),
  );
});

contract('SUB-08', 'starts no handler while paused, and goes on with what waits', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<number>();
  const subscription = await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  await bus.publish(topic, 0);
  await recorder.waitFor(1);
  await subscription.pause();
  expect(subscription.state).toBe('paused');
  await publishAll(bus, topic, range(1, 30));
  await recorder.nothingMore(1_000);
  await subscription.resume();
  await recorder.waitFor(31);
  expect(subscription.state).toBe('running');
  await recorder.nothingMore();
  expect(sorted(recorder.data)).toEqual(range(0, 30));
});

contract(
  'SUB-08',
  'keeps running handlers, and loses and doubles nothing in a pause longer than the lease',
  async (s) => {
    const topic = s.topicName();
    const [bus, publisher] = [await s.connect(), await s.connect()];
    const held = gate();
    s.afterwards(held.open);
    const recorder = s.recorder<number>((_, call) => (call <= 2 ? held.opened : undefined));
    const options = { group: 'g', lease: s.lease, concurrency: 2 };
    const subscription = await bus.subscribe(topic, options, recorder.handler);
    await publishAll(publisher, topic, range(1, 40));
    await recorder.waitFor(2);
    const paused = subscription.pause();
    held.open();
    await settles('the pause resolves when the handlers have ended', paused);
    await recorder.nothingMore(2 * s.lease);
    expect(recorder.count).toBe(2);
    await subscription.resume();
    await recorder.waitFor(40);
    await recorder.nothingMore();
    expect(sorted(recorder.data)).toEqual(range(1, 40));
    // Holding, or giving back, is no failed attempt (RETRY-08).
    expect(recorder.seen.filter(({ attempt }) => attempt !== 1)).toEqual([]);
  },
);

contract('SUB-09', 'handles a message of a foreign producer with sensible values', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g', concurrency: 1 }, recorder.handler);
  const before = Date.now();
  await s.foreign.publish(topic, { body: Buffer.from('{"total":3}') });
  await s.foreign.publish(topic, {
    body: Buffer.from([1, 2, 3]),
    key: 'k-1',
    contentType: 'application/x-protobuf',
    headers: { Trace: 'abc' },
  });
  await recorder.waitFor(2);
  const [plain, full] = [...recorder.seen].sort((a, b) => a.message.body.length - b.message.body.length).reverse();
  expect(plain?.data).toEqual({ total: 3 });
  expect(Buffer.from(plain?.message.body ?? []).toString()).toBe('{"total":3}');
  expect(plain?.id).toMatch(/./);
  expect(plain?.key).toBeUndefined();
  expect(plain?.type).toBeUndefined();
  expect(plain?.attempt).toBe(1);
  expect({ ...plain?.message.headers }).toEqual({});
  const at = plain?.message.publishedAt.getTime() ?? Number.NaN;
  expect(at).toBeGreaterThan(before - 60_000);
  expect(at).toBeLessThan(Date.now() + 60_000);
  expect(full?.data).toBeInstanceOf(Uint8Array);
  expect([...(full?.message.body ?? [])]).toEqual([1, 2, 3]);
  expect(full?.key).toBe(s.foreign.keys === true ? 'k-1' : undefined);
  expect(full?.message.contentType).toBe('application/x-protobuf');
  expect(full?.message.headers['trace'] ?? full?.message.headers['Trace']).toBe('abc');
  expect(full?.id).not.toBe(plain?.id);
});

contract('SUB-09', 'retries a foreign message, and sets it aside, like any other', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder(() => {
    throw new Error('as told');
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 10 } }, recorder.handler);
  await s.foreign.publish(topic, { body: Buffer.from('"x"'), key: 'k' });
  await recorder.waitFor(2);
  const key = s.foreign.keys === true ? 'k' : undefined;
  expect(recorder.seen.map((one) => [one.data, one.key, one.attempt])).toEqual([
    ['x', key, 1],
    ['x', key, 2],
  ]);
  const [entry] = await s.eventually('the dead letter', () => bus.deadLetters(topic, 'g').peek(), {
    until: (entries) => entries.length === 1,
  });
  expect(entry?.data).toBe('x');
});

contract('SUB-09', 'lets a foreign consumer read the body as it is', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.provision([{ topic, groups: ['g'] }]);
  const reader = await s.foreign.read(topic);
  s.afterwards(() => reader.close());
  const body = Uint8Array.from({ length: 256 }, (_, i) => i);
  await bus.publish(topic, body, { key: 'k', headers: { trace: 'abc' } });
  await bus.publish(topic, { total: 3 }, { id: 'o-1' });
  const copies = [await reader.next(AT_ONCE + 5_000), await reader.next(AT_ONCE + 5_000)];
  const raw = copies.find((copy) => copy.body.length === 256);
  const json = copies.find((copy) => copy !== raw);
  expect(Buffer.from(raw?.body ?? []).equals(body)).toBe(true);
  expect(raw?.key).toBe('k');
  expect(raw?.headers['trace']).toBe('abc');
  expect(JSON.parse(Buffer.from(json?.body ?? []).toString())).toEqual({ total: 3 });
});

const order = z.object({ total: z.number() });

contract('SUB-10', 'sets a body that does not decode or does not fit aside, and goes on', async (s) => {
  const name = s.topicName();
  const topic = declare(name, { schema: order });
  const bus = await s.connect();
  const recorder = s.recorder<{ total: number }>();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  await s.foreign.publish(name, { body: Buffer.from('{"total":'), contentType: 'application/json' });
  await s.foreign.publish(name, { body: Buffer.from([0xff, 0xfe]), contentType: 'application/json' });
  await bus.publish(name, { total: 'many' });
  await bus.publish(topic, { total: 1 });
  await recorder.waitFor(1);
  const letters = bus.deadLetters(topic, 'g');
  const entries = await s.eventually('three dead letters', () => letters.peek(), {
    until: (found) => found.length === 3,
  });
  for (const entry of entries) {
    expect(entry.reason).toBe('invalid');
    expect(entry.attempts).toBe(0);
    expect(entry.error?.message).toMatch(/./);
  }
  expect(entries.map(({ body }) => Buffer.from(body).toString('latin1')).sort()).toEqual(
    ['{"total":', '\xff\xfe', '{"total":"many"}'].sort(),
  );
  expect(recorder.data).toEqual([{ total: 1 }]);
});

contract('SUB-10', 'retries an invalid body where told so, without a call of the handler', async (s) => {
  const name = s.topicName();
  const topic = declare(name, { schema: order });
  const bus = await s.connect();
  const recorder = s.recorder<{ total: number }>();
  const subscription = await bus.subscribe(
    topic,
    { group: 'g', invalid: 'retry', retry: { attempts: 3, delay: 10 } },
    recorder.handler,
  );
  await bus.publish(name, { total: 'many' });
  await bus.publish(topic, { total: 1 });
  const [entry] = await s.eventually('the dead letter', () => bus.deadLetters(topic, 'g').peek(), {
    until: (entries) => entries.length === 1,
  });
  expect(entry?.error?.message).toMatch(/total/);
  expect(subscription.stats().retried).toBe(2);
  await recorder.waitFor(1);
  expect(recorder.data).toEqual([{ total: 1 }]);
});

contract('SUB-10', 'stops at an invalid body where told so, and leaves it with the group', async (s) => {
  const name = s.topicName();
  const topic = declare(name, { schema: order });
  const [bus, other] = [await s.connect(), await s.connect()];
  const recorder = s.recorder<{ total: number }>();
  const options = { group: 'g', lease: s.lease };
  const subscription = await bus.subscribe(topic, { ...options, invalid: 'stop' }, recorder.handler);
  await bus.publish(name, { total: 'many' });
  const ended = await failureWith('INVALID_MESSAGE', () => settles('the subscription ends', subscription.closed));
  expect(ended.message).toMatch(/total/);
  expect(subscription.state).toBe('failed');
  const raw = s.recorder();
  await other.subscribe(name, options, raw.handler);
  await raw.waitFor(1, s.takeOver + RECOVERY);
  expect(raw.data).toEqual([{ total: 'many' }]);
  expect(recorder.count).toBe(0);
});

contract('SUB-10', 'sets an event type that is not listed aside, or skips it where told so', async (s) => {
  const name = s.topicName();
  const events = declare(name, { types: { placed: order, cancelled: z.object({ why: z.string() }) } });
  const bus = await s.connect();
  type Event = { total: number } | { why: string };
  const [strict, lenient] = [s.recorder<Event>(), s.recorder<Event>()];
  await bus.subscribe(events, { group: 'strict' }, strict.handler);
  const skipping = await bus.subscribe(events, { group: 'lenient', unknownType: 'skip' }, lenient.handler);
  await bus.publish(events.event('placed'), { total: 1 });
  await bus.publish(name, { total: 2 }, { type: 'shipped' });
  await bus.publish(events.event('cancelled'), { why: 'late' });
  for (const recorder of [strict, lenient]) {
    await recorder.waitFor(2);
    expect(new Map(recorder.seen.map(({ type, data }) => [type, data]))).toEqual(
      new Map<string, unknown>([
        ['placed', { total: 1 }],
        ['cancelled', { why: 'late' }],
      ]),
    );
  }
  const [entry] = await s.eventually('the dead letter', () => bus.deadLetters(name, 'strict').peek(), {
    until: (entries) => entries.length === 1,
  });
  expect([entry?.reason, entry?.type]).toEqual(['unknown-type', 'shipped']);
  await s.eventually('all three are settled', () => skipping.stats().acked + skipping.stats().dropped >= 3);
  expect((await bus.deadLetters(name, 'lenient').count()).value).toBe(0);
});

contract(
  'SUB-11',
  'keeps names apart that differ in one character',
  async (s) => {
    const stem = s.topicName('n');
    const bus = await s.connect();
    // Each differs from the next only in what a broker may have to escape, or may take for a wildcard.
    const names = ['-', '!', '#', '$', '%', '&', "'", '*', '+', '^', '`', '|', '~', 'x', 'X', '_x23', '-x-', '%23'].map(
      (mark) => `${stem}.a${mark}b`,
    );
    const recorders = new Map(names.map((name) => [name, s.recorder<string>()]));
    for (const [name, recorder] of recorders) await bus.subscribe(name, { group: 'g' }, recorder.handler);
    for (const name of names) await bus.publish(name, name);
    for (const [name, recorder] of recorders) {
      await recorder.waitFor(1);
      await bus.publish(name, 'marker');
      await recorder.waitFor(2);
      expect(sorted2(recorder.data), `what arrived on ${name}`).toEqual(sorted2([name, 'marker']));
    }
  },
  { timeout: () => 120_000 },
);

const sorted2 = (texts: readonly string[]): string[] => [...texts].sort();

contract('SUB-11', 'keeps a.b and a_b apart, or refuses the second', async (s) => {
  const stem = s.topicName('n');
  const bus = await s.connect();
  const [dotted, underlined] = [s.recorder<string>(), s.recorder<string>()];
  await bus.subscribe(`${stem}.a.b`, { group: 'g' }, dotted.handler);
  try {
    await bus.subscribe(`${stem}.a_b`, { group: 'g' }, underlined.handler);
    await bus.publish(`${stem}.a_b`, 'underlined');
    await underlined.waitFor(1);
  } catch (error) {
    expect(WaybillError.is(error, 'CONFIG'), String(error)).toBe(true);
    expect((error as ConfigError).message).toContain(`${stem}.a_b`);
  }
  await bus.publish(`${stem}.a.b`, 'dotted');
  await dotted.waitFor(1);
  expect(dotted.data).toEqual(['dotted']);
});

contract(
  'SUB-11',
  'keeps groups apart whose names differ in one character, and pairs whose parts shift',
  async (s) => {
    const topic = s.topicName('n');
    const bus = await s.connect();
    const marks = ['-', '_', '.', '#', '*', 'x', 'X', '%'];
    const groups = marks.map((mark) => `g${mark}1`);
    const failing = 'g-1';
    const recorders = new Map(
      groups.map((group) => [
        group,
        s.recorder<string>((message) => {
          if (group === failing && message.attempt === 1) throw new Error('only this group sees it again');
        }),
      ]),
    );
    for (const [group, recorder] of recorders) {
      await bus.subscribe(topic, { group, retry: { attempts: 2, delay: 10 } }, recorder.handler);
    }
    // Topic `t` with group `g.h` and topic `t.g` with group `h` are two pairs, however they are joined.
    const [shifted, whole] = [s.recorder<string>(), s.recorder<string>()];
    await bus.subscribe(topic, { group: 'g.h' }, shifted.handler);
    await bus.subscribe(`${topic}.g`, { group: 'h' }, whole.handler);
    await bus.publish(topic, 'one');
    await bus.publish(`${topic}.g`, 'two');
    await recorders.get(failing)?.waitFor(2);
    for (const [group, recorder] of recorders) {
      await recorder.waitFor(1);
      expect(recorder.data, `what group ${group} saw`).toEqual(group === failing ? ['one', 'one'] : ['one']);
    }
    await Promise.all([shifted.waitFor(1), whole.waitFor(1)]);
    expect([shifted.data, whole.data]).toEqual([['one'], ['two']]);
  },
  { timeout: () => 120_000 },
);

contract('SUB-11', 'takes names of the greatest length', async (s) => {
  const stem = s.topicName('n');
  const bus = await s.connect();
  const topics = ['a', 'b'].map((end) => `${stem}${'.'.repeat(99 - stem.length)}${end}`);
  const group = `${'g'.repeat(99)}h`;
  const recorders = topics.map(() =>
    s.recorder<string>((message) => {
      if (message.attempt === 1) throw new Error('once more');
    }),
  );
  for (const [n, topic] of topics.entries()) {
    expect(topic).toHaveLength(100);
    const retry = { attempts: 2, delay: 10 };
    await bus.subscribe(topic, { group, retry }, recorders[n]?.handler ?? (() => {}));
  }
  for (const topic of topics) await bus.publish(topic, topic);
  for (const [n, recorder] of recorders.entries()) {
    await recorder.waitFor(2);
    expect(recorder.data).toEqual([topics[n], topics[n]]);
  }
});

contract('SUB-11', 'refuses a second subscription of one topic and group in one bus', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  const first = await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const error = await failureWith('CONFIG', () => bus.subscribe(topic, { group: 'g' }, () => {}));
  expect(error.message).toContain(topic);
  await bus.publish(topic, 1);
  await recorder.waitFor(1);
  await first.close();
  // Room again for one.
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  await bus.publish(topic, 2);
  await recorder.waitFor(2);
});

contract('SUB-12', 'removes a group with its backlog, retries, delays and dead letters, and no other', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.provision([{ topic, groups: ['stays'] }]);
  const before = await s.foreign.namesWith(topic);
  const recorder = s.recorder<string>(async (message) => {
    if (message.data === 'reject') await message.reject();
    if (message.data === 'retry') await message.retry({ after: '1h' });
  });
  const subscription: Subscription = await bus.subscribe(topic, { group: 'goes' }, recorder.handler);
  for (const data of ['reject', 'retry', 'done']) await bus.publish(topic, data);
  await recorder.waitFor(3);
  await s.eventually('the dead letter', async () => (await bus.deadLetters(topic, 'goes').count()).value === 1);
  await subscription.close();
  await bus.publish(topic, 'backlog');
  await bus.removeGroup(topic, 'goes');
  await s.eventually('only the other group is left', () => s.foreign.namesWith(topic), {
    until: (names) => names.length === before.length && names.every((name) => before.includes(name)),
  });
  expect(await s.foreign.exists('group', { topic, group: 'goes' })).toBe(false);
  expect(await s.foreign.exists('group', { topic, group: 'stays' })).toBe(true);
  await bus.removeGroup(topic, 'goes');
  await bus.removeGroup(s.topicName(), 'never-was');

  // The same name is a new group.
  const again = s.recorder<string>();
  await bus.subscribe(topic, { group: 'goes' }, again.handler);
  await bus.publish(topic, 'new');
  await again.waitFor(1);
  expect(again.data).toEqual(['new']);
  expect((await bus.deadLetters(topic, 'goes').count()).value).toBe(0);
  const kept = s.recorder<string>();
  await bus.subscribe(topic, { group: 'stays' }, kept.handler);
  await kept.waitFor(5);
});
