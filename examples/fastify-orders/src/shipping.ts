/** A consumer in a process of its own: what it writes is committed together with the mark that the message is handled. */
import { connect } from '@waybill/core';
import { postgresInbox } from '@waybill/idempotency/postgres';
import pg from 'pg';
import { BROKER_URL, closeOnSignal, DATABASE_URL } from './settings.ts';
import { OrderPlaced } from './topics.ts';

const pool = new pg.Pool({ connectionString: DATABASE_URL });
const inbox = postgresInbox(pool);
await inbox.migrate();
await pool.query('CREATE TABLE IF NOT EXISTS shipments (order_id text NOT NULL, customer text NOT NULL)');

const bus = await connect(BROKER_URL);
// When a process dies, another one has its messages a lease later.
await bus.subscribe(OrderPlaced, { group: 'shipping', inbox, lease: '5s' }, async ({ data }, tx) => {
  await tx.query('INSERT INTO shipments (order_id, customer) VALUES ($1, $2)', [data.orderId, data.customer]);
});
console.log('shipping waits for orders');
process.send?.('ready');

closeOnSignal(
  () => bus.close(),
  () => pool.end(),
);
