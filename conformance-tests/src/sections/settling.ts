import { setTimeout as wait } from 'node:timers/promises';
import type { Message, MessageStream, WaybillError } from '@waybill/core';
import { expect } from 'vitest';
import { lostAckWatch, steadyLease } from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY, settles, TAKE_OVER_MARGIN } from '../scenario.ts';

/** Messages with one key lie in one lane, so that what is behind a gap is really behind it. */
const key = 'k';
const retry = { attempts: 3, delay: 50 };

/** The code of the error that a promise rejects with, or what came instead. */
async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    return { resolved: await promise };
  } catch (error) {
    return (error as WaybillError).code;
  }
}

function sorted(numbers: readonly unknown[]): number[] {
  return numbers.map(Number).sort((a, b) => a - b);
}

contract('ACK-01', 'a handled message does not come again when its lease has passed', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g', lease: s.lease }, record.handler);
  await bus.publishBatch(
    topic,
    [1, 2, 3, 4, 5].map((data) => ({ data })),
  );
  await record.waitFor(5);
  // A lost ack shows itself when the lease ends, so that is how long it takes to see that there is none.
  await record.nothingMore(s.lease + 1_000);
  expect(sorted(record.data)).toEqual([1, 2, 3, 4, 5]);
});

contract('ACK-01', 'a handled message does not come again after a restart', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const first = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g', lease: s.lease }, first.handler);
  for (const data of [1, 2, 3]) await bus.publish(topic, data, { key });
  await first.waitFor(3);
  await bus.close();

  const again = await s.connect();
  const second = s.recorder<number>();
  await again.subscribe(topic, { group: 'g', lease: s.lease }, second.handler);
  await again.publish(topic, 4, { key });
  await second.waitFor((seen) => seen.some(({ data }) => data === 4));
  await second.nothingMore(lostAckWatch(s, s.lease));
  expect(second.data).toEqual([4]);
});

contract(
  'ACK-02',
  'all that a dead member held and nothing that it acked reaches another member in time',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease, concurrency: 6 };
    // Later ones are acked before earlier ones.
    const workFor = { 2: 'ack', 4: 'ack', 6: 'ack' } as const;
    const member = await s.member('consumer', { topic, options, work: 'hold', workFor });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    for (const data of [1, 2, 3, 4, 5, 6]) await bus.publish(topic, data, { key });
    await member.waitFor(() => member.told('received').length === 6 && member.told('acked').length === 3);
    await member.kill();

    const killed = performance.now();
    const heir = s.recorder<number>();
    await bus.subscribe(topic, options, heir.handler);
    await heir.waitFor((seen) => [1, 3, 5].every((one) => seen.some(({ data }) => data === one)), s.takeOver);
    expect(performance.now() - killed).toBeLessThan(s.takeOver);
    await bus.publish(topic, 7, { key });
    await heir.waitFor((seen) => seen.some(({ data }) => data === 7));
    await heir.nothingMore();
    expect(sorted(heir.data)).toEqual([1, 3, 5, 7]);
  },
  { deadly: true },
);

contract(
  'ACK-02',
  'a member that stands by takes over what a dead one held',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease, concurrency: 4 };
    const heir = s.recorder<number>();
    const bus = await s.connect();
    await bus.subscribe(topic, options, heir.handler);
    const member = await s.member('consumer', { topic, options, work: 'hold' });
    await member.waitFor('subscribed');
    let published = 0;
    await s.eventually('the member to hold some messages', async () => {
      await bus.publish(topic, ++published);
      return member.told('received').length >= 3;
    });
    await member.kill();
    const all = Array.from({ length: published }, (_, at) => at + 1);
    await heir.waitFor((seen) => all.every((one) => seen.some(({ data }) => data === one)), s.takeOver);
  },
  { deadly: true },
);

contract('ACK-03', 'a handler that runs for several leases keeps its message', async (s) => {
  const topic = s.topicName();
  const options = { group: 'g', lease: steadyLease(s) };
  const long = 3 * options.lease + 500;
  const record = s.recorder<string>(async ({ data, signal }) => {
    if (data === 'long') await wait(long, undefined, { signal });
  });
  // Both stand ready: whoever gets the message, the other would get it when the lease ended.
  for (const bus of [await s.connect(), await s.connect()]) await bus.subscribe(topic, options, record.handler);
  const bus = await s.connect();
  await bus.publish(topic, 'long', { key });
  await record.waitFor(1);
  await s.eventually('the long handler to end', () => record.running === 0, { within: long + AT_ONCE });
  await bus.publish(topic, 'marker', { key });
  await record.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
  await record.nothingMore(options.lease + 1_000);
  expect(record.data).toEqual(['long', 'marker']);
  expect(record.seen[0]?.message.signal.aborted).toBe(false);
});

contract('ACK-03', 'a batch that is handled for several leases keeps its messages', async (s) => {
  const topic = s.topicName();
  const lease = steadyLease(s);
  const calls: number[][] = [];
  const handle = async (messages: readonly Message[]): Promise<void> => {
    calls.push(messages.map(({ data }) => Number(data)));
    if (calls.length === 1) await wait(2 * lease + 500);
  };
  const batch = { size: 3, wait: 300 };
  const options = { group: 'g', lease, batch };
  for (const bus of [await s.connect(), await s.connect()]) await bus.subscribeBatch(topic, options, handle);
  const bus = await s.connect();
  await bus.publishBatch(topic, [
    { data: 1, key },
    { data: 2, key },
    { data: 3, key },
  ]);
  await s.eventually('three messages handed out', () => calls.flat().length >= 3);
  await wait(3 * lease + 500);
  expect(sorted(calls.flat())).toEqual([1, 2, 3]);
});

contract(
  'ACK-04',
  'a member that stood still for longer than its lease is told so',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease };
    const member = await s.member('consumer', { topic, options, work: 'hold' });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    await bus.publish(topic, 1);
    await member.waitFor('received');
    await member.freeze();
    const heir = s.recorder<number>();
    await bus.subscribe(topic, options, heir.handler);
    await heir.waitFor(1, s.takeOver);
    expect(member.told('aborted')).toEqual([]);
    await member.thaw();
    await member.waitFor('aborted', s.takeOver);
    expect(member.told('aborted').map(({ code }) => code)).toEqual(['LEASE_LOST']);
  },
  { deadly: true },
);

contract(
  'ACK-04',
  'a member that is cut off from the broker is told so',
  async (s) => {
    const topic = s.topicName();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const reasons: unknown[] = [];
    const record = s.recorder<number>(async ({ signal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      reasons.push(signal.reason);
    });
    await bus.subscribe(topic, { group: 'g', lease: s.lease }, record.handler);
    const publisher = await s.connect();
    await publisher.publish(topic, 1);
    await record.waitFor(1);
    await link.cut('blackhole');
    await s.eventually('the signal to abort', () => reasons.length === 1, { within: s.takeOver });
    expect((reasons[0] as WaybillError).code).toBe('LEASE_LOST');
    // The message is not stuck with the one that lost it.
    const heir = s.recorder<number>();
    await publisher.subscribe(topic, { group: 'g', lease: s.lease }, heir.handler);
    await heir.waitFor(1, s.takeOver);
  },
  { deadly: true },
);

contract('ACK-04', 'whoever loses a message to a member that joins is told so', async (s) => {
  const topic = s.topicName();
  const options = { group: 'g', lease: s.lease, concurrency: 32 };
  const codes = new Map<unknown, unknown>();
  const first = s.recorder<number>(async ({ data, signal }) => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    codes.set(data, signal.reason.code);
  });
  const second = s.recorder<number>();
  const bus = await s.connect();
  await bus.subscribe(topic, options, first.handler);
  const publish = (from: number, length: number): Promise<unknown> =>
    bus.publishBatch(
      topic,
      Array.from({ length }, (_, at) => ({ data: from + at, key: `key-${at}` })),
    );
  await publish(0, 24);
  await first.waitFor(24);
  const other = await s.connect();
  await other.subscribe(topic, options, second.handler);
  // More than the first may hold and buffer, so that a share is left for the second on every broker.
  await publish(100, 100);
  await second.waitFor((seen) => seen.some(({ data }) => data >= 100), s.takeOver + RECOVERY);
  // How much of its share still comes differs between brokers; it is looked at once nothing has come for a second.
  let count = 0;
  let since = 0;
  const quiet = (): number => {
    if (second.count !== count) since = performance.now();
    count = second.count;
    return performance.now() - since;
  };
  await s.eventually('the second to get no more for a second', quiet, {
    until: (ms) => ms > 1_000,
    within: s.takeOver,
  });
  const passed = second.data.filter((data) => first.data.includes(data));
  await s.eventually('the first to be told of each that passed', () => passed.filter((data) => !codes.has(data)), {
    until: ({ length }) => length === 0,
    within: s.takeOver,
  });
  expect(new Set(codes.values())).toEqual(new Set(codes.size === 0 ? [] : ['LEASE_LOST']));
});

contract(
  'ACK-05',
  'acks in any order, then a crash: exactly what was not acked comes again',
  async (s) => {
    const topic = s.topicName();
    const all = Array.from({ length: 200 }, (_, at) => at);
    // A fixed pattern with gaps of many lengths; the last one is acked, so that all else lies behind an ack.
    const acked = new Set(all.filter((one) => (one * 7919) % 13 < 6 || one === 199));
    const workFor = Object.fromEntries([...acked].map((one) => [one, 'ack' as const]));
    const options = { group: 'g', lease: steadyLease(s), concurrency: all.length };
    const member = await s.member('consumer', { topic, options, work: 'hold', workFor });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    await bus.publishBatch(
      topic,
      all.map((data) => ({ data, key })),
    );
    await member.waitFor(
      () => member.told('acked').length === acked.size && member.told('received').length === all.length,
    );
    await member.kill();
    const heir = s.recorder<number>();
    await bus.subscribe(topic, { group: 'g', lease: s.lease }, heir.handler);
    const left = all.filter((one) => !acked.has(one));
    await heir.waitFor(left.length, options.lease + TAKE_OVER_MARGIN);
    await bus.publish(topic, 1_000, { key });
    await heir.waitFor((seen) => seen.some(({ data }) => data === 1_000));
    await heir.nothingMore();
    expect(sorted(heir.data)).toEqual([...left, 1_000]);
  },
  { deadly: true },
);

contract('ACK-05', 'a later ack does not settle an earlier message when the member leaves in good order', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const first = s.recorder<number>(async (message) => {
    if (message.data !== 1) return await message.ack();
    await new Promise((resolve) => message.signal.addEventListener('abort', resolve, { once: true }));
    // Thrown, so that the attempt does not end in an ack of its own.
    throw new Error('closed meanwhile');
  });
  const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease, concurrency: 4 }, first.handler);
  for (const data of [1, 2, 3, 4]) await bus.publish(topic, data, { key });
  await s.eventually('three acks', () => subscription.stats().acked === 3);
  await bus.close({ timeout: 100 });

  const again = await s.connect();
  const second = s.recorder<number>();
  await again.subscribe(topic, { group: 'g', lease: s.lease }, second.handler);
  await second.waitFor(1, s.takeOver);
  await again.publish(topic, 5, { key });
  await second.waitFor((seen) => seen.some(({ data }) => data === 5));
  await second.nothingMore();
  expect(sorted(second.data)).toEqual([1, 5]);
});

contract('ACK-06', 'what the handler decides wins over how it ends', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>(async (message) => {
    if (message.attempt > 1) return;
    if (message.data === 'acked, then thrown') {
      await message.ack();
      throw new Error('too late');
    }
    if (message.data === 'retried, then returned') await message.retry({ after: 0 });
    if (message.data === 'rejected, then returned') await message.reject('not for us');
    if (message.data === 'not awaited') void message.reject('on the way');
    if (message.data === 'thrown') throw new Error('again');
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry }, record.handler);
  const all = ['acked, then thrown', 'retried, then returned', 'rejected, then returned', 'not awaited', 'thrown'];
  for (const data of [...all, 'returned']) await bus.publish(topic, data, { key });
  await record.waitFor(8);
  await s.eventually('all to be settled', () => subscription.stats(), {
    until: ({ acked, retried, deadLettered }) => acked === 4 && retried === 2 && deadLettered === 2,
  });
  await record.nothingMore();
  const attempts = Object.fromEntries(all.map((one) => [one, record.of(one).map(({ attempt }) => attempt)]));
  expect(attempts).toEqual({
    'acked, then thrown': [1],
    'retried, then returned': [1, 2],
    'rejected, then returned': [1],
    'not awaited': [1],
    thrown: [1, 2],
  });
  expect(record.of('returned')).toHaveLength(1);
  const dead = await s.eventually('two dead letters', () => bus.deadLetters(topic, 'g').peek(), {
    until: (letters) => letters.length === 2,
  });
  expect(dead.map(({ reason }) => reason)).toEqual(['rejected', 'rejected']);
  expect(dead.map(({ error }) => error?.message).sort()).toEqual(['not for us', 'on the way']);
});

contract('ACK-06', 'settling twice is a typed error, during the attempt and after it', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const codes: unknown[] = [];
  const record = s.recorder<string>(async (message) => {
    if (message.data === 'returns') return;
    await message.ack();
    codes.push(await failureOf(message.ack()), await failureOf(message.retry()), await failureOf(message.reject()));
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry }, record.handler);
  await bus.publish(topic, 'acks', { key });
  await bus.publish(topic, 'returns', { key });
  await s.eventually('both to be acked', () => subscription.stats().acked === 2);
  expect(codes).toEqual(['ALREADY_SETTLED', 'ALREADY_SETTLED', 'ALREADY_SETTLED']);
  for (const { message } of record.seen) expect(await failureOf(message.ack())).toBe('ALREADY_SETTLED');
  await record.nothingMore();
  expect(record.count).toBe(2);
});

contract('ACK-06', 'a stream settles nothing by itself, and gives back what is unsettled when it closes', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const take = async (stream: MessageStream<string>, count: number): Promise<Message[]> => {
    const taken: Message[] = [];
    const messages = stream[Symbol.asyncIterator]();
    while (taken.length < count) {
      const next = await settles(`message ${taken.length + 1}`, messages.next());
      if (next.done) break;
      taken.push(next.value);
    }
    return taken;
  };
  const open = (): Promise<MessageStream<string>> => bus.messages(topic, { group: 'g', retry });
  const first = await open();
  for (const data of [1, 2, 3, 4]) await bus.publish(topic, data, { key });
  const taken = await take(first, 3);
  expect(sorted(taken.map(({ data }) => data))).toEqual([1, 2, 3]);
  await taken.find(({ data }) => data === 2)?.ack();
  await first.close();
  const closed = performance.now();

  const second = await open();
  const rest = await take(second, 3);
  // Given back, not left to the lease of 30 s.
  expect(performance.now() - closed).toBeLessThan(RECOVERY);
  expect(sorted(rest.map(({ data }) => data))).toEqual([1, 3, 4]);
  expect(rest.map(({ attempt }) => attempt)).toEqual([1, 1, 1]);
  for (const message of rest) await message.ack();
  expect(second.stats().acked).toBe(3);
  await second.close();
});

contract('ACK-06', 'a stream retries and rejects as told, and ends when it is closed', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const stream = await bus.messages(topic, { group: 'g', retry });
  for (const data of ['retry', 'reject']) await bus.publish(topic, data);
  const seen: string[] = [];
  const reading = (async () => {
    for await (const message of stream) {
      seen.push(`${message.data} ${message.attempt}`);
      if (message.data === 'reject') await message.reject('no');
      else if (message.attempt === 1) await message.retry({ after: 0 });
      else await message.ack();
    }
  })();
  reading.catch(() => {});
  await s.eventually('all to be settled', () => stream.stats(), {
    until: ({ acked, retried, deadLettered }) => acked === 1 && retried === 1 && deadLettered === 1,
  });
  expect(seen.sort()).toEqual(['reject 1', 'retry 1', 'retry 2']);
  await stream.close();
  await settles('the loop to end', reading);
});

contract(
  'ACK-07',
  'an ack from before a reconnect touches no delivery from after it',
  async (s) => {
    const topic = s.topicName();
    let markerAcked = false;
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const release = Promise.withResolvers<void>();
    const cutOff = new AbortController();
    s.afterwards(() => cutOff.abort());
    let reconnected = false;
    const record = s.recorder<string>(async (message) => {
      const { data } = message;
      if (data === 'marker') {
        await message.ack();
        markerAcked = true;
        return;
      }
      // First calls of the old ones end on release; whatever comes after the reconnect is held until the end.
      if (reconnected) await new Promise((resolve) => cutOff.signal.addEventListener('abort', resolve, { once: true }));
      else await release.promise;
    });
    const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease, concurrency: 16 }, record.handler);
    const outside = await s.connect();
    for (const data of ['old 1', 'old 2', 'old 3']) await outside.publish(topic, data, { key });
    await record.waitFor(3);
    reconnected = true;
    await link.cut('reset');
    await s.eventually('the cut to be noticed', () => subscription.state === 'recovering', { within: s.takeOver });
    await link.mend();
    for (const data of ['new 1', 'new 2', 'new 3']) await outside.publish(topic, data, { key });
    const isNew = (data: string): boolean => data.startsWith('new');
    await record.waitFor(
      (seen) => new Set(seen.map(({ data }) => data).filter(isNew)).size === 3,
      RECOVERY + s.takeOver,
    );
    release.resolve();
    // An ack that is sent after the late ones shows that those have been sent.
    await outside.publish(topic, 'marker', { key });
    await s.eventually('the marker to be acked', () => markerAcked, { within: s.takeOver });
    await link.cut('blackhole');

    const heir = s.recorder<string>();
    await outside.subscribe(topic, { group: 'g', lease: s.lease }, heir.handler);
    await heir.waitFor((seen) => new Set(seen.map(({ data }) => data).filter(isNew)).size === 3, s.takeOver);
  },
  { deadly: true },
);

contract('ACK-08', 'every message of a batch has its own outcome', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const attempts: Record<string, number[]> = {};
  const sizes: number[] = [];
  const handle = async (messages: readonly Message<unknown>[]): Promise<void> => {
    sizes.push(messages.length);
    for (const message of messages) {
      const data = String(message.data);
      attempts[data] = [...(attempts[data] ?? []), message.attempt];
      if (message.attempt > 1) continue;
      if (data === 'acked') await message.ack();
      if (data === 'rejected') await message.reject('no');
      if (data === 'retried') await message.retry({ after: 0 });
    }
  };
  const options = { group: 'g', retry, batch: { size: 4, wait: 500 } };
  const subscription = await bus.subscribeBatch(topic, options, handle);
  const all = ['acked', 'rejected', 'retried', 'left 1', 'left 2', 'left 3'];
  await bus.publishBatch(
    topic,
    all.map((data) => ({ data, key })),
  );
  await s.eventually('all to be settled', () => subscription.stats(), {
    until: ({ acked, retried, deadLettered }) => acked === 5 && retried === 1 && deadLettered === 1,
  });
  expect(attempts).toEqual({
    acked: [1],
    rejected: [1],
    retried: [1, 2],
    'left 1': [1],
    'left 2': [1],
    'left 3': [1],
  });
  expect(Math.max(...sizes)).toBeLessThanOrEqual(4);
  expect(Math.max(...sizes)).toBeGreaterThan(1);
});

contract('ACK-08', 'a batch that throws runs again without the messages that were settled', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const calls: string[][] = [];
  const handle = async (messages: readonly Message<unknown>[]): Promise<void> => {
    calls.push(messages.map(({ data, attempt }) => `${data} ${attempt}`));
    for (const message of messages) {
      if (message.data === 'bad' && message.attempt === 1) throw new Error('one is bad');
      await message.ack();
    }
  };
  // In one key, so that `bad` stands between two that are good.
  const options = { group: 'g', retry, batch: { size: 3, wait: 1_000 } };
  const subscription = await bus.subscribeBatch(topic, options, handle);
  await bus.publishBatch(
    topic,
    ['good', 'bad', 'behind'].map((data) => ({ data, key })),
  );
  await s.eventually('all to be acked', () => subscription.stats().acked === 3);
  const times = (data: string): number => calls.flat().filter((one) => one.startsWith(data)).length;
  expect({ good: times('good'), bad: times('bad') }).toEqual({ good: 1, bad: 2 });
  expect(times('behind')).toBeLessThanOrEqual(2);
  expect(subscription.stats().deadLettered).toBe(0);
});

contract('ACK-08', 'a body that cannot be read does not harm the rest of its batch', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const seen: unknown[] = [];
  const handle = (messages: readonly Message<unknown>[], signal: AbortSignal): void => {
    expect(signal.aborted).toBe(false);
    seen.push(...messages.map(({ data }) => data));
  };
  const options = { group: 'g', retry, batch: { size: 3, wait: 500 } };
  const subscription = await bus.subscribeBatch(topic, options, handle);
  await bus.publish(topic, 1, { key });
  const notJson = new TextEncoder().encode('{ not json');
  await bus.publish(topic, notJson, { key, contentType: 'application/json' });
  await bus.publish(topic, 2, { key });
  await s.eventually('all to be settled', () => subscription.stats(), {
    until: ({ acked, deadLettered }) => acked === 2 && deadLettered === 1,
  });
  expect(sorted(seen)).toEqual([1, 2]);
});

contract('ACK-08', 'a batch of one message is a batch like any other', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const calls: { size: number; signal: AbortSignal }[] = [];
  const options = { group: 'g', retry, timeout: 300, batch: { size: 1 } };
  await bus.subscribeBatch(topic, options, async (messages, signal) => {
    calls.push({ size: messages.length, signal });
    if (calls.length === 1) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  });
  await bus.publish(topic, 1, { key });
  await s.eventually('a second attempt', () => calls.length === 2);
  expect(calls.map(({ size }) => size)).toEqual([1, 1]);
  expect(calls[0]?.signal.reason).toMatchObject({ code: 'HANDLER_TIMEOUT' });
});

contract('ACK-09', 'an attempt beyond its time-out fails, and its signal says why', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const reasons: unknown[] = [];
  const record = s.recorder<number>(async ({ signal, attempt }) => {
    if (attempt > 1) return;
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    reasons.push((signal.reason as WaybillError).code);
  });
  const started = performance.now();
  const subscription = await bus.subscribe(topic, { group: 'g', retry, timeout: 300 }, record.handler);
  await bus.publish(topic, 1);
  await record.waitFor(2);
  await s.eventually('the second attempt to be acked', () => subscription.stats().acked === 1);
  expect(reasons).toEqual(['HANDLER_TIMEOUT']);
  expect(record.seen.map(({ attempt }) => attempt)).toEqual([1, 2]);
  expect((record.seen[1]?.at ?? 0) - (record.seen[0]?.at ?? started)).toBeGreaterThan(300);
});

contract('ACK-09', 'a handler that does not listen holds up neither its message nor the others', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const never = Promise.withResolvers<void>();
  s.afterwards(() => never.resolve());
  const record = s.recorder<string>(async ({ data }) => {
    if (data === 'deaf') await never.promise;
  });
  const options = { group: 'g', concurrency: 1, timeout: 300, retry: { attempts: 2, delay: 50 } };
  const subscription = await bus.subscribe(topic, options, record.handler);
  await bus.publish(topic, 'deaf', { key });
  await bus.publish(topic, 'other', { key });
  await s.eventually('one to be acked and one to die', () => subscription.stats(), {
    until: ({ acked, deadLettered }) => acked === 1 && deadLettered === 1,
  });
  // Their late end is nobody's any more.
  never.resolve();
  await record.nothingMore();
  expect(record.of('deaf').map(({ attempt }) => attempt)).toEqual([1, 2]);
  const [letter] = await bus.deadLetters(topic, 'g').peek();
  expect(letter?.error?.name).toBe('HandlerTimeoutError');
});

contract('ACK-09', 'extend() gives an attempt more time', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>(async (message) => {
    message.extend('10s');
    await wait(900);
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry, timeout: 300 }, record.handler);
  await bus.publish(topic, 1);
  await s.eventually('the message to be settled', () => subscription.stats(), {
    until: ({ acked, retried }) => acked + retried === 1,
  });
  expect(subscription.stats()).toMatchObject({ acked: 1, retried: 0 });
  expect(record.seen[0]?.message.signal.aborted).toBe(false);
});
