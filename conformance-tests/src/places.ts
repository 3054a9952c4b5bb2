import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type IdempotencyStore, type Inbox, memoryStore } from '@waybill/core';
import { mysqlInbox, mysqlStore } from '@waybill/idempotency/mysql';
import { postgresInbox, postgresStore } from '@waybill/idempotency/postgres';
import { redisStore } from '@waybill/idempotency/redis';
import { sqliteInbox, sqliteStore } from '@waybill/idempotency/sqlite';
import type { SqlClient, SqlDatabase } from '@waybill/sql';
import { mysqlClient, mysqlDatabase } from '@waybill/sql/mysql';
import { pgClient, pgDatabase } from '@waybill/sql/postgres';
import { sqliteClient, sqliteDatabase } from '@waybill/sql/sqlite';
import { Redis } from 'ioredis';
import { createPool } from 'mysql2/promise';
import pg from 'pg';

/** Where what has been handled is remembered; plain data, so that another process can be told. */
export interface Place {
  readonly kind: 'memory' | 'sqlite' | 'redis' | 'postgres' | 'mariadb';
  /** Of SQLite a path; not of `memory`, and with SQLite left out for a file that lasts for one test. */
  readonly url?: string;
}

/** The environment variable with the places that the tests of idempotency run on, as JSON. */
export const PLACES_SETTING = 'WAYBILL_PLACES';

/** Default: the store that comes with core. */
export function places(): readonly Place[] {
  return JSON.parse(process.env[PLACES_SETTING] || '[{ "kind": "memory" }]') as Place[];
}

/** A place in use. */
export interface Opened<T> extends AsyncDisposable {
  readonly it: T;
}

/** Each is one of its own, as in another process; only `memory` is nowhere but in the one that is opened. */
export async function openStore({ kind, url = '' }: Place): Promise<Opened<IdempotencyStore>> {
  if (kind === 'memory') return { it: memoryStore(), [Symbol.asyncDispose]: async () => {} };
  if (kind === 'redis') {
    const client = new Redis(url);
    return { it: redisStore(client), [Symbol.asyncDispose]: async () => client.disconnect() };
  }
  const { pool, end } = openPool(kind, url);
  const it = pool === undefined ? sqliteStore(url) : pool instanceof pg.Pool ? postgresStore(pool) : mysqlStore(pool);
  return migrated<IdempotencyStore>(it, it, end);
}

/** An inbox over a database, and what a test needs to write and read there. */
export interface InboxUnderTest {
  readonly inbox: Inbox<unknown>;
  readonly client: SqlClient<unknown>;
  readonly database: SqlDatabase;
}

export async function openInbox({ kind, url = '' }: Place): Promise<Opened<InboxUnderTest>> {
  const { pool, end } = openPool(kind, url);
  const it =
    pool === undefined
      ? { inbox: sqliteInbox(url), client: sqliteClient(), database: sqliteDatabase(url) }
      : pool instanceof pg.Pool
        ? { inbox: postgresInbox(pool), client: pgClient(), database: pgDatabase(pool) }
        : { inbox: mysqlInbox(pool), client: mysqlClient(), database: mysqlDatabase(pool) };
  return migrated(it as InboxUnderTest, it.inbox, end);
}

async function migrated<T>(
  it: T,
  { migrate }: { migrate(): Promise<unknown> },
  end: () => Promise<void>,
): Promise<Opened<T>> {
  try {
    await migrate();
    return { it, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** Where there are transactions; a file of its own stands in for a place without a URL. */
export function withTransactions(given: readonly Place[]): readonly Place[] {
  const able = given.filter(({ kind }) => kind === 'sqlite' || kind === 'postgres' || kind === 'mariadb');
  return able.length > 0 ? able : [{ kind: 'sqlite' }];
}

/** The place for one test: a file that is removed after it, where none is named. */
export function placeForTest(place: Place): { readonly place: Place; remove(): Promise<void> } {
  if (place.kind !== 'sqlite' || place.url !== undefined) return { place, remove: async () => {} };
  const url = join(tmpdir(), `waybill-place-${randomUUID()}.db`);
  const remove = async (): Promise<void> => {
    for (const end of ['', '-wal', '-shm']) await rm(`${url}${end}`, { force: true });
  };
  return { place: { ...place, url }, remove };
}

function openPool(kind: Place['kind'], url: string) {
  if (kind === 'postgres') {
    const pool = new pg.Pool({ connectionString: url, max: 4 });
    return { pool, end: () => ended(pool.end()) };
  }
  if (kind === 'mariadb') {
    const pool = createPool({ uri: url, connectionLimit: 4 });
    return { pool, end: () => ended(pool.end()) };
  }
  return { pool: undefined, end: async () => {} };
}

/** A pool waits for what a test has left hanging; a suite does not. */
async function ended(end: Promise<void>): Promise<void> {
  await Promise.race([end, new Promise((resolve) => setTimeout(resolve, 5_000).unref())]);
}
