import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { SqlDatabase, SqlRunner } from '@waybill/sql';
import { mysqlDatabase } from '@waybill/sql/mysql';
import { pgDatabase } from '@waybill/sql/postgres';
import { sqliteDatabase } from '@waybill/sql/sqlite';
import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { brokerFor } from '../../../conformance-tests/src/harness/broker-for.ts';
import { mysqlStatements } from '../src/dialects/mysql.ts';
import { postgresStatements } from '../src/dialects/postgres.ts';
import { sqliteStatements } from '../src/dialects/sqlite.ts';
import { mysqlOutbox } from '../src/mysql.ts';
import { createOutbox, type OutboxSetup } from '../src/outbox.ts';
import { postgresOutbox } from '../src/postgres.ts';
import { sqliteOutbox } from '../src/sqlite.ts';
import type { Statements } from '../src/statements.ts';
import type { Outbox, OutboxOptions } from '../src/types.ts';

/** A transaction that a test has begun. */
export interface OpenTx {
  readonly tx: unknown;
  run(sql: string): Promise<unknown>;
  commit(): Promise<void>;
  rollback(): Promise<void>;
}

/** A database with tables of its own for one test. */
export interface Rig {
  readonly outbox: Outbox<unknown>;
  /** The table, as statements name it. */
  readonly table: string;
  another(options?: OutboxOptions<unknown>): Outbox<unknown>;
  begin(): Promise<OpenTx>;
  query(sql: string): Promise<readonly Record<string, unknown>[]>;
  /** Something that has no transaction open. */
  outside(): Promise<unknown>;
  readonly pool: unknown;
  /**
   * An outbox whose statements are counted, those in transactions included.
   *
   * @param answered is waited for before an answer is handed on
   */
  watched(answered?: (text: string) => Promise<void>): Watched;
  close(): Promise<void>;
}

export interface Watched {
  readonly outbox: Outbox<unknown>;
  readonly database: SqlDatabase;
  readonly statements: Statements;
  count(): number;
}

/** A running database. */
export interface Server {
  open(): Promise<Rig>;
  /** For a process of its own. */
  readonly url: string;
  stop(): Promise<void>;
}

export type DatabaseName = 'sqlite' | 'postgres' | 'mysql';
export const databaseNames: readonly DatabaseName[] = ['sqlite', 'postgres', 'mysql'];

/** What a migration leaves besides its tables. */
const forget = (table: string): string => `DELETE FROM waybill_schema_versions WHERE name LIKE 'outbox ${table}%'`;

let count = 0;
const newTable = (): string => `outbox_${process.pid}_${++count}`;
const suffixes = ['', '_lanes', '_relays'] as const;

function watchedOutbox(
  inner: SqlDatabase,
  make: OutboxSetup<unknown>['statements'],
  table: string,
  answered: (text: string) => Promise<void> = async () => {},
): Watched {
  let count = 0;
  const watching = (runner: SqlRunner): SqlRunner => ({
    async run(text, values) {
      count++;
      const result = await runner.run(text, values);
      await answered(text);
      return result;
    },
  });
  const database: SqlDatabase = {
    ...watching(inner),
    dialect: inner.dialect,
    transaction: (work) => inner.transaction((tx) => work(watching(tx))),
    ...(inner.listen !== undefined && { listen: inner.listen }),
  };
  const outbox = createOutbox({
    database,
    client: { name: 'none', runner: () => inner },
    statements: make,
    options: { table },
    optionNames: [],
    notify: true,
  });
  const tables = { outbox: table, lanes: `${table}_lanes`, relays: `${table}_relays` };
  const own = (name: string): string => `${table}_${name}`;
  const statements = make({ ...tables, companion: own, index: own }, undefined);
  return { outbox, database, statements, count: () => count };
}

export async function startDatabase(name: DatabaseName): Promise<Server> {
  if (name === 'sqlite') return startSqlite();
  return name === 'postgres' ? startPostgres() : startMysql();
}

function startSqlite(): Server {
  const folder = mkdtempSync(join(tmpdir(), 'waybill-outbox-'));
  const url = join(folder, 'test.db');
  return {
    url,
    stop: async () => rmSync(folder, { recursive: true, force: true }),
    async open() {
      const table = newTable();
      const connect = (): DatabaseSync => {
        const database = new DatabaseSync(url, { timeout: 5_000 });
        database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF');
        return database;
      };
      const opened = [connect()];
      const main = opened[0] as DatabaseSync;
      const outboxes: { close(): void }[] = [];
      const another = (options: OutboxOptions<unknown> = {}): Outbox<unknown> => {
        const outbox = sqliteOutbox(url, { table, ...(options as object) });
        outboxes.push(outbox);
        return outbox as Outbox<unknown>;
      };
      return {
        table,
        outbox: another(),
        another,
        watched(answered) {
          const database = sqliteDatabase(url);
          outboxes.push(database);
          return watchedOutbox(database, sqliteStatements, table, answered);
        },
        pool: {},
        async begin() {
          const database = connect();
          opened.push(database);
          database.exec('BEGIN');
          return {
            tx: database,
            run: async (sql) => database.exec(sql),
            commit: async () => database.exec('COMMIT'),
            rollback: async () => database.exec('ROLLBACK'),
          };
        },
        query: async (sql) => main.prepare(sql).all(),
        outside: async () => main,
        async close() {
          for (const outbox of outboxes) outbox.close();
          for (const suffix of suffixes) main.exec(`DROP TABLE IF EXISTS ${table}${suffix}`);
          for (const database of opened) database.close();
        },
      };
    },
  };
}

async function startPostgres(): Promise<Server> {
  const broker = await brokerFor('postgres');
  return {
    url: broker.url,
    stop: () => broker.stop(),
    async open() {
      const table = newTable();
      const pool = new pg.Pool({ connectionString: broker.url, max: 10 });
      const clients: pg.PoolClient[] = [];
      const another = (options: OutboxOptions<unknown> = {}): Outbox<unknown> =>
        postgresOutbox(pool, { table, ...(options as object) }) as Outbox<unknown>;
      const client = async (): Promise<pg.PoolClient> => {
        const one = await pool.connect();
        clients.push(one);
        return one;
      };
      const end = async (one: pg.PoolClient, word: string): Promise<void> => {
        await one.query(word);
        clients.splice(clients.indexOf(one), 1);
        one.release();
      };
      return {
        table,
        outbox: another(),
        another,
        watched: (answered) => watchedOutbox(pgDatabase(pool), postgresStatements, table, answered),
        pool,
        async begin() {
          const one = await client();
          await one.query('BEGIN');
          return {
            tx: one,
            run: (sql) => one.query(sql),
            commit: () => end(one, 'COMMIT'),
            rollback: () => end(one, 'ROLLBACK'),
          };
        },
        query: async (sql) => (await pool.query<Record<string, unknown>>(sql)).rows,
        outside: client,
        async close() {
          for (const one of clients) one.release(true);
          for (const suffix of suffixes) await pool.query(`DROP TABLE IF EXISTS ${table}${suffix}`);
          await pool.query(`DROP FUNCTION IF EXISTS ${table}_wake, ${table}_put`);
          await pool.query(forget(table));
          await pool.end();
        },
      };
    },
  };
}

async function startMysql(): Promise<Server> {
  const broker = await brokerFor('mariadb');
  return {
    url: broker.url,
    stop: () => broker.stop(),
    async open() {
      const table = newTable();
      const pool = createPool({ uri: broker.url, connectionLimit: 10 });
      const connections: { release(): void; destroy(): void }[] = [];
      const another = (options: OutboxOptions<unknown> = {}): Outbox<unknown> =>
        mysqlOutbox(pool, { table, ...(options as object) }) as Outbox<unknown>;
      return {
        table,
        outbox: another(),
        another,
        watched: (answered) => watchedOutbox(mysqlDatabase(pool), mysqlStatements, table, answered),
        pool,
        async begin() {
          const one = await pool.getConnection();
          connections.push(one);
          await one.beginTransaction();
          const end = async (ended: Promise<void>): Promise<void> => {
            await ended;
            connections.splice(connections.indexOf(one), 1);
            one.release();
          };
          return {
            tx: one,
            run: (sql) => one.query(sql),
            commit: () => end(one.commit()),
            rollback: () => end(one.rollback()),
          };
        },
        query: async (sql) => (await pool.query(sql))[0] as Record<string, unknown>[],
        async outside() {
          const one = await pool.getConnection();
          connections.push(one);
          return one;
        },
        async close() {
          for (const one of connections) one.destroy();
          for (const suffix of suffixes) await pool.query(`DROP TABLE IF EXISTS ${table}${suffix}`);
          await pool.query(forget(table));
          await pool.end();
        },
      };
    },
  };
}
