import pg from 'pg';
import { startForTest } from '../../../conformance-tests/src/brokers/start.ts';
import { postgresStore } from '../src/postgres.ts';
import { defineIdempotencyStoreSuite } from '../src/suite.ts';
import { openIn } from './places.ts';

// A container of its own, because it is killed.
defineIdempotencyStoreSuite('postgres', async () => {
  const broker = await startForTest('postgres');
  const pools: pg.Pool[] = [];
  const pool = (): pg.Pool => {
    const made = new pg.Pool({ connectionString: broker.url, max: 4 });
    pools.push(made);
    return made;
  };
  const asking = pool();
  await postgresStore(asking).migrate();
  return {
    open: () => postgresStore(pool(), { timeout: '3s' }),
    otherProcess: openIn('postgres', broker.url),
    outage: { stop: () => broker.kill(), start: () => broker.restart() },
    entries: async () => Number((await asking.query('SELECT count(*) AS n FROM waybill_idempotency')).rows[0]?.n),
    close: async () => {
      await Promise.all(pools.map((one) => one.end()));
      await broker.stop();
    },
  };
});
