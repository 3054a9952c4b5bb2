/**
 * Runs both processes, places orders by HTTP, kills shipping in the middle and starts it again, and checks that the
 * database has one shipment for every order that was accepted.
 *
 *     npm run brokers -- up --only postgres,redis
 *     node dist/main.js
 */
import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { DATABASE_URL } from './settings.ts';

const run = randomUUID().slice(0, 8);
const pool = new pg.Pool({ connectionString: DATABASE_URL });

const running = new Set<ChildProcess>();
// Whatever ends this process ends the two.
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

async function start(program: string): Promise<{ process: ChildProcess; told: unknown }> {
  const process = fork(join(import.meta.dirname, program));
  running.add(process);
  process.once('exit', () => running.delete(process));
  const ended = once(process, 'exit').then(([code]) => {
    throw new Error(`${program} ended with exit code ${code} before it was ready`);
  });
  const [told] = await Promise.race([once(process, 'message'), ended]);
  ended.catch(() => {});
  return { process, told };
}

async function shipped(): Promise<string[]> {
  const { rows } = await pool.query('SELECT order_id FROM shipments WHERE customer LIKE $1', [`${run}-%`]);
  return rows.map((row) => String(row.order_id));
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`not within a minute: ${what}; shipped: ${await shipped()}`);
    await wait(50);
  }
}

// Shipping first, so that its group is there before the first event.
let shipping = await start('shipping.js');
const service = await start('service.js');
const { address } = service.told as { address: string };
const post = async (order: object): Promise<number> => {
  const headers = { 'content-type': 'application/json' };
  return (await fetch(`${address}/orders`, { method: 'POST', headers, body: JSON.stringify(order) })).status;
};

const orders = Array.from({ length: 40 }, (_, n) => ({
  orderId: `${run}-${n}`,
  customer: `${run}-${n % 5}`,
  total: n + 1,
}));
const expectations: [what: string, met: boolean][] = [];
const statuses = await Promise.all(orders.slice(0, 20).map(post));
await until('some shipments', async () => (await shipped()).length >= 5);
shipping.process.kill('SIGKILL');
console.log('shipping was killed');
statuses.push(...(await Promise.all(orders.slice(20).map(post))));
expectations.push(['every order was accepted', statuses.every((status) => status === 201)]);
expectations.push(['an order that is there is refused', (await post(orders[0] ?? {})) === 409]);
expectations.push(['an order that is none is refused', (await post({ orderId: '' })) === 400]);
shipping = await start('shipping.js');
await until('a shipment for every order', async () => new Set(await shipped()).size === orders.length);

for (const { process } of [service, shipping]) {
  process.kill('SIGTERM');
  await once(process, 'exit');
}
const all = (await shipped()).sort();
expectations.push([
  'every order was shipped once',
  all.join() ===
    orders
      .map(({ orderId }) => orderId)
      .sort()
      .join(),
]);
await pool.end();
for (const [what, met] of expectations) console.log(`${met ? '✓' : '✗'} ${what}`);
process.exitCode = expectations.every(([, met]) => met) ? 0 : 1;
