import { connect } from '@waybill/core';
import pg from 'pg';
import { postgresOutbox } from '@waybill/outbox/postgres';
const pool = new pg.Pool({ connectionString: 'postgres://postgres@127.0.0.1:55432/postgres', max: 20 });
await pool.query('drop schema if exists wake cascade');
const a = postgresOutbox(pool, { schema: 'wake' }), b = postgresOutbox(pool, { schema: 'wake' });
await a.migrate();
const bus = await connect('memory:'); let got = 0; await bus.subscribe('t', { group: 'g' }, () => { got++; });
const relay = await a.relay(bus);
for (let i = 0; i < 4; i++) {
  await new Promise((r) => setTimeout(r, 4000));
  console.log((await pool.query('select resting from wake.waybill_outbox_relays')).rows);
  const c = await pool.connect(); await c.query('BEGIN'); await b.publish(c, 't', { i }); const t = performance.now(); await c.query('COMMIT'); c.release();
  while (got <= i) await new Promise((r) => setImmediate(r));
  console.log('woken after', (performance.now() - t).toFixed(1), 'ms');
}
const t = performance.now(); await relay.close(); console.log('close', performance.now() - t); await bus.close(); await pool.end();
