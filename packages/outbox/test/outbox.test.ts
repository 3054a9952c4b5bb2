import { topic, WaybillError } from '@waybill/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import type { Relay, RelayOptions } from '../src/types.ts';
import { away, quick, refused, type TestBus, testBus } from './broker.ts';
import { databaseNames, type Rig, type Server, startDatabase } from './databases.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

describe.each(databaseNames)('outbox on %s', (name) => {
  let server: Server;
  let rig: Rig;
  let broker: TestBus;
  const relays: Relay[] = [];

  beforeAll(async () => {
    server = await startDatabase(name);
  }, 120_000);
  afterAll(() => server.stop());
  beforeEach(async () => {
    rig = await server.open();
    await rig.outbox.migrate();
    broker = await testBus();
  });
  afterEach(async () => {
    await Promise.all(relays.splice(0).map((relay) => relay.close()));
    await broker.bus.close();
    await rig.close();
  });

  const relay = async (options: RelayOptions = {}, bus = broker.bus): Promise<Relay> => {
    const one = await rig.outbox.relay(bus, { ...quick, ...options });
    relays.push(one);
    return one;
  };
  const until = (check: () => void | Promise<void>, timeout = 10_000): Promise<void> =>
    vi.waitFor(check, { timeout, interval: 10 });
  /** Publishes numbers in a transaction of their own. */
  const publish = async (topicName: string, items: readonly { n: number; key?: string }[]): Promise<void> => {
    const { tx, commit } = await rig.begin();
    for (const { n, key } of items) await rig.outbox.publish(tx, topicName, { n }, key === undefined ? {} : { key });
    await commit();
  };
  const numbers = (key?: string): number[] =>
    broker.stored.filter((one) => key === undefined || one.key === key).map(({ n }) => n);

  it('sends what is committed, and nothing of what is rolled back', async () => {
    await relay();
    const undone = await rig.begin();
    await rig.outbox.publish(undone.tx, 'orders', { n: 1 });
    await undone.rollback();
    await publish('orders', [{ n: 2 }, { n: 3 }]);
    await until(() => expect(numbers().sort()).toEqual([2, 3]));
    await until(async () => expect((await rig.outbox.status()).pending).toBe(0));
  });

  it('sends a message as it was published', async () => {
    const Orders = topic('orders', {
      types: { placed: z.object({ n: z.number() }) },
      key: (order) => `k${order.n}`,
      ordered: true,
      lanes: 4,
      broker: { memory: {} },
    });
    const { tx, commit } = await rig.begin();
    const before = Date.now();
    const receipt = await rig.outbox.publish(
      tx,
      Orders.event('placed'),
      { n: 7 },
      {
        headers: { trace: 'it\'s ü 🚚 \\ " ?', empty: '' },
        ttl: '1h',
        broker: { kafka: { partition: 3 } },
      },
    );
    const after = Date.now();
    const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
    await rig.outbox.publish(tx, 'raw', bytes, { id: 'my-id', contentType: 'image/png', delay: 50, type: 'a.b' });
    await rig.outbox.publish(tx, 'raw', 'text', { contentType: 'text/plain' });
    await commit();
    await relay();
    await until(() => expect(broker.stored).toHaveLength(3));
    const of = (id: string) => broker.stored.find((one) => one.id === id)?.message;
    const placed = of(receipt.id);
    expect(placed).toMatchObject({
      topic: { name: 'orders', ordered: true, lanes: 4 },
      key: 'k7',
      type: 'placed',
      contentType: 'application/json',
      headers: { trace: 'it\'s ü 🚚 \\ " ?', empty: '' },
    });
    expect(placed?.publishedAt).toBeGreaterThanOrEqual(before);
    expect(placed?.publishedAt).toBeLessThanOrEqual(after);
    expect(placed?.expiresAt).toBe((placed?.publishedAt ?? 0) + 3_600_000);
    expect(placed?.deliverAt).toBeUndefined();
    const raw = of('my-id');
    expect([...(raw?.body ?? [])]).toEqual([...bytes]);
    expect(raw).toMatchObject({ key: undefined, type: 'a.b', contentType: 'image/png' });
    expect(raw?.deliverAt).toBe((raw?.publishedAt ?? 0) + 50);
  });

  it('writes a batch in its order, with a result for each', async () => {
    const { tx, commit } = await rig.begin();
    const items = Array.from({ length: 1_200 }, (_, n) => ({ data: n === 3 ? 1n : { n }, key: 'k' }));
    const results = await rig.outbox.in(tx).publishBatch('orders', items);
    await commit();
    expect(results.filter(({ ok }) => !ok)).toHaveLength(1);
    expect(results[3]?.ok).toBe(false);
    await relay();
    await until(() => expect(broker.stored).toHaveLength(1_199), 20_000);
    expect(numbers()).toEqual(items.map((_, n) => n).filter((n) => n !== 3));
  });

  it('has what middleware throws in its result, after all others are written', async () => {
    const slow = rig.another({
      middleware: [
        async ({ data }, next) => {
          if ((data as { n: number }).n === 0) throw new Error('not this one');
          await new Promise((resolve) => setTimeout(resolve, 20));
          return next();
        },
      ],
    });
    const { tx, commit } = await rig.begin();
    const results = await slow.publishBatch(tx, 'orders', [{ data: { n: 0 } }, { data: { n: 1 } }]);
    await commit();
    expect(results).toMatchObject([{ ok: false, error: { code: 'PUBLISH' } }, { ok: true }]);
    expect((await rig.outbox.status()).pending).toBe(1);
  });

  it('writes nothing that was called off', async () => {
    const { tx, commit } = await rig.begin();
    const signal = AbortSignal.abort();
    await expect(rig.outbox.publish(tx, 'orders', {}, { signal })).rejects.toMatchObject({ code: 'PUBLISH' });
    const results = await rig.outbox.publishBatch(tx, 'orders', [{ data: { n: 1 }, signal }, { data: { n: 2 } }]);
    await commit();
    expect(results).toMatchObject([{ ok: false, error: { code: 'PUBLISH', outcome: 'not-sent' } }, { ok: true }]);
    expect((await rig.outbox.status()).pending).toBe(1);
  });

  it('refuses bad input at the call, and writes nothing', async () => {
    const { tx, commit } = await rig.begin();
    const Strict = topic('strict', { schema: z.object({ n: z.number() }), ordered: true, key: (one) => String(one.n) });
    await expect(rig.outbox.publish(tx, Strict, { n: 'x' } as never)).rejects.toMatchObject({
      code: 'INVALID_MESSAGE',
    });
    await expect(rig.outbox.publish(tx, Strict, { n: 1 }, { delay: 5 })).rejects.toMatchObject({ field: 'delay' });
    await expect(rig.outbox.publish(tx, 'no good name', {})).rejects.toMatchObject({ code: 'CONFIG' });
    await expect(rig.outbox.publish(tx, 'a', {}, { nonsense: 1 } as never)).rejects.toMatchObject({ code: 'CONFIG' });
    await expect(rig.outbox.publish(tx, 'a', {}, { key: 'a\0b' })).rejects.toMatchObject({ field: 'key' });
    await expect(rig.outbox.publish(tx, 'a', {}, { headers: { 'waybill-x': '1' } })).rejects.toMatchObject({
      code: 'INVALID_MESSAGE',
    });
    await commit();
    expect((await rig.outbox.status()).pending).toBe(0);
  });

  it('refuses what is not an open transaction', async () => {
    for (const nothing of [undefined, {}, rig.pool, await rig.outside()]) {
      await expect(rig.outbox.publish(nothing, 'orders', {})).rejects.toMatchObject({ code: 'CONFIG', field: 'tx' });
    }
    const ended = await rig.begin();
    const publisher = rig.outbox.in(ended.tx);
    await ended.commit();
    await expect(publisher.publish('orders', {})).rejects.toMatchObject({ code: 'CONFIG', field: 'tx' });
    expect((await rig.outbox.status()).pending).toBe(0);
  });

  it('says that the tables are missing, and what to do', async () => {
    const unmade = rig.another({ table: `${rig.table}_x` });
    const { tx, rollback } = await rig.begin();
    await expect(unmade.publish(tx, 'orders', {})).rejects.toThrow(/migrate\(\)/);
    await rollback();
    await expect(unmade.relay(broker.bus)).rejects.toThrow(/migrate\(\)/);
    await expect(unmade.status()).rejects.toMatchObject({ code: 'CONFIG' });
  });

  it('says so when the tables are gone under a relay, and goes on when they are back', async () => {
    const one = await relay();
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DROP TABLE ${rig.table}${suffix}`);
    await until(async () =>
      expect(await one.stats()).toMatchObject({
        state: 'recovering',
        problem: expect.stringMatching(/migrate\(\)/),
        backlog: undefined,
      }),
    );
    await rig.query(`DELETE FROM waybill_schema_versions WHERE name = 'outbox ${rig.table}'`);
    await rig.outbox.migrate();
    await publish('orders', [{ n: 1, key: 'k' }]);
    await until(() => expect(numbers()).toEqual([1]));
    await until(() => expect(one.state).toBe('running'));
  });

  it('takes the tables of its own SQL for its own', async () => {
    const other = rig.another({ table: `${rig.table}_y` });
    for (const statement of other.schema().split(/;\n\n/)) await rig.query(statement);
    await other.migrate();
    const { tx, commit } = await rig.begin();
    await other.publish(tx, 'orders', { n: 1 });
    await commit();
    expect((await other.status()).pending).toBe(1);
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DROP TABLE ${rig.table}_y${suffix}`);
    if (name === 'postgres') await rig.query(`DROP FUNCTION ${rig.table}_y_wake, ${rig.table}_y_put`);
  });

  it('is migrated by several at once', async () => {
    const tables = rig.table;
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DROP TABLE ${tables}${suffix}`);
    await rig.query(`DELETE FROM waybill_schema_versions WHERE name = 'outbox ${tables}'`);
    await Promise.all(Array.from({ length: 4 }, () => rig.another().migrate()));
    const [row] = await rig.query(`SELECT count(*) AS lanes FROM ${tables}_lanes`);
    expect(Number(row?.['lanes'])).toBe(64);
  });

  it('lets a failed message hold back its own key only', async () => {
    let refusals = 0;
    broker.fault = ({ key, body }) =>
      key === 'bad' && Buffer.from(body).toString().includes('"n":0}') && refusals++ < 3 ? refused() : undefined;
    await publish('orders', [
      { n: 0, key: 'bad' },
      { n: 1, key: 'bad' },
      { n: 10, key: 'good' },
      { n: 2, key: 'bad' },
      { n: 11, key: 'good' },
      { n: 20 },
    ]);
    const one = await relay();
    await until(() => expect(broker.stored).toHaveLength(6));
    expect(numbers('bad')).toEqual([0, 1, 2]);
    expect(numbers('good')).toEqual([10, 11]);
    expect(numbers().indexOf(11)).toBeLessThan(numbers().indexOf(0));
    expect(refusals).toBe(4);
    expect(await one.stats()).toMatchObject({ sent: 6, failed: 3, dead: 0 });
  });

  it('holds the key of a dead message until it is retried', async () => {
    let broken = true;
    broker.fault = ({ body }) =>
      broken && Buffer.from(body).toString().includes('"n":0}') ? refused('no!') : undefined;
    await publish('orders', [
      { n: 0, key: 'k' },
      { n: 1, key: 'k' },
      { n: 5, key: 'other' },
    ]);
    await relay({ maxAttempts: 2 });
    await until(async () => expect(await rig.outbox.status()).toMatchObject({ dead: 1, pending: 1 }));
    await publish('orders', [
      { n: 2, key: 'k' },
      { n: 6, key: 'other' },
    ]);
    await until(() => expect(numbers()).toEqual([5, 6]));
    const { letters } = await rig.outbox.status();
    expect(letters).toMatchObject([{ topic: 'orders', key: 'k', attempts: 2, error: expect.stringContaining('no!') }]);
    expect(letters[0]?.at.getTime()).toBeGreaterThan(Date.now() - 60_000);
    broken = false;
    expect(await rig.outbox.retry({ where: ({ key }) => key === 'x' })).toBe(0);
    expect(await rig.outbox.retry({ ids: letters.map(({ entry }) => entry) })).toBe(1);
    await until(() => expect(numbers('k')).toEqual([0, 1, 2]));
  });

  it('lets the key of a dead message go on when that is purged, or when it is to be released', async () => {
    broker.fault = ({ body }) => (Buffer.from(body).toString().includes('"n":0}') ? refused() : undefined);
    const items = [
      { n: 0, key: 'k' },
      { n: 1, key: 'k' },
      { n: 2, key: 'k' },
    ];
    await publish('held', items);
    const holding = await relay({ maxAttempts: 1 });
    await until(async () => expect(await rig.outbox.status()).toMatchObject({ dead: 1, pending: 2 }));
    expect(broker.stored).toEqual([]);
    expect(await rig.outbox.purge('all')).toBe(1);
    await until(() => expect(numbers()).toEqual([1, 2]));
    await holding.close();
    broker.stored.length = 0;
    await publish('released', items);
    await relay({ maxAttempts: 1, whenDead: 'release' });
    await until(() => expect(numbers()).toEqual([1, 2]));
    expect((await rig.outbox.status()).dead).toBe(1);
  });

  it('uses up no attempt while the broker is away, and leaves other topics alone', async () => {
    const ailing = await testBus({ publishTimeout: 100, stored: broker.stored });
    let isAway = true;
    ailing.fault = ({ topic: { name: topicName } }) => (isAway && topicName === 'away' ? away() : undefined);
    await publish('away', [{ n: 0, key: 'k' }, { n: 1, key: 'k' }, { n: 2 }]);
    const one = await relay({ maxAttempts: 1 }, ailing.bus);
    await until(async () => expect((await one.stats()).problem).toMatch(/nobody answers|not confirmed/));
    await publish('here', [{ n: 10 }]);
    await until(() => expect(numbers()).toEqual([10]));
    const rows = await rig.query(`SELECT attempts FROM ${rig.table} WHERE topic = 'away'`);
    expect(rows.map(({ attempts }) => Number(attempts))).toEqual([0, 0, 0]);
    isAway = false;
    await until(() =>
      expect(
        numbers()
          .filter((n) => n < 10)
          .sort(),
      ).toEqual([0, 1, 2]),
    );
    expect(numbers('k')).toEqual([0, 1]);
    await until(async () => expect(await one.stats()).toMatchObject({ dead: 0, failed: 0, state: 'running' }));
    expect((await one.stats()).problem).toBeUndefined();
    await one.close();
    await ailing.bus.close();
  });

  it('lets a message that never gets there hold back its own key only', async () => {
    const ailing = await testBus({ publishTimeout: 100, stored: broker.stored });
    ailing.fault = ({ key }) => (key === 'nowhere' ? away() : undefined);
    await publish('orders', [
      { n: 0, key: 'nowhere' },
      { n: 1, key: 'nowhere' },
    ]);
    const one = await relay({}, ailing.bus);
    await until(async () => expect((await one.stats()).problem).toMatch(/nobody answers|not confirmed/));
    await publish('orders', [{ n: 2, key: 'a' }, { n: 3, key: 'b' }, { n: 4 }]);
    await until(() => expect(numbers().sort()).toEqual([2, 3, 4]));
    await publish('orders', [{ n: 5, key: 'a' }]);
    await until(() => expect(numbers('a')).toEqual([2, 5]));
    await until(async () => expect(await rig.outbox.status()).toMatchObject({ pending: 2, dead: 0 }));
    await one.close();
    await ailing.bus.close();
  });

  it('gives up on a row that cannot be read, and sends the others', async () => {
    await publish('orders', [{ n: 0, key: 'k' }, { n: 1, key: 'k' }, { n: 2 }]);
    const [row] = await rig.query(`SELECT min(id) AS id FROM ${rig.table}`);
    await rig.query(`UPDATE ${rig.table} SET headers = '{' WHERE id = ${row?.['id']}`);
    await relay();
    await until(() => expect(numbers()).toEqual([2]));
    await until(async () => expect(await rig.outbox.status()).toMatchObject({ dead: 1, pending: 1 }));
    const { letters } = await rig.outbox.status();
    expect(letters).toMatchObject([{ key: 'k', headers: {}, error: expect.stringContaining('cannot be read') }]);
    expect(await rig.outbox.purge('all')).toBe(1);
    await until(() => expect(numbers('k')).toEqual([1]));
  });

  it('gives up at once on what no broker will ever take', async () => {
    broker.fault = (message) => {
      if (message.key !== 'large') return undefined;
      const answer = refused();
      return answer.status === 'failed'
        ? {
            ...answer,
            error: new (class extends WaybillError<'MESSAGE_TOO_LARGE'> {})('MESSAGE_TOO_LARGE', 'too large'),
          }
        : answer;
    };
    await publish('orders', [{ n: 1, key: 'large' }]);
    await relay();
    await until(async () => expect(await rig.outbox.status()).toMatchObject({ dead: 1 }));
    expect((await rig.outbox.status()).letters[0]?.attempts).toBe(1);
  });

  it('has no more in hand than memory allows, and sends what is large all the same', async () => {
    const gate = Promise.withResolvers<void>();
    broker.gate = gate.promise;
    const size = 1_000_000;
    const bodies = Array.from({ length: 40 }, (_, at) => new Uint8Array(size).fill(at));
    for (const [at, body] of bodies.entries()) {
      const { tx, commit } = await rig.begin();
      await rig.outbox.publish(tx, 'large', body, { key: `k${at % 40}`, id: String(at) });
      await commit();
    }
    const one = await relay();
    await until(async () => expect((await one.stats()).inFlight).toBe(33));
    await publish('orders', [{ n: 1 }]);
    gate.resolve();
    await until(() => expect(broker.stored).toHaveLength(41), 30_000);
    for (const { id, topic: of, message } of broker.stored) {
      if (of === 'large') expect(Buffer.compare(message.body, bodies[Number(id)] ?? new Uint8Array())).toBe(0);
    }
  });

  it('ends what is on its way when it is closed, and gives its share to the next', async () => {
    const gate = Promise.withResolvers<void>();
    broker.gate = gate.promise;
    await publish('orders', [{ n: 0, key: 'k' }, { n: 1, key: 'k' }, { n: 2 }]);
    const one = await relay();
    await until(async () => expect((await one.stats()).inFlight).toBe(2));
    const closed = one.close();
    expect(one.state).toBe('draining');
    gate.resolve();
    await closed;
    expect(one.state).toBe('closed');
    await one.closed;
    expect(numbers().sort()).toEqual([0, 2]);
    expect((await rig.outbox.status()).pending).toBe(1);
    const [row] = await rig.query(`SELECT count(*) AS held FROM ${rig.table}_lanes WHERE owner IS NOT NULL`);
    expect(Number(row?.['held'])).toBe(0);
    await relay();
    await until(() => expect(numbers('k')).toEqual([0, 1]));
  });

  it('sends nothing of a page that comes after it was closed', async () => {
    const gate = Promise.withResolvers<void>();
    let asked = false;
    const { outbox } = rig.watched(async (text) => {
      if (!/ORDER BY .*\bo\.id LIMIT/.test(text)) return;
      asked = true;
      await gate.promise;
    });
    await publish('orders', [{ n: 0, key: 'k' }, { n: 1 }]);
    const one = await outbox.relay(broker.bus, quick);
    await until(() => expect(asked).toBe(true));
    const closed = one.close();
    gate.resolve();
    await closed;
    expect(numbers()).toEqual([]);
    const [row] = await rig.query(`SELECT count(*) AS held FROM ${rig.table}_lanes WHERE owner IS NOT NULL`);
    expect(Number(row?.['held'])).toBe(0);
  });

  it('leaves what another relay has marked failed, when a mark comes late', async () => {
    const { statements, database } = rig.watched();
    const lanes = Array.from({ length: 64 }, (_, lane) => lane);
    const lease = 60_000;
    await publish('orders', [{ n: 0, key: 'k' }, { n: 1 }]);
    for (const name of ['first', 'second']) {
      await statements.heartbeat(database, name, lease);
      expect(await statements.claim(database, name, lease, 64)).toBe(64);
      if (name === 'first') await statements.giveBack(database, name, lanes);
    }
    const ids = (await rig.query(`SELECT id FROM ${rig.table} ORDER BY id`)).map(({ id }) => Number(id));
    const failure = { id: ids[0] ?? 0, attempts: 1, after: 60_000, error: 'it\'s ü \\ "', dead: false, holds: false };
    await statements.markFailed(database, 'first', [failure]);
    expect(await rig.outbox.status()).toMatchObject({ pending: 2, retrying: 0 });
    await statements.markFailed(database, 'second', [failure]);
    expect(await rig.outbox.status()).toMatchObject({ pending: 2, retrying: 1 });
    const [failed] = await rig.query(`SELECT last_error, attempts FROM ${rig.table} WHERE id = ${ids[0]}`);
    expect(failed).toMatchObject({ last_error: failure.error, attempts: 1 });
    await statements.markSent(database, 'first', ids, true);
    expect(await rig.outbox.status()).toMatchObject({ pending: 1, retrying: 1 });
    await statements.markSent(database, 'second', ids, true);
    expect(await rig.outbox.status()).toMatchObject({ pending: 0 });
  });

  it('ends when its bus is closed, and says so', async () => {
    const one = await relay();
    await broker.bus.close();
    await expect(one.closed).rejects.toMatchObject({ code: 'CLOSED' });
    expect(one.state).toBe('failed');
  });

  it('shares the lanes among relays', async () => {
    // Longer than a busy machine stands still: a relay that lost its lanes would send once more.
    const first = await relay({ lease: '3s' });
    expect((await first.stats()).lanes).toBe(64);
    const second = await relay({ lease: '3s' });
    const third = await relay({ lease: '3s' });
    const shares = async (): Promise<number[]> =>
      (await Promise.all([first, second, third].map((one) => one.stats()))).map(({ lanes }) => lanes);
    await until(async () => expect((await shares()).sort((a, b) => a - b)).toEqual([21, 21, 22]));
    await publish(
      'orders',
      Array.from({ length: 200 }, (_, n) => ({ n, key: `k${n % 20}` })),
    );
    await until(() => expect(broker.stored).toHaveLength(200));
    for (let k = 0; k < 20; k++) expect(numbers(`k${k}`)).toEqual(numbers(`k${k}`).sort((a, b) => a - b));
    await third.close();
    await until(async () => expect((await first.stats()).lanes + (await second.stats()).lanes).toBe(64));
  });

  it('goes on when somebody has emptied all its tables', async () => {
    await relay({ lease: '1s' });
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DELETE FROM ${rig.table}${suffix}`);
    await publish('orders', [{ n: 1, key: 'k' }, { n: 2 }]);
    await until(() => expect(numbers().sort()).toEqual([1, 2]));
  });

  it('cleans up what was sent, and keeps what was not', async () => {
    broker.fault = ({ key }) => (key === 'dead' ? refused() : undefined);
    await publish('orders', [{ n: 0, key: 'dead' }, { n: 1 }, { n: 2 }]);
    await relay({ keepSent: 200, maxAttempts: 1 });
    await until(async () => {
      const rows = await rig.query(`SELECT message_key FROM ${rig.table}`);
      expect(rows).toHaveLength(1);
      expect(rows[0]?.['message_key']).toBe('dead');
    });
    expect((await rig.outbox.status()).dead).toBe(1);
  });

  it('tells an observer', async () => {
    const seen: number[] = [];
    await publish('orders', [{ n: 0 }]);
    await relay({ observe: ({ sent }) => seen.push(sent), observeEvery: 100 });
    await until(() => expect(seen).toContain(1));
  });

  it('refuses options that are wrong, by name', async () => {
    const wrong: [RelayOptions, string][] = [
      [{ maxInFlight: 0 }, 'maxInFlight'],
      [{ lease: 10 }, 'lease'],
      [{ whenDead: 'x' as never }, 'whenDead'],
      [{ retryDelay: { initial: 10, max: 5 } }, 'retryDelay.max'],
      [{ nonsense: 1 } as never, 'nonsense'],
    ];
    for (const [options, field] of wrong) {
      await expect(rig.outbox.relay(broker.bus, options)).rejects.toMatchObject({ code: 'CONFIG', field });
    }
    expect(() => rig.another({ nonsense: 1 } as never)).toThrow(/nonsense/);
    await expect(rig.outbox.purge({})).rejects.toMatchObject({ field: 'select' });
  });
});
