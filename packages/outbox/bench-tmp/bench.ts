import { connect } from '@waybill/core';
import { postgresOutbox } from '@waybill/outbox/postgres';
import pg from 'pg';

const url = process.argv[2] ?? 'redis://localhost:6379';
const N = Number(process.argv[3] ?? 30000),
  keys = Number(process.argv[4] ?? 0),
  keepSent = process.argv[5] ?? '1h',
  maxInFlight = Number(process.argv[6] ?? 1000);
const pool = new pg.Pool({ connectionString: process.env.PGURL ?? 'postgres://postgres@127.0.0.1:55432/postgres' });
await pool.query('drop schema if exists bench cascade');
const outbox = postgresOutbox(pool, { schema: 'bench' });
await outbox.migrate();
const bus = await connect(url);
const topic = `obx-bench-${Date.now()}`;
await bus.provision([{ topic, groups: ['g'] }]);
const data = { orderId: 'o-123456', total: 42, note: 'x'.repeat(150) };
const opt = (i: number) => (keys > 0 ? { key: `k${i % keys}` } : {});
const direct = async () => {
  const t = performance.now();
  const all: Promise<unknown>[] = [];
  for (let i = 0; i < N; i++) all.push(bus.publish(topic, data, opt(i)));
  await Promise.all(all);
  return (N / (performance.now() - t)) * 1000;
};
const bounded = async (w: number) => {
  const t = performance.now();
  let i = 0;
  await Promise.all(
    Array.from({ length: w }, async () => {
      while (i < N) {
        await bus.publish(topic, data, opt(i++));
      }
    }),
  );
  return (N / (performance.now() - t)) * 1000;
};
const fill = async () => {
  const c = await pool.connect();
  for (let i = 0; i < N; i += 1000) {
    await c.query('BEGIN');
    await outbox.publishBatch(
      c,
      topic,
      Array.from({ length: Math.min(1000, N - i) }, (_, j) => ({ data, ...opt(i + j) })),
    );
    await c.query('COMMIT');
  }
  c.release();
};
const relayed = async () => {
  await fill();
  await pool.query('vacuum analyze bench.waybill_outbox');
  const t = performance.now();
  const relay = await outbox.relay(bus, { keepSent: keepSent as never, maxInFlight });
  for (;;) {
    const s = await pool.query('select exists(select from bench.waybill_outbox where sent_at is null) e');
    if (!s.rows[0].e) break;
    await new Promise((r) => setTimeout(r, 20));
  }
  const rate = (N / (performance.now() - t)) * 1000;
  await relay.close();
  return rate;
};

import { execSync } from 'node:child_process';

const pgCpu = () =>
  Number(
    execSync(
      "cat /proc/[0-9]*/stat 2>/dev/null | awk '$2 ~ /postgres/ {s+=$14+$15+$16+$17} END {print s*10}'",
    ).toString(),
  );
const cpu = async (f: () => Promise<number>) => {
  const b = process.cpuUsage(),
    p = pgCpu();
  const rate = await f();
  const u = process.cpuUsage(b);
  return [rate, (u.user + u.system) / N, ((pgCpu() - p) * 1000) / N] as const;
};
for (let r = 0; r < 0; r++) {
  const a = await direct(),
    b = await bounded(maxInFlight),
    c = await relayed();
  console.log(
    'direct',
    a.toFixed(0),
    `window ${maxInFlight}`,
    b.toFixed(0),
    'relay',
    c.toFixed(0),
    'ratio',
    (c / a).toFixed(2),
    (c / b).toFixed(2),
  );
}

for (let r = 0; r < Number(process.env.R ?? 3); r++) {
  const a = await cpu(direct),
    b = await cpu(() => bounded(maxInFlight));
  await fill();
  const c = await cpu(relayed);
  const show = (x: readonly [number, number, number]) =>
    `${x[0].toFixed(0)}/s node ${x[1].toFixed(0)} us/row pg ${x[2].toFixed(0)} us/row`;
  console.log(`direct ${show(a)} | window ${show(b)} | relay ${show(c)}`);
}
await bus.close();
await pool.end();
