/**
 * An HTTP service: a request writes an order and its event in one transaction, so that neither is there without the
 * other. A relay in the same process sends the events; it might as well run in one of its own.
 *
 *     POST /orders { "orderId": "o-1", "customer": "c-1", "total": 42 }
 */
import { connect } from '@waybill/core';
import { type PgTx, postgresOutbox } from '@waybill/outbox/postgres';
import Fastify from 'fastify';
import pg from 'pg';
import { BROKER_URL, closeOnSignal, DATABASE_URL, PORT } from './settings.ts';
import { Order, OrderPlaced } from './topics.ts';

const pool = new pg.Pool({ connectionString: DATABASE_URL });
const outbox = postgresOutbox(pool);
await outbox.migrate();
await pool.query(
  'CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL)',
);

const bus = await connect(BROKER_URL);
const relay = await outbox.relay(bus);

async function transaction<T>(work: (tx: PgTx) => Promise<T>): Promise<T> {
  const tx = await pool.connect();
  try {
    await tx.query('BEGIN');
    const result = await work(tx);
    await tx.query('COMMIT');
    tx.release();
    return result;
  } catch (error) {
    // A connection whose transaction cannot be rolled back is of no use to the next one.
    await tx.query('ROLLBACK').then(
      () => tx.release(),
      () => tx.release(true),
    );
    throw error;
  }
}

/** False where an order has this id already: then nothing is announced either. */
const place = (order: Order): Promise<boolean> =>
  transaction(async (tx) => {
    const { rowCount } = await tx.query(
      'INSERT INTO orders (id, customer, total) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
      [order.orderId, order.customer, order.total],
    );
    if (rowCount === 0) return false;
    await outbox.publish(tx, OrderPlaced, order, { id: order.orderId });
    return true;
  });

const app = Fastify();
app.post('/orders', async (request, reply) => {
  const order = Order.safeParse(request.body);
  if (!order.success) return reply.code(400).send({ error: order.error.issues });
  return (await place(order.data)) ? reply.code(201).send() : reply.code(409).send({ error: 'there is such an order' });
});
app.get('/health', async () => ({ bus: await bus.health(), outbox: await relay.stats() }));

const address = await app.listen({ port: Number(PORT) });
console.log(`orders are taken at ${address}/orders`);
process.send?.({ address });

closeOnSignal(
  () => app.close(),
  () => relay.close(),
  () => bus.close(),
  () => pool.end(),
);
