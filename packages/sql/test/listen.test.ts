import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import type { GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';
import { pgDatabase } from '../src/postgres.ts';
import { postgres } from './databases.ts';

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
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(1));
  await database.run(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listen-test' AND pid <> pg_backend_pid()`,
  );
  // Once because a word may have been missed.
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(2), 10_000);
  await database.run(`NOTIFY "a channel"`);
  await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(3));
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
  await vi.waitFor(() => expect(pool.totalCount).toBe(1));
  expect((await database.run('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
});

it('lets go of a server that does not answer any more', async () => {
  const { hostname, port } = new URL(broker.url);
  const sockets: Socket[] = [];
  const proxy = createServer((near) => {
    const far = connect(Number(port), hostname);
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on('error', () => {});
    near.pipe(far);
    far.pipe(near);
  });
  await new Promise<void>((resolve) => void proxy.listen(0, '127.0.0.1', resolve));
  const { port: open } = proxy.address() as AddressInfo;
  const url = Object.assign(new URL(broker.url), { hostname: '127.0.0.1', port: String(open) });
  const pool = new pg.Pool({ connectionString: url.href, max: 1 });
  const listening = await pgDatabase(pool).listen?.('silent', () => {});
  expect(sockets).toHaveLength(2);
  for (const socket of sockets) socket.unpipe().pause();
  await listening?.[Symbol.asyncDispose]();
  for (const socket of sockets) socket.destroy();
  proxy.close();
  await pool.end();
});
