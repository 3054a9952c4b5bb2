import pg from 'pg';
import { postgresOutbox } from '@waybill/outbox/postgres';
const pool = new pg.Pool({ connectionString: 'postgres://postgres@127.0.0.1:55432/postgres', max: 20 });
await pool.query('drop schema if exists cost cascade');
const yes = postgresOutbox(pool, { schema: 'cost' }), no = postgresOutbox(pool, { schema: 'cost', notify: false });
await yes.migrate();
const data = { orderId: 'o-123456', total: 42, note: 'x'.repeat(150) };
const body = Buffer.from(JSON.stringify(data));
const plain = `INSERT INTO cost.waybill_outbox (lane, topic, topic_options, message_id, message_key, message_type, headers, content_type, body, broker_options, published_at, deliver_at, expires_at) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)`;
const ways = {
  plain: (c: pg.PoolClient, i: number) => c.query(plain, [i % 64, 'orders', null, `id-${i}-0123456789012345678901234567`, `k${i % 100}`, null, null, 'application/json', body, null, new Date(), null, null]),
  notify: (c: pg.PoolClient, i: number) => yes.publish(c, 'orders', data, { key: `k${i % 100}` }),
  silent: (c: pg.PoolClient, i: number) => no.publish(c, 'orders', data, { key: `k${i % 100}` }),
} as const;
const listener = new pg.Client('postgres://postgres@127.0.0.1:55432/postgres'); await listener.connect(); await listener.query('LISTEN "cost.waybill_outbox"');
// cost of the statement inside a transaction, then of whole transactions at some concurrency
const within: Record<string, number[]> = {}, whole: Record<string, number[]> = {};
for (let round = 0; round < 12; round++) for (const [name, way] of Object.entries(ways).sort(() => Math.random() - 0.5)) {
  const c = await pool.connect(); await c.query('BEGIN');
  let t = performance.now(); for (let i = 0; i < 500; i++) await way(c, i); (within[name] ??= []).push((performance.now() - t) / 500 * 1000); await c.query('COMMIT'); c.release();
  t = performance.now(); const per = 60, width = 10; await Promise.all(Array.from({ length: width }, async () => { const c = await pool.connect(); for (let i = 0; i < per; i++) { await c.query('BEGIN'); await way(c, i); await c.query('COMMIT'); } c.release(); })); (whole[name] ??= []).push(per * width / (performance.now() - t) * 1000);
  await pool.query('truncate cost.waybill_outbox');
}
const med = (x: number[]) => x.sort((a, b) => a - b)[x.length >> 1]!;
for (const n of Object.keys(ways)) console.log(n, 'in tx', med(within[n]!).toFixed(0), 'us; whole tx at 10 clients', med(whole[n]!).toFixed(0), '/s');
await listener.end(); await pool.end();
