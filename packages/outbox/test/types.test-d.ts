/** What must compile and what must not; compiled with the tests, never run. */

import type { DatabaseSync } from 'node:sqlite';
import { type Publisher, topic } from '@waybill/core';
import type { Pool as MysqlPool, PoolConnection } from 'mysql2/promise';
import type { Client, Pool, PoolClient } from 'pg';
import { mysqlOutbox } from '../src/mysql.ts';
import { postgresOutbox } from '../src/postgres.ts';
import { sqliteOutbox } from '../src/sqlite.ts';

declare const pool: Pool;
declare const client: PoolClient;
declare const single: Client;
declare const mysqlPool: MysqlPool;
declare const connection: PoolConnection;
declare const database: DatabaseSync;

const Placed = topic<{ orderId: string }>('orders.placed', { ordered: true, key: ({ orderId }) => orderId });

const postgres = postgresOutbox(pool, { schema: 'app', notify: false });
await postgres.publish(client, Placed, { orderId: 'o-1' }, { ttl: '1h' });
await postgres.publish(single, 'orders.raw', 1);
const publisher: Publisher = postgres.in(client);
await publisher.publish(Placed, { orderId: 'o-1' });
// @ts-expect-error a pool is no transaction
await postgres.publish(pool, Placed, { orderId: 'o-1' });
// @ts-expect-error the data is checked
await postgres.publish(client, Placed, { orderId: 1 });
// @ts-expect-error a connection of another database
await postgres.publish(connection, Placed, { orderId: 'o-1' });

postgresOutbox(pool, { partitions: 'day' });
// @ts-expect-error days alone
postgresOutbox(pool, { partitions: 'week' });

const mysql = mysqlOutbox(mysqlPool);
// @ts-expect-error PostgreSQL alone
mysqlOutbox(mysqlPool, { partitions: 'day' });
await mysql.publish(connection, Placed, { orderId: 'o-1' });
// @ts-expect-error a pool is no transaction
await mysql.publish(mysqlPool, Placed, { orderId: 'o-1' });

const sqlite = sqliteOutbox(database);
await sqlite.publish(database, Placed, { orderId: 'o-1' });
// @ts-expect-error SQLite has no schemas
sqliteOutbox(database, { schema: 'x' });
