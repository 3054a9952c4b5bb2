import { setTimeout as wait } from 'node:timers/promises';
import type pg from 'pg';
import type { Bus } from '../../packages/core/dist/index.js';
import { type PgTx, postgresOutbox } from '../../packages/outbox/dist/postgres.js';
import type { Outbox, Relay } from '../../packages/outbox/dist/types.js';
import { byTurns, type Figure, figure, rate } from './measure.ts';
import { inTransaction, type Place } from './place.ts';

const TOPIC = 'benchmark.outbox';
const TABLE = 'waybill_outbox';
const data = { orderId: 'o-123456', total: 42, note: 'x'.repeat(150) };

/** The same row, as whoever inserts any message has to: all columns. */
const PLAIN_INSERT = `INSERT INTO ${TABLE}
  (lane, topic, topic_options, message_id, message_key, message_type, headers, content_type, body, broker_options,
   published_at, deliver_at, expires_at)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`;

/** Messages a second that a relay sends, to those that the same bus publishes when it is called directly. */
export async function relayToDirect(place: Place, bus: Bus, broker: string, rows: number): Promise<Figure> {
  const outbox = await emptyOutbox(place.pool);
  await bus.provision([{ topic: TOPIC, groups: ['benchmark'] }]);
  const direct = (): Promise<number> =>
    rate(rows, () => Promise.all(Array.from({ length: rows }, () => bus.publish(TOPIC, data))));
  const relayed = async (): Promise<number> => {
    await fill(place.pool, outbox, rows);
    return rate(rows, () => relayAll(place.pool, outbox, bus));
  };
  const ratios = await byTurns(place.rounds, direct, relayed);
  await bus.removeGroup(TOPIC, 'benchmark');
  return figure(`relay to direct publishing, ${broker}`, ratios, { atLeast: 0.5 });
}

/** What `outbox.publish` costs within a transaction, to an insert of the same row. */
export async function publishToInsert({ pool, rounds }: Place): Promise<Figure> {
  const outbox = await emptyOutbox(pool);
  const body = Buffer.from(JSON.stringify(data));
  const plain = (tx: PgTx, at: number): Promise<unknown> => {
    const [id, key, type] = [crypto.randomUUID(), `k${at % 100}`, 'application/json'];
    const values = [at % 64, TOPIC, null, id, key, null, null, type, body, null, new Date(), null, null];
    return tx.query(PLAIN_INSERT, values);
  };
  const published = (tx: PgTx, at: number): Promise<unknown> =>
    outbox.publish(tx, TOPIC, data, { key: `k${at % 100}` });
  const perSecond = (one: typeof plain): Promise<number> =>
    inTransaction(pool, (tx) =>
      rate(500, async () => {
        for (let at = 0; at < 500; at++) await one(tx, at);
      }),
    );
  const turn = async (one: typeof plain): Promise<number> => {
    const result = await perSecond(one);
    await pool.query(`TRUNCATE ${TABLE}`);
    return result;
  };
  const ratios = await byTurns(
    rounds * 5,
    () => turn(plain),
    () => turn(published),
  );
  return figure(
    'outbox.publish to a plain insert',
    ratios.map((ratio) => 1 / ratio),
    { atMost: 1.3 },
  );
}

/** What a relay asks of the database while there is nothing to send. */
export async function idleStatements({ pool }: Place, bus: Bus): Promise<Figure> {
  const outbox = await emptyOutbox(pool);
  const relay = await outbox.relay(bus);
  const asked = async (): Promise<number> => {
    // The server counts a session's transactions when the session rests.
    await wait(2_000);
    const { rows } = await pool.query<{ count: string }>(
      'SELECT xact_commit + xact_rollback AS count FROM pg_stat_database WHERE datname = current_database()',
    );
    return Number(rows[0]?.count);
  };
  const seconds = 20;
  const before = await asked();
  const started = performance.now();
  await wait(seconds * 1_000);
  // Its own question is one of them.
  const perSecond = ((await asked()) - before - 1) / ((performance.now() - started) / 1_000);
  await relay.close();
  return figure('statements of an idle relay', [perSecond], { atMost: 1 }, 'statements/s');
}

/** Relaying from a table in which a million sent rows are, to relaying from one that is empty. */
export async function fullToEmpty({ pool, rounds }: Place, bus: Bus, rows: number): Promise<Figure> {
  const full = `${TABLE}_full`;
  const [emptyOne, fullOne] = [await emptyOutbox(pool), await emptyOutbox(pool, full)];
  await bus.provision([{ topic: TOPIC, groups: ['benchmark'] }]);
  await pool.query(
    `INSERT INTO ${full} (lane, topic, message_id, content_type, body, published_at, sent_at)
     SELECT i % 64, $1, i::text, 'application/json', $2, now(), now() FROM generate_series(1, 1000000) i`,
    [TOPIC, Buffer.from(JSON.stringify(data))],
  );
  const relayed = async (outbox: Outbox<PgTx>, table: string): Promise<number> => {
    // What the other's turn has written to disk later is not this one's to pay for.
    await pool.query('CHECKPOINT');
    await fill(pool, outbox, rows, table);
    return rate(rows, () => relayAll(pool, outbox, bus, table));
  };
  const ratios = await byTurns(
    rounds,
    async () => {
      await pool.query(`TRUNCATE ${TABLE}`);
      return relayed(emptyOne, TABLE);
    },
    () => relayed(fullOne, full),
  );
  await pool.query(`TRUNCATE ${TABLE}, ${full}`);
  await bus.removeGroup(TOPIC, 'benchmark');
  return figure('a table with a million sent rows to an empty one', ratios, { atLeast: 0.9 });
}

async function emptyOutbox(pool: pg.Pool, table = TABLE): Promise<Outbox<PgTx>> {
  const outbox = postgresOutbox(pool, { table });
  await outbox.migrate();
  await pool.query(`TRUNCATE ${table}`);
  return outbox;
}

async function fill(pool: pg.Pool, outbox: Outbox<PgTx>, rows: number, table = TABLE): Promise<void> {
  await inTransaction(pool, async (tx) => {
    for (let from = 0; from < rows; from += 1_000) {
      const count = Math.min(1_000, rows - from);
      await outbox.publishBatch(
        tx,
        TOPIC,
        Array.from({ length: count }, () => ({ data })),
      );
    }
  });
  await pool.query(`VACUUM ANALYZE ${table}`);
}

/** A relay that comes, sends all there is, and is done when it is marked. */
async function relayAll(pool: pg.Pool, outbox: Outbox<PgTx>, bus: Bus, table = TABLE): Promise<void> {
  const relay: Relay = await outbox.relay(bus);
  for (;;) {
    // As the relay's own question does, it goes by the index of what is pending.
    const { rows } = await pool.query(
      `SELECT FROM ${table} WHERE sent_at IS NULL AND dead_at IS NULL ORDER BY dead_at, id LIMIT 1`,
    );
    if (rows.length === 0) break;
    await wait(20);
  }
  await relay.close();
}
