/**
 * A relay in a process of its own, for tests that kill it or set its clock to another time. What its broker stores it
 * appends to a file.
 */
import { appendFileSync } from 'node:fs';
import type { Duration } from '@waybill/core';
import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { mysqlOutbox } from '../src/mysql.ts';
import { postgresOutbox } from '../src/postgres.ts';
import { sqliteOutbox } from '../src/sqlite.ts';
import { type Stored, testBus } from './broker.ts';

const [name, url = '', table = '', log = '', ahead = '0', lease = ''] = process.argv.slice(2);
const { now } = Date;
Date.now = () => now() + Number(ahead);
const outbox =
  name === 'sqlite'
    ? sqliteOutbox(url, { table })
    : name === 'mysql'
      ? mysqlOutbox(createPool(url), { table })
      : postgresOutbox(new pg.Pool({ connectionString: url }), { table });
const stored: Stored[] = [];
stored.push = (...items) => {
  appendFileSync(log, items.map(({ key, n }) => `${key} ${n}\n`).join(''));
  return 0;
};
const { bus } = await testBus({ stored });
await outbox.relay(bus, { lease: lease as Duration, pollInterval: 100, maxInFlight: 100, logger: false });
