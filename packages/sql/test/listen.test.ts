import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import type { GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';
import { pgDatabase } from '../src/postgres.ts';
import { postgres } from './databases.ts';
import { Wire } from './wire.ts';

let broker: GivenBroker;
beforeAll(async () => {
  broker = await postgres();
}, 120_000);
afterAll(() => broker?.stop());

it('hears what is notified, also after its connection was cut, on a pool of one', async () => {
  const pool = new pg.Pool({ connectionString: broker.url, max: 1, application_name: 'listen-test' });
  const database = pgDatabase(pool);
  const heard = vi.fn();
  const listening = await database.listen?.('a channel', heard);
  await database.run(`NOTIFY "a channel"`);
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(1), { timeout: 10_000 });
  await database.run(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listen-test' AND pid <> pg_backend_pid()`,
  );
  // Once because a word may have been missed.
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(2), 10_000);
  await database.run(`NOTIFY "a channel"`);
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(3), { timeout: 10_000 });
  await listening?.[Symbol.asyncDispose]();
  await pool.end();
});

it('a pool whose connections are cut while they are idle does not end the process', async () => {
  const pool = new pg.Pool({ connectionString: broker.url, max: 2, application_name: 'idle-test' });
  const database = pgDatabase(pool);
  await Promise.all([database.run('SELECT pg_sleep(0.05)'), database.run('SELECT pg_sleep(0.05)')]);
  await database.run(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idle-test' AND pid <> pg_backend_pid()`,
  );
  await vi.waitFor(() => expect(pool.totalCount).toBe(1), { timeout: 10_000 });
  expect((await database.run('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
});

it('lets go of a server that does not answer any more', async () => {
  await using wire = await Wire.to(broker.url);
  const pool = new pg.Pool({ connectionString: wire.url, max: 1 });
  const listening = await pgDatabase(pool).listen?.('silent', () => {});
  expect(wire.links).toHaveLength(1);
  wire.asked = () => {};
  await listening?.[Symbol.asyncDispose]();
  await pool.end();
});

it('lets go of a server that takes connections and does not answer', async () => {
  await using wire = await Wire.to(broker.url);
  const pool = new pg.Pool({ connectionString: wire.url, max: 1 });
  const listening = await pgDatabase(pool).listen?.('silent', () => {});
  wire.asked = () => {};
  wire.cut();
  await vi.waitFor(() => expect(wire.links).toHaveLength(1), { timeout: 10_000 });
  await listening?.[Symbol.asyncDispose]();
  await pool.end();
});
