import { createHash } from 'node:crypto';
import { type Bus, topic as declare, type PublishOptions, type Receipt, WaybillError } from '@waybill/core';
import { expect } from 'vitest';
import { z } from 'zod';
import { doubles, failure, failureWith, oneGroup, publishAll, range, sorted } from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY, type Scenario, settles } from '../scenario.ts';

/** A `publishTimeout` to run into; a first publish, which also looks for its topic and makes it, has to fit in. */
const IMPATIENT = 4_000;

contract(
  'PUB-01',
  'stores the message for every group before it resolves, whatever happens to the publisher',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    await bus.provision([{ topic, groups: ['a', 'b', 'c'] }]);
    const publisher = await s.member('publisher', { topic, count: 1 });
    await publisher.waitFor('confirmed');
    await publisher.kill();
    for (const group of ['a', 'b', 'c']) {
      const recorder = s.recorder<number>();
      await bus.subscribe(topic, { group }, recorder.handler);
      await recorder.waitFor(1);
      expect(recorder.data).toEqual([1]);
    }
  },
  { deadly: true },
);

contract(
  'PUB-01',
  'keeps what is confirmed over a power cut of the broker',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    await bus.provision([{ topic, groups: ['a', 'b'] }]);
    await publishAll(bus, topic, range(1, 50));
    await s.broker.stop();
    await s.broker.start();
    const after = await s.connect();
    for (const group of ['a', 'b']) {
      const recorder = s.recorder<number>();
      await after.subscribe(topic, { group }, recorder.handler);
      await recorder.waitFor(50, RECOVERY);
      expect(sorted([...new Set(recorder.data)])).toEqual(range(1, 50));
    }
  },
  { disruptive: true },
);

contract(
  'PUB-01',
  'does not resolve while the broker has not answered',
  async (s) => {
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const topic = s.topicName();
    await bus.publish(topic, 'first');
    await link.loseReplies();
    let resolved = false;
    const publish = bus.publish(topic, 'second').then(() => {
      resolved = true;
    });
    // A confirmation that was not waited for would come within milliseconds.
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(resolved).toBe(false);
    await link.cut('reset');
    await link.mend();
    await settles('the publish resolves after the reconnect', publish, RECOVERY);
  },
  { deadly: true },
);

contract('PUB-01', 'gives a receipt with the id, given or made', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<string>();
  await bus.subscribe(topic, { group: 'g', concurrency: 1 }, recorder.handler);
  const given = await bus.publish(topic, 'given', { id: 'order-1/€' });
  const made = await bus.publish(topic, 'made');
  const other = await bus.publish(topic, 'other');
  expect(given.id).toBe('order-1/€');
  expect(made.id).toMatch(/^[0-9a-f-]{36}$/);
  expect(other.id).not.toBe(made.id);
  await recorder.waitFor(3);
  const byData = new Map(recorder.seen.map(({ data, id }) => [data, id]));
  expect(byData).toEqual(
    new Map([
      ['given', given.id],
      ['made', made.id],
      ['other', other.id],
    ]),
  );
});

contract('PUB-02', 'carries body, content type, type, headers, key, id and time unchanged', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<Uint8Array>((message) => {
    if (message.attempt === 1) throw new Error('once more, as a copy');
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 10 } }, recorder.handler);
  const body = Uint8Array.from({ length: 1_024 }, (_, i) => i % 256);
  const headers: Record<string, string> = {
    'X-Trace': '00-4bf92f3577b34da6-01',
    unicode: 'żółw 🐢 \u0000 \n "quoted" 中文',
    empty: '',
    long: 'é'.repeat(2_048),
  };
  for (const n of range(1, 60)) headers[`h${n}`] = String(n);
  const before = Date.now();
  await bus.publish(topic, body, {
    id: 'id ✓ 1',
    key: 'customer/ß-1 🐢',
    type: 'order.placed',
    contentType: 'application/vnd.example+cbor; version=1',
    headers,
  });
  const after = Date.now();
  await recorder.waitFor(2);
  const expected = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
  for (const { message } of recorder.seen) {
    expect(Buffer.from(message.body).equals(body), `body of attempt ${message.attempt}`).toBe(true);
    expect({ ...message.headers }).toEqual(expected);
    expect(message.id).toBe('id ✓ 1');
    expect(message.key).toBe('customer/ß-1 🐢');
    expect(message.type).toBe('order.placed');
    expect(message.contentType).toBe('application/vnd.example+cbor; version=1');
    expect(message.topic).toBe(topic);
    expect(message.group).toBe('g');
    expect(message.publishedAt.getTime()).toBeGreaterThanOrEqual(before);
    expect(message.publishedAt.getTime()).toBeLessThanOrEqual(after);
  }
  expect(recorder.seen[0]?.message.publishedAt).toEqual(recorder.seen[1]?.message.publishedAt);
});

contract('PUB-02', 'carries an empty body, and data of every JSON shape', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g', concurrency: 1 }, recorder.handler);
  const empty = await bus.publish(topic, new Uint8Array(0), { id: 'empty' });
  expect(empty.id).toBe('empty');
  const shapes = [null, true, 0, -1.5e300, '', 'text 🐢', [], {}, [[null, { a: [1] }]], { ключ: 'ß' }];
  for (const [n, data] of shapes.entries()) await bus.publish(topic, data, { id: `shape-${n}` });
  await recorder.waitFor(shapes.length + 1);
  const first = recorder.seen.find(({ id }) => id === 'empty');
  expect(first?.message.body.byteLength).toBe(0);
  expect(first?.data).toBeInstanceOf(Uint8Array);
  for (const [n, data] of shapes.entries()) {
    expect(recorder.seen.find(({ id }) => id === `shape-${n}`)?.data).toEqual(data);
  }
});

/** Bytes that no compression or repetition can stand in for. */
function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 0x2545f491;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** As much as the portable limits allow beside the body. */
function fullest(): PublishOptions {
  const headers = Object.fromEntries(range(1, 64).map((n) => [`header-${n}`, 'v'.repeat(240)]));
  return { id: 'i'.repeat(128), key: 'k'.repeat(512), type: 't'.repeat(128), headers };
}

contract('PUB-03', 'brings a body at the limit through, its retry and its dead letter too', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const body = noise(s.capabilities.maxMessageBytes);
  const expected = digest(body);
  const recorder = s.recorder(async (message) => {
    if (message.attempt === 1) throw new Error('e'.repeat(4_000));
    await message.reject('r'.repeat(4_000));
  });
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 3, delay: 10 } }, recorder.handler);
  await bus.publish(topic, body, fullest());
  await recorder.waitFor(2);
  for (const { message } of recorder.seen) expect(digest(message.body)).toBe(expected);
  const deadLetters = bus.deadLetters(topic, 'g');
  const [entry] = await s.eventually('the dead letter', () => deadLetters.peek({ limit: 2 }), {
    until: (entries) => entries.length === 1,
  });
  expect(digest(entry?.body ?? new Uint8Array())).toBe(expected);
});

contract(
  'PUB-03',
  'refuses one byte more before anything is sent, without harm to the rest of the batch',
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const recorder = s.recorder();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    const limit = s.capabilities.maxMessageBytes;
    const over = new Uint8Array(limit + 1);
    await failureWith('MESSAGE_TOO_LARGE', () => bus.publish(topic, over), {
      size: limit + 1,
      limit,
      message: new RegExp(`${limit + 1}.*${limit}`),
    });
    const [first, second, third] = await bus.publishBatch(topic, [{ data: 'a' }, { data: over }, { data: 'b' }]);
    expect([first?.ok, second?.ok, third?.ok]).toEqual([true, false, true]);
    expect(second?.ok === false && WaybillError.is(second.error, 'MESSAGE_TOO_LARGE')).toBe(true);
    await bus.publish(topic, 'marker');
    await recorder.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
    await recorder.waitFor(3);
    expect(recorder.data.map(String).sort()).toEqual(['a', 'b', 'marker']);
  },
);

contract('PUB-04', 'settles 2,000 publishes in flight, each with its own receipt', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g', concurrency: 100 }, recorder.handler);
  const cancelled = AbortSignal.abort();
  const outcomes = await Promise.allSettled(
    range(1, 2_000).map((data) =>
      // Every hundredth fails, and must take nobody with it.
      bus.publish(topic, data, { id: `m${data}`, ...(data % 100 === 0 ? { signal: cancelled } : {}) }),
    ),
  );
  for (const [n, outcome] of outcomes.entries()) {
    if ((n + 1) % 100 === 0) expect(outcome.status, `publish ${n + 1}`).toBe('rejected');
    else expect(outcome.status === 'fulfilled' && outcome.value.id, `publish ${n + 1}`).toBe(`m${n + 1}`);
  }
  await recorder.waitFor(1_980);
  expect(sorted(recorder.data)).toEqual(range(1, 2_000).filter((data) => data % 100 !== 0));
  for (const { id, data } of recorder.seen) expect(id).toBe(`m${data}`);
});

contract('PUB-05', 'gives a result per message of a batch, in the order given', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const items = range(0, 499).map((data) => ({ data, id: data === 250 ? 'x'.repeat(129) : `m${data}` }));
  const results = await bus.publishBatch(topic, items);
  expect(results).toHaveLength(500);
  for (const [n, result] of results.entries()) {
    if (n === 250) expect(!result.ok && WaybillError.is(result.error, 'INVALID_MESSAGE')).toBe(true);
    else expect(result.ok && result.receipt.id, `result ${n}`).toBe(`m${n}`);
  }
  expect(await bus.publishBatch(topic, [])).toEqual([]);
  await recorder.waitFor(499);
});

/**
 * Resolves when a bus whose link is cut hands nothing more to the network. That the broker is away may be known already
 * while the one connection on which nothing was sent has not noticed yet, and what is given to it then is not "not
 * sent": so publishes go first that may perhaps arrive.
 */
async function untilAway(s: Scenario, bus: Bus, topic: string): Promise<void> {
  await s.eventually('the bus knows that the broker is away', async () => {
    const cancel = new AbortController();
    const publish = bus.publish(topic, PERHAPS, { signal: cancel.signal });
    publish.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 100));
    cancel.abort();
    const handed = new Promise((resolve) => setTimeout(resolve, 50, 'handed to the network'));
    const error = await Promise.race([publish, handed]).catch((reason: unknown) => reason);
    return WaybillError.is(error, 'PUBLISH') && (error as { outcome?: unknown }).outcome === 'not-sent';
  });
}

const PERHAPS = -1;

contract(
  'PUB-06',
  'waits for the reconnect, and then publishes',
  async (s) => {
    const link = await s.network();
    const [bus, away] = [await s.connect(), await s.connect({ to: link })];
    const topic = s.topicName();
    const recorder = s.recorder<number>();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    await away.publish(topic, 0);
    await link.cut('reset');
    let settled = 0;
    const publishes = range(1, 20).map((data) =>
      away.publish(topic, data).finally(() => {
        settled++;
      }),
    );
    await s.eventually('the bus knows that the broker is away', async () => (await away.health()).status !== 'up');
    expect(settled).toBe(0);
    await link.mend();
    await settles('the publishes resolve', Promise.all(publishes), RECOVERY);
    await recorder.waitFor((seen) => new Set(seen.map(({ data }) => data)).size === 21);
  },
  { deadly: true },
);

contract(
  'PUB-06',
  'gives up after publishTimeout, knowing that nothing was sent',
  async (s) => {
    const link = await s.network();
    const [bus, away] = [await s.connect(), await s.connect({ to: link, publishTimeout: IMPATIENT })];
    const topic = s.topicName();
    const recorder = s.recorder();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    await away.publish(topic, 'before');
    await link.cut('reset');
    await untilAway(s, away, topic);
    const start = performance.now();
    await failureWith('PUBLISH_TIMEOUT', () => away.publish(topic, 'never'), { outcome: 'not-sent' });
    const took = performance.now() - start;
    expect(took).toBeGreaterThanOrEqual(IMPATIENT - 100);
    expect(took).toBeLessThan(IMPATIENT + AT_ONCE);
    await link.mend();
    await s.eventually('publishing works again', () => away.publish(topic, 'marker'), { within: RECOVERY });
    await recorder.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
    expect(recorder.data).not.toContain('never');
  },
  { deadly: true },
);

contract(
  'PUB-06',
  'gives up after publishTimeout, saying that the outcome is unknown',
  async (s) => {
    const link = await s.network();
    const bus = await s.connect({ to: link, publishTimeout: IMPATIENT });
    const topic = s.topicName();
    await bus.publish(topic, 'before');
    await link.loseReplies();
    await failureWith('PUBLISH_TIMEOUT', () => bus.publish(topic, 'perhaps'), { outcome: 'unknown' });
    // The next one may look at its topic first, and that reply is lost as well.
    const again = failureWith('PUBLISH_TIMEOUT', () => bus.publish(topic, 'again'));
    await settles('the next publish gives up in its time', again, IMPATIENT + AT_ONCE);
  },
  { deadly: true },
);

contract(
  'PUB-06',
  'bounds what waits by maxPendingPublishes, and settles all of it',
  async (s) => {
    const link = await s.network();
    const [bus, away] = [
      await s.connect(),
      await s.connect({ to: link, publishTimeout: IMPATIENT, maxPendingPublishes: 10 }),
    ];
    const topic = s.topicName();
    const recorder = s.recorder<number>();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    await away.publish(topic, 0);
    await link.cut('reset');
    await untilAway(s, away, topic);
    const start = performance.now();
    const given = await settles(
      'every publish gives up in its time',
      Promise.all(range(1, 50).map((data) => failure(() => away.publish(topic, data)))),
      IMPATIENT + AT_ONCE,
    );
    expect(performance.now() - start).toBeGreaterThanOrEqual(IMPATIENT - 100);
    for (const error of given) {
      expect(WaybillError.is(error, 'PUBLISH_TIMEOUT'), String(error)).toBe(true);
      expect((error as { outcome?: unknown }).outcome).toBe('not-sent');
    }
    const waiting = range(51, 100).map((data) => away.publish(topic, data));
    await link.mend();
    // Room for ten at a time is enough for all of them, one after the other.
    const outcomes = await Promise.allSettled(waiting);
    await s.eventually('publishing works again', () => away.publish(topic, 101), { within: RECOVERY });
    await recorder.waitFor((seen) => seen.some(({ data }) => data === 101));
    const stored = range(51, 100).filter((_, n) => outcomes[n]?.status === 'fulfilled');
    await recorder.waitFor((seen) => stored.every((data) => seen.some((one) => one.data === data)));
    expect(recorder.data.filter((data) => data >= 1 && data <= 50)).toEqual([]);
  },
  { deadly: true },
);

contract(
  'PUB-07',
  'cancels a publish that has not been handed to the broker',
  async (s) => {
    const link = await s.network();
    const [bus, away] = [await s.connect(), await s.connect({ to: link })];
    const topic = s.topicName();
    const recorder = s.recorder();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    await away.publish(topic, 'before');
    await link.cut('reset');
    await untilAway(s, away, topic);
    const cancel = new AbortController();
    const cancelled = failureWith('PUBLISH', () => away.publish(topic, 'cancelled', { signal: cancel.signal }), {
      outcome: 'not-sent',
    });
    const kept = away.publish(topic, 'kept');
    kept.catch(() => {});
    cancel.abort();
    await settles('the cancelled publish rejects at once', cancelled, AT_ONCE);
    await failureWith('PUBLISH', () => away.publish(topic, 'never', { signal: AbortSignal.abort() }), {
      outcome: 'not-sent',
    });
    await link.mend();
    await settles('the other publish resolves', kept, RECOVERY);
    await away.publish(topic, 'marker');
    await recorder.waitFor((seen) => ['kept', 'marker'].every((data) => seen.some((one) => one.data === data)));
    expect(recorder.data).not.toContain('cancelled');
    expect(recorder.data).not.toContain('never');
  },
  { deadly: true },
);

contract('PUB-07', 'leaves a publish alone that has been confirmed', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const late = new AbortController();
  await bus.publish(topic, 'stored', { signal: late.signal });
  late.abort();
  await recorder.waitFor(1);
  expect(recorder.data).toEqual(['stored']);
});

interface Step {
  readonly key: string;
  readonly n: number;
}

/** Numbers of a key in the order in which they were handled first. */
function firstOrder(seen: readonly { readonly data: Step }[], key: string): number[] {
  return [...new Set(seen.filter(({ data }) => data.key === key).map(({ data }) => data.n))];
}

const keys = ['a', 'b', 'c', 'd', 'e'];

contract('PUB-08', 'stores the messages of a key in the order of the calls, across batches', async (s) => {
  const topic = declare<Step>(s.topicName('steps'), { ordered: true, key: ({ key }) => key });
  const bus = await s.connect();
  const recorder = s.recorder<Step>();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const publishes: Promise<unknown>[] = [];
  for (let n = 1; n <= 60; n++) {
    const steps = keys.map((key) => ({ data: { key, n } }));
    // Single calls and batches in turn; some across a turn of the event loop, when sends are under way.
    if (n % 3 === 0) publishes.push(bus.publishBatch(topic, steps));
    else for (const { data } of steps) publishes.push(bus.publish(topic, data));
    if (n % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(publishes);
  await recorder.waitFor(300);
  for (const key of keys) expect(firstOrder(recorder.seen, key), `key ${key}`).toEqual(range(1, 60));
});

for (const what of ['a reset', 'lost replies'] as const) {
  contract(
    'PUB-08',
    `keeps the order of a key over ${what}`,
    async (s) => {
      const topic = declare<Step>(s.topicName('steps'), { ordered: true, key: ({ key }) => key });
      const link = await s.network();
      const [bus, publisher] = [await s.connect(), await s.connect({ to: link })];
      const recorder = s.recorder<Step>();
      await bus.subscribe(topic, { group: 'g' }, recorder.handler);
      await publisher.publish(topic, { key: 'z', n: 0 });
      const outcomes: Promise<{ step: Step; stored: boolean }>[] = [];
      const publish = (from: number, to: number): void => {
        for (const n of range(from, to)) {
          for (const key of keys) {
            const step = { key, n };
            outcomes.push(
              publisher.publish(topic, step).then(
                () => ({ step, stored: true }),
                () => ({ step, stored: false }),
              ),
            );
          }
        }
      };
      publish(1, 10);
      await new Promise((resolve) => setImmediate(resolve));
      if (what === 'lost replies') await link.loseReplies();
      publish(11, 20);
      await new Promise((resolve) => setTimeout(resolve, 20));
      await link.cut('reset');
      publish(21, 30);
      await link.mend();
      publish(31, 40);
      const settled = await settles('every publish settles', Promise.all(outcomes), 2 * RECOVERY);
      const stored = settled.filter((one) => one.stored).map(({ step }) => step);
      await recorder.waitFor((seen) =>
        stored.every(({ key, n }) => seen.some(({ data }) => data.key === key && data.n === n)),
      );
      expect(stored.length).toBeGreaterThan(100);
      for (const key of keys) {
        const order = firstOrder(recorder.seen, key);
        expect(order, `key ${key}`).toEqual(sorted(order));
      }
    },
    { deadly: true },
  );
}

contract('PUB-08', 'goes on behind a message that fails for good', async (s) => {
  const topic = declare<Uint8Array>(s.topicName('steps'), { ordered: true, key: () => 'k' });
  const bus = await s.connect();
  const recorder = s.recorder<Uint8Array>();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const body = (n: number): Uint8Array =>
    n === 5 ? new Uint8Array(s.capabilities.maxMessageBytes + 1) : Uint8Array.of(n);
  const outcomes = await Promise.allSettled(range(1, 10).map((n) => bus.publish(topic, body(n))));
  expect(outcomes[4]?.status).toBe('rejected');
  const stored = range(1, 10).filter((n) => outcomes[n - 1]?.status === 'fulfilled');
  expect(stored.slice(0, 4)).toEqual([1, 2, 3, 4]);
  await recorder.waitFor(stored.length);
  expect(recorder.data.map((data) => data[0])).toEqual(stored);
});

contract('PUB-09', 'publishes to a topic without groups, and says so at most once', async (s) => {
  if (!s.supports('groups')) return await oneGroup(s);
  const topic = s.topicName('nobody');
  const bus = await s.connect();
  const receipts: Receipt[] = [];
  for (const data of range(1, 5)) receipts.push(await bus.publish(topic, data));
  expect(doubles(receipts.map(({ id }) => id))).toEqual([]);
  const told = s.logs.filter(({ level, text }) => level !== 'debug' && text.includes(topic));
  expect(told.length).toBeLessThanOrEqual(1);
  const recorder = s.recorder<number>();
  await bus.subscribe(topic, { group: 'late' }, recorder.handler);
  await bus.publish(topic, 6);
  await recorder.waitFor(1);
  expect(recorder.data).toEqual([6]);
});

const half = '\ud800';
const badOptions: readonly (readonly [what: string, field: RegExp, options: PublishOptions])[] = [
  ['an empty id', /^id$/, { id: '' }],
  ['an id of 129 bytes', /^id$/, { id: `${'é'.repeat(64)}x` }],
  ['an id with half a character', /^id$/, { id: half }],
  ['an id that is no text', /^id$/, { id: 7 as never }],
  ['a key of 513 bytes', /^key$/, { key: `${'é'.repeat(256)}x` }],
  ['an empty key', /^key$/, { key: '' }],
  ['65 headers', /^headers$/, { headers: Object.fromEntries(range(1, 65).map((n) => [`h${n}`, ''])) }],
  ['a header of ours', /^headers\.waybill-id$/, { headers: { 'waybill-id': 'x' } }],
  ['a header of ours in capitals', /^headers\.Waybill-Id$/i, { headers: { 'Waybill-Id': 'x' } }],
  ['a header name with a space', /^headers\.a b$/, { headers: { 'a b': 'x' } }],
  ['a header name twice', /^headers\./, { headers: { a: '1', A: '2' } }],
  ['a header value over 4 KiB', /^headers\.a$/, { headers: { a: 'x'.repeat(4_097) } }],
  ['a header value that is no text', /^headers\.a$/, { headers: { a: 1 as never } }],
  [
    'headers over 16 KiB together',
    /^headers$/,
    { headers: Object.fromEntries(range(1, 5).map((n) => [`h${n}`, 'x'.repeat(4_000)])) },
  ],
  ['a content type that is none', /^contentType$/, { contentType: 'json' }],
  ['a negative delay', /^delay$/, { delay: -1 }],
  ['a delay that is no number', /^delay$/, { delay: Number.NaN }],
  ['a delay that is no duration', /^delay$/, { delay: '5 minutes' as never }],
  ['two delays', /^(delay|deliverAt)$/, { delay: 1, deliverAt: new Date() }],
  ['a date that is none', /^deliverAt$/, { deliverAt: new Date(Number.NaN) }],
  ['a negative expiry', /^ttl$/, { ttl: -1 }],
  ['two expiries', /^(ttl|expiresAt)$/, { ttl: 1, expiresAt: new Date() }],
  ['an unknown option', /kee/, { kee: 'typing error' } as never],
];

/** Errors of publish options name their field; which of the two classes it is depends on what is wrong. */
async function rejectsField(call: () => unknown, field: RegExp, what: string): Promise<void> {
  const error = await failure(call).catch((problem: unknown) => {
    throw new Error(`${what}: ${problem}`);
  });
  const typed = WaybillError.is(error, 'INVALID_MESSAGE') || WaybillError.is(error, 'CONFIG');
  expect(typed, `${what}: ${error}`).toBe(true);
  expect((error as { field?: string }).field, what).toMatch(field);
}

contract('PUB-10', 'rejects options over the portable limits at the call, naming the field', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  for (const [what, field, options] of badOptions) {
    await rejectsField(() => bus.publish(topic, 'bad', options), field, what);
  }
  await bus.publish(topic, 'marker');
  await recorder.waitFor(1);
  expect(recorder.data).toEqual(['marker']);
});

contract('PUB-10', 'rejects names of topics that cannot be carried everywhere', async (s) => {
  const bus = await s.connect();
  for (const name of ['', 'a b', 'a/b', 'ü', 'x'.repeat(101), 'waybill-mine', 'Waybill-Mine']) {
    await rejectsField(() => bus.publish(name, 1), /^topic$/, `topic ${JSON.stringify(name)}`);
  }
});

contract('PUB-10', 'rejects data that would not survive, naming the place', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const circle: { self?: unknown } = {};
  circle.self = circle;
  const bad: readonly (readonly [what: string, field: RegExp, data: unknown])[] = [
    ['nothing', /^data$/, undefined],
    ['a function', /^data\.run$/, { run: () => 1 }],
    ['a symbol', /^data\.mark$/, { mark: Symbol('x') }],
    ['a bigint', /^data\.total$/, { total: 12n }],
    ['no number', /^data\.items/, { items: [1, Number.NaN] }],
    ['endless', /^data\.far$/, { far: Number.POSITIVE_INFINITY }],
    ['a map', /^data\.map$/, { map: new Map([[1, 2]]) }],
    ['a circle', /^data/, circle],
  ];
  for (const [what, field, data] of bad) await rejectsField(() => bus.publish(topic, data), field, what);
  await bus.publish(topic, 'marker');
  await recorder.waitFor(1);
  expect(recorder.data).toEqual(['marker']);
});

contract('PUB-10', 'rejects what the schema refuses, and a schema that does not survive the codec', async (s) => {
  const bus = await s.connect();
  const schema = z.object({ orderId: z.string(), total: z.number() });
  const orders = declare(s.topicName('orders'), { schema, key: (order) => order.orderId });
  const recorder = s.recorder<z.infer<typeof schema>>();
  await bus.subscribe(orders, { group: 'g' }, recorder.handler);
  await failureWith('INVALID_MESSAGE', () => bus.publish(orders, { orderId: 'o', total: 'many' as never }), {
    field: /^data\.total$/,
  });
  const [good, bad] = await bus.publishBatch(orders, [
    { data: { orderId: 'o-1', total: 1 } },
    { data: { orderId: 2 as never, total: 2 } },
  ]);
  expect([good?.ok, bad?.ok]).toEqual([true, false]);
  await recorder.waitFor(1);
  expect(recorder.seen.map(({ data, key }) => [data, key])).toEqual([[{ orderId: 'o-1', total: 1 }, 'o-1']]);
  // As JSON a Date is text, which this schema does not take back.
  const dated = declare(s.topicName('dated'), { schema: z.object({ at: z.date() }) });
  await failureWith('INVALID_MESSAGE', () => bus.publish(dated, { at: new Date() }), { field: /^data\.at$/ });
});
