import type { Bus, DeadLetter } from '@waybill/core';
import { PermanentError, topic } from '@waybill/core';
import { expect } from 'vitest';
import { AT_ONCE, contract, RECOVERY, type Scenario } from '../scenario.ts';

const key = 'k';
/** Fails for good at the first attempt. */
const once = { attempts: 1 };

function fail(): never {
  throw new RangeError('does not work');
}

/** Waits until a group has that many dead letters, and returns them. */
function deadLetters(s: Scenario, bus: Bus, topic: string, group: string, count: number): Promise<DeadLetter[]> {
  return s.eventually(`${count} dead letters`, () => bus.deadLetters(topic, group).peek({ limit: count + 1 }), {
    until: (letters) => letters.length === count,
    within: RECOVERY,
  });
}

/** A group with `count` dead letters, whose data are 0, 1, 2, … in the order of the dead letters. */
async function bury(s: Scenario, bus: Bus, topic: string, group: string, count: number): Promise<DeadLetter[]> {
  const subscription = await bus.subscribe(topic, { group, concurrency: 1, retry: once }, fail);
  for (let data = 0; data < count; data++) {
    await bus.publish(topic, data, { key });
    await s.eventually(`message ${data} to die`, () => subscription.stats().deadLettered === data + 1);
  }
  await subscription.close();
  return await deadLetters(s, bus, topic, group, count);
}

const datas = (letters: readonly { readonly data: unknown }[]): unknown[] => letters.map(({ data }) => data);
const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

contract('DLQ-01', 'a dead letter is the message unchanged, with why and when it died', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const body = new Uint8Array([0, 255, 1, 254, 13, 10, 0]);
  const headers = { 'x-text': 'grüße 👋', 'x-empty': '', 'x-long': 'x'.repeat(4_096) };
  const subscription = await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 50 } }, fail);
  const before = Date.now();
  await bus.publish(topic, body, { id: 'id-1', key: 'key ü', headers, contentType: 'application/x-thing' });
  const [letter] = await deadLetters(s, bus, topic, 'g', 1);
  expect(letter).toMatchObject({
    id: 'id-1',
    key: 'key ü',
    contentType: 'application/x-thing',
    topic,
    group: 'g',
    reason: 'exhausted',
    error: { name: 'RangeError', message: 'does not work' },
    attempts: 2,
  });
  expect(letter?.headers).toEqual(headers);
  expect([...(letter?.body ?? [])]).toEqual([...body]);
  expect(letter?.entry).toMatch(/./);
  const { publishedAt, at } = letter ?? {};
  expect(publishedAt?.getTime()).toBeGreaterThanOrEqual(before - 1_000);
  expect(at?.getTime()).toBeGreaterThanOrEqual(before);
  expect(at?.getTime()).toBeLessThanOrEqual(Date.now());
  // The entry can be seen before the ack of the original has been answered.
  await s.eventually('it to be counted', () => subscription.stats().deadLettered === 1);
});

contract('DLQ-01', 'an empty body and an event type stay what they are', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.subscribe(topic, { group: 'g', retry: once }, fail);
  await bus.publish(topic, new Uint8Array(), { type: 'thing.happened' });
  const [letter] = await deadLetters(s, bus, topic, 'g', 1);
  expect(letter?.body.byteLength).toBe(0);
  expect(letter?.type).toBe('thing.happened');
});

contract('DLQ-01', 'headers named like a member of every object survive retry and dead letter', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const given = ['constructor', 'x-mine'].map((name) => [name, `of ${name}`] as const);
  const record = s.recorder(fail);
  await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 50 } }, record.handler);
  await bus.publish(topic, 1, { key, headers: Object.fromEntries(given) });
  const [letter] = await deadLetters(s, bus, topic, 'g', 1);
  for (const { headers } of [...record.seen.map(({ message }) => message), letter ?? { headers: {} }]) {
    expect(Object.entries(headers).sort()).toEqual(given);
  }
  expect(record.count).toBe(2);
});

contract('DLQ-01', 'two messages with one id are two entries', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.subscribe(topic, { group: 'g', retry: once }, fail);
  for (const data of ['one', 'two']) await bus.publish(topic, data, { id: 'same', key });
  const letters = await deadLetters(s, bus, topic, 'g', 2);
  expect(letters.map(({ id }) => id)).toEqual(['same', 'same']);
  expect(datas(letters).sort()).toEqual(['one', 'two']);
  expect(new Set(letters.map(({ entry }) => entry)).size).toBe(2);
});

contract('DLQ-01', 'every way to the dead letters says which it was', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  await bus.subscribe(topic, { group: 'g', retry: once }, async (message) => {
    if (message.data === 'permanent') throw new PermanentError('for good');
    if (message.data === 'reject') return await message.reject('not for us');
    if (message.data === 'text') throw 'a text';
    throw new TypeError('last attempt');
  });
  for (const data of ['permanent', 'reject', 'text', 'exhausted']) await bus.publish(topic, data);
  await bus.publish(topic, new TextEncoder().encode('{'), { contentType: 'application/json', id: 'invalid' });
  const letters = await deadLetters(s, bus, topic, 'g', 5);
  const found = new Map(letters.map((letter) => [letter.id === 'invalid' ? 'invalid' : letter.data, letter]));
  expect(found.get('permanent')).toMatchObject({
    reason: 'rejected',
    error: { name: 'PermanentError', message: 'for good' },
  });
  expect(found.get('reject')).toMatchObject({ reason: 'rejected', error: { message: 'not for us' }, attempts: 1 });
  expect(found.get('text')).toMatchObject({ reason: 'exhausted', error: { message: 'a text' } });
  expect(found.get('exhausted')).toMatchObject({
    reason: 'exhausted',
    error: { name: 'TypeError', message: 'last attempt' },
  });
  // No handler saw it.
  expect(found.get('invalid')).toMatchObject({ reason: 'invalid', attempts: 0, data: undefined });
});

contract(
  'DLQ-02',
  'a dead letter that cannot be written leaves the message with the broker',
  async (s) => {
    const topic = s.topicName();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const cut = Promise.withResolvers<void>();
    const record = s.recorder(async () => {
      await cut.promise;
      fail();
    });
    await bus.subscribe(topic, { group: 'g', retry: once }, record.handler);
    const outside = await s.connect();
    await outside.publish(topic, 1);
    await record.waitFor(1);
    await link.cut('reset');
    cut.resolve();
    await s.eventually('the handler to end', () => record.running === 0);
    // Time for the first tries, which all fail.
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect((await outside.deadLetters(topic, 'g').count()).value).toBe(0);
    await link.mend();
    await s.eventually('the dead letter', async () => (await outside.deadLetters(topic, 'g').count()).value >= 1, {
      within: RECOVERY + s.takeOver,
    });
  },
  { deadly: true },
);

contract(
  'DLQ-02',
  'the message of a member that dies before the dead letter is written is not lost',
  async (s) => {
    const topic = s.topicName();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const cut = Promise.withResolvers<void>();
    const record = s.recorder(async () => {
      await cut.promise;
      fail();
    });
    const options = { group: 'g', lease: s.lease, retry: once };
    await bus.subscribe(topic, options, record.handler);
    const outside = await s.connect();
    await outside.publish(topic, 1);
    await record.waitFor(1);
    await link.cut('blackhole');
    cut.resolve();
    await s.eventually('the handler to end', () => record.running === 0);
    const heir = s.recorder();
    await outside.subscribe(topic, options, heir.handler);
    await heir.waitFor(1, s.takeOver);
  },
  { deadly: true },
);

contract('DLQ-02', 'without a place for dead letters no message is acked for lack of it', async (s) => {
  const topic = s.topicName();
  const first = await s.connect();
  const options = { group: 'g', lease: s.lease, retry: once };
  const record = s.recorder(fail);
  await first.subscribe(topic, options, record.handler);
  await s.foreign.remove('dead-letters', { topic, group: 'g' });
  await first.publish(topic, 1);
  await record.waitFor(1);
  const outside = await s.connect();
  const count = async (): Promise<number> => (await outside.deadLetters(topic, 'g').count()).value;
  // Either it makes the place again by itself, or the next member does, and the message is still there.
  await s.eventually('a dead letter', count, { within: s.takeOver }).catch(async () => {
    await first.close({ timeout: 1_000 });
    await outside.subscribe(topic, options, fail);
    await s.eventually('a dead letter by the next member', count, { within: s.takeOver + RECOVERY });
  });
});

contract('DLQ-03', 'dead letters are counted and shown, the oldest first, and stay', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const letters = bus.deadLetters(topic, 'g');
  await bus.subscribe(topic, { group: 'g' }, () => {}).then((subscription) => subscription.close());
  expect(await letters.count()).toMatchObject({ value: 0 });
  expect(await letters.peek()).toEqual([]);

  const buried = await bury(s, bus, topic, 'g', 6);
  expect(datas(buried)).toEqual(numbers(6));
  // Where a look hides the entries, the next one may come too early for a moment, but no longer than that.
  const within = s.supports('openPeek') ? 0 : AT_ONCE;
  const shown = async (options: Parameters<typeof letters.peek>[0], expected: readonly DeadLetter[]): Promise<void> => {
    const entries = expected.map(({ entry }) => entry);
    await s.eventually('the right entries to be shown, in their order', () => letters.peek(options), {
      until: (seen) => seen.length === entries.length && seen.every(({ entry }, at) => entry === entries[at]),
      within,
    });
  };
  for (let looks = 0; looks < 3; looks++) {
    await shown({}, buried);
    await shown({ limit: 2 }, buried.slice(0, 2));
    const odd = ({ data }: DeadLetter): boolean => Number(data) % 2 === 1;
    await shown({ where: odd }, buried.filter(odd));
    await shown({ where: odd, limit: 2 }, buried.filter(odd).slice(0, 2));
  }
  const counted = await s.eventually('a count of six', () => letters.count(), { until: ({ value }) => value === 6 });
  expect(typeof counted.exact).toBe('boolean');
});

contract('DLQ-03', 'an exact count is one, at any time', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const letters = bus.deadLetters(topic, 'g');
  await bury(s, bus, topic, 'g', 3);
  const { exact } = await letters.count();
  if (exact) expect((await letters.count()).value).toBe(3);
  expect(await letters.purge({ limit: 1 })).toBe(1);
  const left = exact
    ? await letters.count()
    : await s.eventually('a count of two', () => letters.count(), {
        until: ({ value }) => value === 2,
      });
  expect(left.value).toBe(2);
});

contract('DLQ-03', 'purge removes what was chosen and nothing else', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const letters = bus.deadLetters(topic, 'g');
  const buried = await bury(s, bus, topic, 'g', 7);
  const entryOf = (data: number): string => buried[data]?.entry ?? '';
  const left = async (count: number): Promise<unknown[]> => datas(await deadLetters(s, bus, topic, 'g', count));

  expect(await letters.purge({ ids: [entryOf(2), entryOf(4), 'nobody'] })).toBe(2);
  expect(await left(5)).toEqual([0, 1, 3, 5, 6]);
  expect(await letters.purge({ where: ({ data }) => data === 5 })).toBe(1);
  expect(await left(4)).toEqual([0, 1, 3, 6]);
  expect(await letters.purge({ limit: 1 })).toBe(1);
  expect(await left(3)).toEqual([1, 3, 6]);
  expect(await letters.purge({ where: ({ data }) => Number(data) > 1, limit: 1 })).toBe(1);
  expect(await left(2)).toEqual([1, 6]);
  expect(await letters.purge('all')).toBe(2);
  expect(await left(0)).toEqual([]);
  expect(await letters.purge('all')).toBe(0);
});

contract('DLQ-03', 'redrive sends what was chosen back and nothing else', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const letters = bus.deadLetters(topic, 'g');
  const buried = await bury(s, bus, topic, 'g', 7);
  const record = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, record.handler);
  const arrived = async (all: readonly number[]): Promise<void> => {
    await record.waitFor(all.length);
    expect([...record.data].sort()).toEqual([...all].sort());
  };
  expect(await letters.redrive({ ids: [buried[3]?.entry ?? ''] })).toBe(1);
  await arrived([3]);
  expect(await letters.redrive({ where: ({ data }) => data === 5 })).toBe(1);
  await arrived([3, 5]);
  expect(await letters.redrive({ limit: 2 })).toBe(2);
  await arrived([3, 5, 0, 1]);
  expect(datas(await deadLetters(s, bus, topic, 'g', 3))).toEqual([2, 4, 6]);
  expect(await letters.redrive('all')).toBe(3);
  await arrived([3, 5, 0, 1, 2, 4, 6]);
  expect(await letters.redrive('all')).toBe(0);
  await record.nothingMore();
});

contract('DLQ-03', 'dead letters of one key of an ordered topic are all shown, and all redriven', async (s) => {
  const ordered = topic<number>(s.topicName(), { ordered: true, key: () => key });
  const bus = await s.connect();
  const letters = bus.deadLetters(ordered, 'g');
  const dies = await bus.subscribe(ordered, { group: 'g', retry: once }, fail);
  await bus.publishBatch(
    ordered,
    numbers(15).map((data) => ({ data })),
  );
  await s.eventually('all to die', () => dies.stats().deadLettered === 15, { within: RECOVERY });
  await dies.close();
  const shown = await s.eventually('15 dead letters', () => letters.peek({ limit: 20 }), {
    until: ({ length }) => length >= 15,
    within: RECOVERY,
  });
  expect(datas(shown).sort((a, b) => Number(a) - Number(b))).toEqual(numbers(15));
  const record = s.recorder<number>();
  await bus.subscribe(ordered, { group: 'g' }, record.handler);
  expect(await letters.redrive('all')).toBe(15);
  await record.waitFor(15, RECOVERY);
  expect([...record.data].sort((a, b) => a - b)).toEqual(numbers(15));
});

contract('DLQ-04', 'a redriven message goes to its own group alone, with attempts from 1', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const fails = s.recorder<string>(({ data }) => {
    if (data === 'message') fail();
  });
  const works = s.recorder<string>();
  await bus.subscribe(topic, { group: 'fails', retry: { attempts: 2, delay: 50 } }, fails.handler);
  await bus.subscribe(topic, { group: 'works' }, works.handler);
  const sent = await bus.publish(topic, 'message', { key, headers: { 'x-mine': 'yes' } });
  const [first] = await deadLetters(s, bus, topic, 'fails', 1);
  expect(await bus.deadLetters(topic, 'fails').redrive('all')).toBe(1);
  await fails.waitFor(4);
  // Dead again: a new entry of the same message.
  const [second] = await s.eventually('a new dead letter', () => bus.deadLetters(topic, 'fails').peek(), {
    until: (letters) => letters.length === 1 && letters[0]?.entry !== first?.entry,
  });
  expect(second).toMatchObject({ id: sent.id, attempts: 2, reason: 'exhausted', key });
  expect(second?.headers).toEqual({ 'x-mine': 'yes' });
  expect(fails.seen.map(({ attempt }) => attempt)).toEqual([1, 2, 1, 2]);
  expect(fails.ids).toEqual([sent.id, sent.id, sent.id, sent.id]);

  await bus.publish(topic, 'marker', { key });
  await works.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
  await works.nothingMore();
  expect(works.data).toEqual(['message', 'marker']);
  // A handler never sees where it has been.
  const names = fails.seen.flatMap(({ message }) => Object.keys(message.headers));
  expect(names.filter((name) => name.startsWith('waybill-'))).toEqual([]);
});

contract('DLQ-04', 'a redriven message does not expire', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const subscription = await bus.subscribe(topic, { group: 'g', retry: once }, fail);
  // Longer than a first delivery takes on a busy machine.
  await bus.publish(topic, 1, { ttl: 6_000 });
  const published = performance.now();
  await deadLetters(s, bus, topic, 'g', 1);
  await subscription.close();
  await s.eventually('the ttl to pass', () => performance.now() - published > 6_300);
  const record = s.recorder<number>();
  const next = await bus.subscribe(topic, { group: 'g' }, record.handler);
  expect(await bus.deadLetters(topic, 'g').redrive('all')).toBe(1);
  await record.waitFor(1);
  expect(next.stats().expired).toBe(0);
});

contract(
  'DLQ-04',
  'a redrive that is cut half-way loses nothing',
  async (s) => {
    const topic = s.topicName();
    // Several strides of the walk, so that there is something between its beginning and its end.
    const count = 300;
    const outside = await s.connect();
    const burial = await outside.subscribe(topic, { group: 'g', retry: once }, fail);
    await outside.publishBatch(
      topic,
      numbers(count).map((data) => ({ data })),
    );
    await s.eventually('all to die', () => burial.stats().deadLettered === count, { within: 2 * RECOVERY });
    await burial.close();
    const record = s.recorder<number>();
    await outside.subscribe(topic, { group: 'g' }, record.handler);
    const link = await s.network();
    const bus = await s.connect({ to: link });
    let looked = 0;
    let cut: Promise<void> | undefined;
    // In the middle if the first have come by then, else before the last: the one that is looked at is not redriven yet.
    const where = (): boolean => {
      if (++looked === count || record.count > 0) cut ??= link.cut('reset');
      return true;
    };
    const redriven = await bus
      .deadLetters(topic, 'g')
      .redrive({ where })
      .catch((error: unknown) => error);
    await cut;
    expect(redriven, 'the redrive was over before it was cut').not.toBe(count);
    await link.mend();
    // What had been read by the cut connection stays hidden until the broker has noticed: for a minute at most.
    const letters = outside.deadLetters(topic, 'g');
    await s.eventually(
      'every message to be handled or still dead',
      async () => {
        const left = datas(await letters.peek({ limit: count }));
        return numbers(count).filter((one) => !record.data.includes(one) && !left.includes(one));
      },
      { until: ({ length }) => length === 0, within: 60_000 + RECOVERY },
    );
    await s.eventually(
      'all to be redriven',
      async () => {
        await letters.redrive('all');
        return numbers(count).filter((one) => !record.data.includes(one));
      },
      { until: ({ length }) => length === 0, within: s.takeOver + RECOVERY },
    );
    // What the cut connection had redriven but not struck out comes back as a dead letter, when it is no longer hidden: it
    // may be redriven twice.
    await s.eventually(
      'no dead letter to be left',
      async () => {
        await letters.redrive('all');
        return (await letters.count()).value;
      },
      { until: (left) => left === 0, within: 60_000 + RECOVERY },
    );
  },
  { deadly: true, timeout: (lease) => 240_000 + 4 * lease },
);

contract('DLQ-05', 'groups and topics have dead letters of their own', async (s) => {
  const [topic, other] = [s.topicName(), s.topicName()];
  const bus = await s.connect();
  for (const group of ['a', 'b']) await bus.subscribe(topic, { group, retry: once }, fail);
  await bus.subscribe(other, { group: 'a', retry: once }, fail);
  await bus.publish(topic, 1);
  await bus.publish(other, 2);
  const [inA] = await deadLetters(s, bus, topic, 'a', 1);
  const [inB] = await deadLetters(s, bus, topic, 'b', 1);
  const [inOther] = await deadLetters(s, bus, other, 'a', 1);
  expect([inA?.group, inB?.group]).toEqual(['a', 'b']);
  expect([inA?.data, inB?.data, inOther?.data]).toEqual([1, 1, 2]);
  expect(inA?.entry).not.toBe(inB?.entry);
  expect(await bus.deadLetters(topic, 'a').purge('all')).toBe(1);
  await deadLetters(s, bus, topic, 'a', 0);
  await deadLetters(s, bus, topic, 'b', 1);
  await deadLetters(s, bus, other, 'a', 1);
});

contract('DLQ-05', 'a dead letter does not expire with its message', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const subscription = await bus.subscribe(topic, { group: 'g', retry: once }, fail);
  // Longer than a first delivery takes on a busy machine.
  await bus.publish(topic, 1, { ttl: 6_000 });
  await bus.publish(topic, 2);
  await s.eventually('both to die', () => subscription.stats().deadLettered === 2);
  const dead = performance.now();
  await s.eventually('the ttl to pass', () => performance.now() - dead > 6_500);
  const letters = await deadLetters(s, bus, topic, 'g', 2);
  expect(datas(letters).sort()).toEqual([1, 2]);
  expect((await bus.deadLetters(topic, 'g').count()).value).toBe(2);
});

contract(
  'DLQ-06',
  "a foreign message at the broker's own size limit is dead-lettered, with cut metadata",
  async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const size = s.foreign.maxBodyBytes ?? s.capabilities.maxMessageBytes;
    const body = new Uint8Array(size);
    for (let at = 0; at < size; at += 1_000) body[at] = at % 251;
    const seen: number[] = [];
    await bus.subscribe(topic, { group: 'g', retry: { attempts: 2, delay: 50 } }, (message) => {
      seen.push(message.body.byteLength);
      throw new Error('far too long a story: '.repeat(1_000));
    });
    await s.foreign.publish(topic, { body, contentType: 'application/octet-stream' });
    const [letter] = await deadLetters(s, bus, topic, 'g', 1);
    expect(seen).toEqual([size, size]);
    expect(letter?.body.byteLength).toBe(size);
    expect(Buffer.compare(letter?.body ?? new Uint8Array(), body)).toBe(0);
    expect(letter).toMatchObject({ reason: 'exhausted', attempts: 2, topic, group: 'g' });
    expect(letter?.error?.message).toMatch(/^far too long a story/);
    expect(letter?.error?.message.length).toBeLessThanOrEqual(1_024);
  },
  { timeout: () => 90_000 },
);
