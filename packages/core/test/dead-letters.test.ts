import { describe, expect, test } from 'vitest';
import type { Connection, DeadLetterRecord, GroupRef, SettleResult } from '../src/adapter.ts';
import { jsonCodec } from '../src/codec.ts';
import { type DeadLetter, deadLettersOf } from '../src/dead-letters.ts';
import { ConfigError, ConnectionError, UnsupportedError } from '../src/errors.ts';
import { FakeClock } from './fake-clock.ts';

const group: GroupRef = {
  topic: { name: 'orders', ordered: false, lanes: undefined, options: undefined },
  name: 'billing',
  temporary: false,
};

function record(n: number, more: Partial<DeadLetterRecord> = {}): DeadLetterRecord {
  return {
    id: `m${n}`,
    key: undefined,
    type: undefined,
    contentType: 'application/json',
    body: Buffer.from(JSON.stringify({ n })),
    headers: { a: 'b' },
    publishedAt: 1_000,
    expiresAt: undefined,
    position: undefined,
    native: undefined,
    details: {
      entry: `e${n}`,
      reason: 'exhausted',
      errorName: 'TypeError',
      errorMessage: 'x is not a function',
      attempts: 8,
      at: 2_000,
      topic: 'orders',
      group: 'billing',
    },
    ...more,
  };
}

const busy = new ConnectionError('the broker is busy');

type Carry = (verb: 'redrive' | 'purge', records: readonly DeadLetterRecord[]) => readonly SettleResult[];

/** A group's dead letters in an array; `carry` scripts what becomes of a redrive or purge. */
function lettersOf(records: DeadLetterRecord[], carry: Carry = (_, batch) => batch.map(() => 'applied')) {
  const clock = new FakeClock();
  const seen = { open: 0, asked: [] as number[], done: [] as string[] };
  const connection: Pick<Connection, 'countDeadLetters' | 'openDeadLetters'> = {
    countDeadLetters: async () => ({ value: records.length, exact: true }),
    openDeadLetters: async () => {
      seen.open++;
      let at = 0;
      const act = async (verb: 'redrive' | 'purge', batch: readonly DeadLetterRecord[]) => {
        const results = carry(verb, batch);
        batch.forEach(({ details }, n) => {
          if (results[n] === 'applied') seen.done.push(`${verb} ${details.entry}`);
        });
        return results;
      };
      return {
        next: async (max) => {
          seen.asked.push(max);
          at += max;
          return records.slice(at - max, at);
        },
        redrive: (batch) => act('redrive', batch),
        purge: (batch) => act('purge', batch),
        close: async () => {
          seen.open--;
        },
      };
    },
  };
  return { letters: deadLettersOf({ connection, group: async () => group, codec: jsonCodec, clock }), seen, clock };
}

const many = (count: number): DeadLetterRecord[] => Array.from({ length: count }, (_, n) => record(n));
const dataIsEven = ({ data }: DeadLetter): boolean => (data as { n: number }).n % 2 === 0;

describe('peek (DLQ-03)', () => {
  test('shows the message and why it is dead', async () => {
    const { letters, seen } = lettersOf([record(1)]);
    expect(await letters.peek()).toEqual([
      {
        entry: 'e1',
        id: 'm1',
        topic: 'orders',
        group: 'billing',
        type: undefined,
        key: undefined,
        body: Buffer.from('{"n":1}'),
        data: { n: 1 },
        headers: { a: 'b' },
        contentType: 'application/json',
        publishedAt: new Date(1_000),
        reason: 'exhausted',
        error: { name: 'TypeError', message: 'x is not a function' },
        attempts: 8,
        at: new Date(2_000),
      },
    ]);
    expect(seen.open).toBe(0);
  });

  test('shows what does not decode, and what somebody else put there', async () => {
    const { details, ...rest } = record(1);
    const bare = { ...details, topic: '', group: '', errorName: undefined, errorMessage: undefined };
    const { letters } = lettersOf([
      { ...rest, details, body: Buffer.from('{') },
      { ...rest, details: bare, id: undefined, publishedAt: undefined, contentType: undefined, body: Buffer.from('x') },
    ]);
    const [broken, foreign] = await letters.peek();
    expect(broken?.data).toBeUndefined();
    expect(foreign).toMatchObject({ topic: 'orders', group: 'billing', error: undefined, id: undefined });
    expect(foreign?.data).toEqual(Buffer.from('x'));
  });

  test('takes the oldest, at most as many as it is told, 100 by default', async () => {
    const { letters, seen } = lettersOf(many(250));
    expect(await letters.peek()).toHaveLength(100);
    expect((await letters.peek({ limit: 3 })).map(({ entry }) => entry)).toEqual(['e0', 'e1', 'e2']);
    expect(await letters.peek({ limit: 120, where: dataIsEven })).toHaveLength(120);
    expect(seen.asked).toEqual([100, 3, 100, 100, 100]);
    expect(seen.open).toBe(0);
  });
});

describe.each(['redrive', 'purge'] as const)('%s', (verb) => {
  test('takes all', async () => {
    const { letters, seen } = lettersOf(many(250));
    expect(await letters[verb]('all')).toBe(250);
    expect(seen.done).toHaveLength(250);
    expect(seen.open).toBe(0);
  });

  test('takes those with these entry ids, and stops when it has them', async () => {
    const { letters, seen } = lettersOf(many(250));
    expect(await letters[verb]({ ids: ['e3', 'e120', 'e3'] })).toBe(2);
    expect(seen.done).toEqual([`${verb} e3`, `${verb} e120`]);
    expect(seen.asked).toEqual([100, 100]);
    expect(await letters[verb]({ ids: [] })).toBe(0);
  });

  test('takes those that a filter chooses, up to a limit', async () => {
    const { letters, seen } = lettersOf(many(10));
    expect(await letters[verb]({ where: dataIsEven, limit: 3 })).toBe(3);
    expect(seen.done).toEqual([`${verb} e0`, `${verb} e2`, `${verb} e4`]);
    expect(await letters[verb]({ limit: 2 })).toBe(2);
  });

  test('repeats what may pass, and counts what somebody else has taken for nothing', async () => {
    const script: Record<string, SettleResult[]> = {
      e0: [busy, 'applied'],
      e1: ['lost'],
      e2: [busy, busy, 'applied'],
    };
    const { letters, seen, clock } = lettersOf(many(4), (_, batch) =>
      batch.map(({ details }) => script[details.entry]?.shift() ?? 'applied'),
    );
    const done = letters[verb]('all');
    await clock.advance(10_000);
    expect(await done).toBe(3);
    expect(seen.done).toEqual([`${verb} e3`, `${verb} e0`, `${verb} e2`]);
    expect(clock.timers).toBe(0);
  });

  test('says how far it came when the broker does not get it done; the walk is closed', async () => {
    const { letters, seen, clock } = lettersOf(many(150), (_, batch) =>
      batch.map(({ details }) => (details.entry === 'e149' ? busy : 'applied')),
    );
    const done = expect(letters[verb]('all')).rejects.toMatchObject({
      code: 'CONNECTION',
      message: expect.stringContaining(
        `group "billing": 149 dead letters were ${verb === 'redrive' ? 'redriven' : 'purged'}`,
      ),
      cause: busy,
    });
    await clock.advance(60_000);
    await done;
    expect(seen.open).toBe(0);
  });

  test('repeats after a lost connection, and not after another error', async () => {
    const errors: unknown[] = [new ConnectionError('reset')];
    const lose: Carry = (_, batch) => {
      const error = errors.shift();
      if (error !== undefined) throw error;
      return batch.map(() => 'applied');
    };
    const { letters, seen, clock } = lettersOf(many(2), lose);
    const done = letters[verb]('all');
    await clock.advance(1_000);
    expect(await done).toBe(2);
    const fatal = new UnsupportedError('x', 'scripted', 'y');
    errors.push(fatal);
    await expect(letters[verb]('all')).rejects.toBe(fatal);
    expect(seen.open).toBe(0);
  });

  test.each([
    [undefined, 'select'],
    ['every', 'select'],
    [{}, 'select'],
    [{ where: undefined }, 'select'],
    [{ id: 'e1' }, 'select.id'],
    [{ ids: 'e1' }, 'select.ids'],
    [{ ids: [1] }, 'select.ids'],
    [{ where: 'x' }, 'select.where'],
    [{ limit: 0 }, 'select.limit'],
  ])('refuses %j by name, before anything is opened', async (select, field) => {
    const { letters, seen } = lettersOf(many(1));
    await expect(letters[verb](select as never)).rejects.toMatchObject({ code: 'CONFIG', field });
    expect(seen.asked).toEqual([]);
  });

  test('refuses a filter that answers with a promise, which would choose everything', async () => {
    const { letters, seen } = lettersOf(many(1));
    await expect(letters[verb]({ where: (async () => false) as never })).rejects.toBeInstanceOf(ConfigError);
    expect(seen.done).toEqual([]);
    expect(seen.open).toBe(0);
  });

  test('is closed when a filter throws', async () => {
    const { letters, seen } = lettersOf(many(1));
    const fault = new Error('x');
    const where = (): boolean => {
      throw fault;
    };
    await expect(letters[verb]({ where })).rejects.toBe(fault);
    expect(seen.open).toBe(0);
  });
});

test('count is the broker’s', async () => {
  expect(await lettersOf(many(3)).letters.count()).toEqual({ value: 3, exact: true });
});
