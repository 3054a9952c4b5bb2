import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Claim, Inbox } from '@waybill/core';
import type { SqlTransactions } from '@waybill/sql';
import { kyselyAdapter } from '@waybill/sql/kysely';
import { pgTransactions } from '@waybill/sql/postgres';
import { sqliteTransactions } from '@waybill/sql/sqlite';
import { Kysely, PostgresDialect } from 'kysely';
import { createPool, type RowDataPacket } from 'mysql2/promise';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { brokerFor } from '../../../conformance-tests/src/harness/broker-for.ts';
import type { SqlInbox } from '../src/inbox.ts';
import { mysqlInbox, mysqlStore } from '../src/mysql.ts';
import { postgresInbox, postgresStore } from '../src/postgres.ts';
import type { SqlStore } from '../src/sql-store.ts';
import { sqliteInbox, sqliteStore } from '../src/sqlite.ts';
import { insertEffect } from './effects.ts';
import { temporaryFile } from './places.ts';

interface Place {
  /** An inbox on connections of its own, as another process has it. */
  inbox(connections?: number, table?: string): { readonly inbox: SqlInbox<unknown>; ask(): Promise<unknown> };
  /** The same over transactions that know nothing of inboxes, as those of other libraries. */
  overLibrary?(): Inbox<unknown>;
  store(): SqlStore;
  words(): Promise<readonly string[]>;
  /** Ends the connections of everybody else. */
  cut?(): Promise<unknown>;
  readonly where: string;
  stop(): Promise<unknown>;
}

/** Only what the interface has. */
function plain<Tx>({ name, dialect, runner, transaction }: SqlTransactions<Tx>): SqlTransactions<Tx> {
  return { name, dialect, runner, transaction };
}

const places: Readonly<Record<string, () => Promise<Place>>> = {
  postgres: async () => {
    const broker = await brokerFor('postgres');
    const admin = new pg.Pool({ connectionString: broker.url, max: 2 });
    const schema = `inbox_${randomUUID().slice(0, 8)}`;
    await admin.query(`CREATE SCHEMA ${schema}; CREATE TABLE ${schema}.effects (word text)`);
    const where = `${broker.url}?options=-csearch_path%3D${schema}`;
    const pools: pg.Pool[] = [];
    const pool = (max = 5): pg.Pool => {
      const made = new pg.Pool({ connectionString: where, max, application_name: schema });
      pools.push(made);
      return made;
    };
    return {
      inbox: (connections, table) => {
        const used = pool(connections);
        const inbox = postgresInbox(used, table === undefined ? {} : { table });
        return { inbox: inbox as SqlInbox<unknown>, ask: () => used.query('SELECT 1') };
      },
      overLibrary: () => postgresInbox(plain(pgTransactions(pool()))) as Inbox<unknown>,
      store: () => postgresStore(pool()),
      words: async () => (await admin.query(`SELECT word FROM ${schema}.effects`)).rows.map(({ word }) => String(word)),
      cut: () =>
        admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', [schema]),
      where,
      stop: async () => {
        await Promise.all(pools.map((one) => one.end()));
        await admin.query(`DROP SCHEMA ${schema} CASCADE`);
        await admin.end();
        await broker.stop();
      },
    };
  },
  mysql: async () => {
    const broker = await brokerFor('mariadb');
    const admin = createPool({ uri: broker.url, connectionLimit: 2 });
    const name = `inbox_${randomUUID().slice(0, 8)}`;
    await admin.query(`CREATE DATABASE ${name}`);
    await admin.query(`CREATE TABLE ${name}.effects (word varchar(100))`);
    const where = new URL(name, broker.url).href;
    const pools: { end(): Promise<void> }[] = [];
    const pool = (connectionLimit = 5) => {
      const made = createPool({ uri: where, connectionLimit });
      pools.push(made);
      return made;
    };
    return {
      inbox: (connections, table) => {
        const used = pool(connections);
        const inbox = mysqlInbox(used, table === undefined ? {} : { table });
        return { inbox: inbox as SqlInbox<unknown>, ask: () => used.query('SELECT 1') };
      },
      store: () => mysqlStore(pool()),
      words: async () => {
        const [rows] = await admin.query<RowDataPacket[]>(`SELECT word FROM ${name}.effects`);
        return rows.map((row) => String(row['word']));
      },
      cut: async () => {
        const [rows] = await admin.query<RowDataPacket[]>(
          `SELECT id FROM information_schema.processlist WHERE db = '${name}'`,
        );
        for (const row of rows) await admin.query(`KILL ${row['id']}`);
      },
      where,
      stop: async () => {
        await Promise.all(pools.map((one) => one.end()));
        await admin.query(`DROP DATABASE ${name}`);
        await admin.end();
        await broker.stop();
      },
    };
  },
  sqlite: async () => {
    const file = temporaryFile();
    const database = new DatabaseSync(file.path);
    database.exec('PRAGMA journal_mode = WAL');
    database.exec('CREATE TABLE effects (word text)');
    return {
      inbox: (_connections, table) => {
        const inbox = sqliteInbox(database, table === undefined ? {} : { table });
        return { inbox: inbox as SqlInbox<unknown>, ask: async () => database.prepare('SELECT 1').get() };
      },
      overLibrary: () => sqliteInbox(plain(sqliteTransactions(file.path))) as Inbox<unknown>,
      store: () => sqliteStore(file.path),
      words: async () =>
        database
          .prepare('SELECT word FROM effects')
          .all()
          .map(({ word }) => String(word)),
      where: file.path,
      stop: async () => {
        database.close();
        file.remove();
      },
    };
  },
};

const lease = 2_000;
const margin = 5_000;

describe.each(Object.entries(places))('inbox: %s', (kind, start) => {
  let place: Place;
  let first: Inbox<unknown>;
  let second: Inbox<unknown>;
  const children = new Set<ChildProcess>();
  const claim = (more: Partial<Claim> = {}): Claim => ({
    scope: 't\0g\0',
    key: randomUUID(),
    lease,
    window: 60_000,
    ...more,
  });
  /** Writes its word, and succeeds or fails. */
  const handler = (word: string, success = true) =>
    vi.fn(async (tx: unknown) => {
      await insertEffect(tx, word);
      return success;
    });

  beforeAll(async () => {
    place = await start();
    const { inbox } = place.inbox();
    await inbox.migrate();
    first = inbox;
    second = place.inbox().inbox;
  }, 120_000);
  afterEach(() => {
    for (const child of children) child.kill('SIGKILL');
    children.clear();
  });
  afterAll(() => place?.stop(), 30_000);

  it('commits effects and mark together, once', async () => {
    const wanted = claim();
    const word = randomUUID();
    expect(await first.run(wanted, handler(word))).toBe('ran');
    const never = handler(word);
    expect(await first.run(wanted, never)).toBe('duplicate');
    expect(await second.run(wanted, never)).toBe('duplicate');
    expect(never).not.toHaveBeenCalled();
    expect((await place.words()).filter((one) => one === word)).toHaveLength(1);
  });

  it('leaves neither when the work fails', async () => {
    const wanted = claim();
    const word = randomUUID();
    expect(await first.run(wanted, handler(word, false))).toBe('failed');
    expect(await place.words()).not.toContain(word);
    expect(await second.run(wanted, handler(word))).toBe('ran');
    expect(await place.words()).toContain(word);
  });

  it('runs again when the window is over', async () => {
    // From the claim on; the second run has to come within it.
    const wanted = claim({ window: 3_000 });
    expect(await first.run(wanted, handler('window'))).toBe('ran');
    expect(await second.run(wanted, handler('window'))).toBe('duplicate');
    await vi.waitFor(async () => expect(await second.run(wanted, handler('window'))).toBe('ran'), {
      timeout: 3_000 + margin,
    });
  });

  it('is busy at once while another one runs', async () => {
    const wanted = claim();
    const begun = Promise.withResolvers<void>();
    const end = Promise.withResolvers<boolean>();
    const running = first.run(wanted, () => {
      begun.resolve();
      return end.promise;
    });
    await begun.promise;
    const never = handler('never');
    const asked = performance.now();
    expect(await first.run(wanted, never)).toBe('busy');
    // A file has one writer at a time: another inbox over it waits for its turn.
    if (kind !== 'sqlite') expect(await second.run(wanted, never)).toBe('busy');
    expect(performance.now() - asked).toBeLessThan(1_000);
    end.resolve(true);
    expect(await running).toBe('ran');
    expect(await second.run(wanted, never)).toBe('duplicate');
    expect(never).not.toHaveBeenCalled();
  });

  it('runs each of many once, though two race for them', async () => {
    const wanted = Array.from({ length: 100 }, () => claim());
    const word = randomUUID();
    const finish = async (inbox: Inbox<unknown>, which: Claim): Promise<void> => {
      while ((await inbox.run(which, handler(word))) === 'busy') await wait(5);
    };
    await Promise.all(wanted.flatMap((one) => [finish(first, one), finish(second, one)]));
    expect((await place.words()).filter((one) => one === word)).toHaveLength(100);
  }, 60_000);

  it('keeps a transaction whose work runs longer than the lease', async () => {
    const wanted = claim({ lease: 1_000 });
    const word = randomUUID();
    const outcome = await first.run(wanted, async (tx) => {
      await insertEffect(tx, word);
      await wait(3_500);
      return true;
    });
    expect(outcome).toBe('ran');
    expect(await place.words()).toContain(word);
  }, 20_000);

  it('leaves nothing of an attempt that was given up, whatever its handler still does', async () => {
    const given = new AbortController();
    const wanted = claim({ signal: given.signal });
    const word = randomUUID();
    const late = Promise.withResolvers<unknown>();
    const running = first.run(wanted, async (tx) => {
      await insertEffect(tx, word);
      given.abort(new Error('given up'));
      await wait(10);
      late.resolve(
        await insertEffect(tx, word).then(
          () => 'written',
          () => 'refused',
        ),
      );
      return true;
    });
    await expect(running).rejects.toThrow('given up');
    expect(await late.promise).toBe('refused');
    // The server lets go when it notices that the connection is gone.
    const again = claim({ key: wanted.key });
    await vi.waitFor(async () => expect(await second.run(again, handler('after'))).toBe('ran'), { timeout: margin });
    expect(await place.words()).not.toContain(word);
  });

  it('cannot be deadlocked by a pool smaller than what runs at once', async () => {
    for (const connections of [1, 2]) {
      const { inbox, ask } = place.inbox(connections);
      expect(inbox.maxConcurrency).toBe(1);
      const runs = Array.from({ length: 30 }, () =>
        inbox.run(claim(), async (tx) => {
          await insertEffect(tx, 'small');
          // Beside the transaction, which takes a second connection.
          if (connections > 1) await ask();
          return true;
        }),
      );
      expect(new Set(await Promise.all(runs))).toEqual(new Set(['ran']));
    }
  }, 60_000);

  it('works over the transactions of another library', async ({ skip }) => {
    if (place.overLibrary === undefined) return skip('there are none');
    const inbox = place.overLibrary();
    const wanted = claim({ lease: 1_000 });
    const word = randomUUID();
    const work = async (tx: unknown): Promise<boolean> => {
      await insertEffect(tx, word);
      await wait(1_500);
      return true;
    };
    expect(await inbox.run(wanted, handler('failed', false))).toBe('failed');
    expect(await inbox.run(wanted, work)).toBe('ran');
    expect(await first.run(wanted, work)).toBe('duplicate');
    expect((await place.words()).filter((one) => one === word)).toHaveLength(1);
  });

  it('knows what a store over the same table knows', async () => {
    const store = place.store();
    const [byStore, byInbox] = [claim(), claim()];
    expect(await store.run(byStore, async () => true)).toBe('ran');
    expect(await first.run(byStore, handler('never'))).toBe('duplicate');
    expect(await first.run(byInbox, handler('inbox'))).toBe('ran');
    expect(await store.run(byInbox, async () => true)).toBe('duplicate');
    const held = claim();
    await store.run(held, async () => {
      expect(await first.run(held, handler('never'))).toBe('busy');
      return true;
    });
  });

  it('says what to do when its table is missing', async () => {
    const { inbox } = place.inbox(2, 'no_such_table');
    const never = handler('never');
    await expect(inbox.run(claim(), never)).rejects.toMatchObject({ code: 'CONFIG', field: 'table' });
    expect(never).not.toHaveBeenCalled();
  });

  it('takes hostile keys as they are', async () => {
    for (const key of ["'", '\\', '\0', "\\'; --", '?', '$1', '\ud800', '\udbff', '🚚'.repeat(300), '']) {
      const wanted = claim({ scope: randomUUID(), key });
      expect(await first.run(wanted, handler('hostile'))).toBe('ran');
      expect(await second.run(wanted, handler('hostile'))).toBe('duplicate');
    }
  });

  it('leaves neither when the connection is cut', async ({ skip }) => {
    if (place.cut === undefined) return skip('a file has no connections');
    const wanted = claim();
    const word = randomUUID();
    const running = first.run(wanted, async (tx) => {
      await insertEffect(tx, word);
      await place.cut?.();
      await wait(200);
      return true;
    });
    await expect(running).rejects.toMatchObject({ code: 'CONNECTION' });
    expect(await place.words()).not.toContain(word);
    await vi.waitFor(async () => expect(await second.run(wanted, handler(word))).toBe('ran'), { timeout: margin });
  });

  const child = (wanted: Claim, last: number) => {
    const program = fileURLToPath(new URL('./inbox-child.ts', import.meta.url));
    const started = fork(program, [kind, place.where, JSON.stringify(wanted), String(last)], { execArgv: [] });
    children.add(started);
    const said: unknown[] = [];
    started.on('message', (word) => said.push(word));
    return {
      kill: (signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT') => started.kill(signal),
      says: (word: string) => vi.waitFor(() => expect(said).toContain(word), { timeout: 30_000 }),
    };
  };

  it('leaves neither of a process that is killed', async () => {
    const wanted = claim();
    const before = (await place.words()).filter((one) => one === 'child').length;
    const running = child(wanted, 60_000);
    await running.says('working');
    if (kind !== 'sqlite') expect(await first.run(wanted, handler('never'))).toBe('busy');
    running.kill('SIGKILL');
    await vi.waitFor(async () => expect(await first.run(wanted, handler('child'))).toBe('ran'), { timeout: margin });
    expect((await place.words()).filter((one) => one === 'child')).toHaveLength(before + 1);
  }, 60_000);

  it('takes the message from a process that froze, when the lease ends', async ({ skip }) => {
    if (kind === 'sqlite') return skip('SQLite has no way to take a lock from a process that lives');
    const wanted = claim({ lease: 1_000 });
    const before = (await place.words()).filter((one) => one === 'child').length;
    const running = child(wanted, 3_000);
    await running.says('working');
    running.kill('SIGSTOP');
    await vi.waitFor(async () => expect(await first.run(wanted, handler('child'))).toBe('ran'), {
      timeout: 1_000 + margin,
      interval: 100,
    });
    running.kill('SIGCONT');
    await running.says('ended in an error');
    expect((await place.words()).filter((one) => one === 'child')).toHaveLength(before + 1);
  }, 60_000);
});

it.each([undefined, null, 'postgres://localhost/x', {}, 7])('refuses what is no pool: %j', (source) => {
  const open = [postgresInbox, mysqlInbox, sqliteInbox].slice(0, typeof source === 'string' ? 2 : 3);
  for (const inbox of open) {
    expect(() => (inbox as (it: unknown) => unknown)(source)).toThrow(/^(source|pool|database): /);
  }
});

it('goes on where connections forget what they prepared', async () => {
  const broker = await brokerFor('postgres');
  const pool = new pg.Pool({ connectionString: broker.url, max: 1 });
  try {
    const inbox = postgresInbox(pool);
    await inbox.migrate();
    const wanted = (key: string) => ({ scope: randomUUID(), key, lease, window: 60_000 });
    expect(await inbox.run(wanted('a'), async () => true)).toBe('ran');
    await pool.query('DISCARD ALL');
    const again = wanted("it's\\");
    expect(await inbox.run(again, async () => true)).toBe('ran');
    expect(await inbox.run(again, async () => true)).toBe('duplicate');
  } finally {
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it('goes on where somebody else has prepared the same, as behind a pooler', async () => {
  const broker = await brokerFor('postgres');
  const pool = new pg.Pool({ connectionString: broker.url, max: 1 });
  try {
    const inbox = postgresInbox(pool);
    await inbox.migrate();
    await pool.query('PREPARE waybill_begin AS SELECT 1');
    const wanted = { scope: randomUUID(), key: 'a', lease, window: 60_000 };
    expect(await inbox.run(wanted, async () => true)).toBe('ran');
    expect(await inbox.run(wanted, async () => true)).toBe('duplicate');
  } finally {
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it('a commit that the database refuses is no success', async () => {
  const broker = await brokerFor('postgres');
  const pool = new pg.Pool({ connectionString: broker.url, max: 2 });
  const name = `deferred_${randomUUID().slice(0, 8)}`;
  try {
    const inbox = postgresInbox(pool);
    await inbox.migrate();
    await pool.query(
      `CREATE TABLE ${name} (id int PRIMARY KEY, parent int REFERENCES ${name} DEFERRABLE INITIALLY DEFERRED)`,
    );
    const wanted = { scope: name, key: 'one', lease, window: 60_000 };
    const dangling = inbox.run(wanted, async (tx) => {
      await tx.query(`INSERT INTO ${name} VALUES (1, 2)`);
      return true;
    });
    await expect(dangling).rejects.toMatchObject({ code: '23503' });
    expect(await inbox.run(wanted, async () => true)).toBe('ran');
  } finally {
    await pool.query(`DROP TABLE IF EXISTS ${name}`);
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it('a process that stops right before its commit holds nobody up', async () => {
  const broker = await brokerFor('mariadb');
  const [pool, other] = [createPool({ uri: broker.url }), createPool({ uri: broker.url })];
  const [reached, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const stopAtCommit = (connection: { query: (...args: unknown[]) => unknown }): void => {
    const query = connection.query.bind(connection);
    connection.query = (...args) => {
      if ((args[0] as { readonly sql: string }).sql !== 'COMMIT') return query(...args);
      reached.resolve();
      return gate.promise.then(() => void query(...args));
    };
  };
  try {
    await mysqlInbox(other).migrate();
    (pool as unknown as { pool: { on(event: string, heard: typeof stopAtCommit): void } }).pool.on(
      'connection',
      stopAtCommit,
    );
    const wanted = { scope: randomUUID(), key: 'one', lease, window: 60_000 };
    const running = mysqlInbox(pool).run(wanted, async () => true);
    running.catch(() => {});
    await reached.promise;
    const asked = performance.now();
    expect(await mysqlInbox(other).run(wanted, async () => true)).toBe('busy');
    expect(performance.now() - asked).toBeLessThan(1_000);
    // The server ends what says nothing for a lease.
    await vi.waitFor(async () => expect(await mysqlInbox(other).run(wanted, async () => true)).toBe('ran'), {
      timeout: lease + margin,
      interval: 100,
    });
    gate.resolve();
    await expect(running).rejects.toMatchObject({ code: 'CONNECTION' });
  } finally {
    gate.resolve();
    await Promise.all([pool.end(), other.end()]);
    await broker.stop();
  }
}, 60_000);

it('a handler of a library that was given up keeps its place until it ends', async () => {
  const broker = await brokerFor('postgres');
  const pool = new pg.Pool({ connectionString: broker.url, max: 2 });
  const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool }) });
  const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  try {
    const inbox = postgresInbox(kyselyAdapter(db, { pool }));
    await inbox.migrate();
    const given = new AbortController();
    const wanted = () => ({ scope: 'lingers', key: randomUUID(), lease, window: 60_000 });
    const first = inbox.run({ ...wanted(), signal: given.signal }, async () => {
      begun.resolve();
      await gate.promise;
      return true;
    });
    await begun.promise;
    given.abort(new Error('given up'));
    await expect(first).rejects.toThrow('given up');
    const next = vi.fn(async () => true);
    const second = inbox.run(wanted(), next);
    // It would take the connection that is left for what handlers ask the pool.
    await pool.query('SELECT 1');
    expect(next).not.toHaveBeenCalled();
    gate.resolve();
    expect(await second).toBe('ran');
  } finally {
    gate.resolve();
    await pool.end();
    await broker.stop();
  }
}, 60_000);
