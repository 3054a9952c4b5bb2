import { createPool, type Pool, type RowDataPacket } from 'mysql2/promise';
import { startForTest } from '../../../conformance-tests/src/brokers/start.ts';
import { mysqlStore } from '../src/mysql.ts';
import { defineIdempotencyStoreSuite } from '../src/suite.ts';
import { openIn } from './places.ts';

// A container of its own, because it is killed.
defineIdempotencyStoreSuite('mariadb', async () => {
  const broker = await startForTest('mariadb');
  const pools: Pool[] = [];
  const pool = (): Pool => {
    const made = createPool({ uri: broker.url, connectionLimit: 4 });
    pools.push(made);
    return made;
  };
  const asking = pool();
  await mysqlStore(asking).migrate();
  return {
    open: () => mysqlStore(pool(), { timeout: '3s' }),
    otherProcess: openIn('mysql', broker.url),
    outage: { stop: () => broker.kill(), start: () => broker.restart() },
    entries: async () => {
      const [rows] = await asking.query<RowDataPacket[]>('SELECT count(*) AS n FROM waybill_idempotency');
      return Number(rows[0]?.['n']);
    },
    close: async () => {
      await Promise.all(pools.map((one) => one.end()));
      await broker.stop();
    },
  };
});
