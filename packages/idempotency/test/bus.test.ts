import { randomUUID } from 'node:crypto';
import { connect } from '@waybill/core';
import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { brokerFor, type GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';
import { postgresInbox, postgresStore } from '../src/postgres.ts';

let broker: GivenBroker;
let pool: pg.Pool;
const schema = `bus_${randomUUID().slice(0, 8)}`;
const table = `${schema}.ledger`;

beforeAll(async () => {
  broker = await brokerFor('postgres');
  pool = new pg.Pool({ connectionString: broker.url, max: 4 });
  await pool.query(`CREATE SCHEMA ${schema}; CREATE TABLE ${table} (amount int)`);
  await postgresInbox(pool, { schema }).migrate();
}, 120_000);
afterAll(async () => {
  await pool?.query(`DROP SCHEMA ${schema} CASCADE`);
  await pool?.end();
  await broker?.stop();
});

const sum = async (): Promise<number> =>
  Number((await pool.query(`SELECT sum(amount) AS sum FROM ${table}`)).rows[0]?.sum);

it('IDEM-05 a handler has its effect once, whatever fails on the way', async () => {
  await using bus = await connect('memory:', { logger: false });
  const inbox = postgresInbox(pool, { schema });
  const failed = new Set<string>();
  const subscription = await bus.subscribe(
    'payments',
    { group: 'ledger', inbox, retry: { delay: 10 } },
    async ({ id }, tx) => {
      await tx.query(`INSERT INTO ${table} VALUES (1)`);
      // Each fails once: after its effect, with a statement that fails, or with its connection.
      if (failed.has(id)) return;
      failed.add(id);
      const way = Number(id.slice(1)) % 4;
      if (way === 0) throw new Error('after its effect');
      if (way === 1) await tx.query('SELECT nonsense').catch(() => {});
      if (way === 2)
        await pool.query(`SELECT pg_terminate_backend($1)`, [
          (await tx.query('SELECT pg_backend_pid() AS pid')).rows[0]?.pid,
        ]);
    },
  );
  for (let at = 0; at < 40; at++) {
    await bus.publish('payments', {}, { id: `m${at}` });
    await bus.publish('payments', {}, { id: `m${at}` });
  }
  await vi.waitFor(() => expect(subscription.stats()).toMatchObject({ acked: 40, duplicates: 40 }), 30_000);
  expect(await sum()).toBe(40);
  // A connection that was cut uses no attempt.
  expect(subscription.stats().retried).toBe(20);
}, 60_000);

it('an explicit concurrency above what the pool has is refused', async () => {
  await using bus = await connect('memory:');
  const options = { group: 'ledger', inbox: postgresInbox(pool, { schema }), concurrency: 4 };
  await expect(bus.subscribe('payments', options, async () => {})).rejects.toMatchObject({ field: 'concurrency' });
});

it('a message is marked by a store across buses', async () => {
  const handler = vi.fn();
  for (let run = 0; run < 2; run++) {
    await using bus = await connect('memory:', { idempotency: postgresStore(pool, { schema }) });
    const subscription = await bus.subscribe('orders', { group: 'g' }, handler);
    await bus.publish('orders', {}, { id: 'o-1' });
    await vi.waitFor(
      () => {
        const { acked, duplicates } = subscription.stats();
        expect(acked + duplicates).toBeGreaterThan(0);
      },
      { timeout: 10_000 },
    );
  }
  expect(handler).toHaveBeenCalledTimes(1);
});
