import { DatabaseSync } from 'node:sqlite';
import { setTimeout as wait } from 'node:timers/promises';
import { createPool as createCallbackPool } from 'mysql2';
import { createPool, type Pool as MysqlPool } from 'mysql2/promise';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';
import { literal } from '../src/ident.ts';
import { type MysqlTx, mysqlClient, mysqlDatabase, mysqlTransactions } from '../src/mysql.ts';
import { type PgTx, pgClient, pgDatabase, pgStatement, pgTransactions } from '../src/postgres.ts';
import type { SqlClient, SqlDatabase, SqlTransactions, SqlValue } from '../src/sql.ts';
import { type SqliteTx, sqliteClient, sqliteDatabase, sqliteTransactions } from '../src/sqlite.ts';
import { mariadb, postgres, temporaryFile } from './databases.ts';
import { Wire } from './wire.ts';

interface Driver {
  readonly database: SqlDatabase;
  readonly transactions: SqlTransactions<unknown>;
  readonly client: SqlClient<unknown>;
  /** Something that has no transaction open, and a pool. */
  readonly outside: readonly unknown[];
  /** Commits or rolls back behind the back of the transactions. */
  sneak(tx: unknown, statement: string): Promise<unknown>;
  /** Uses the handler's own object. */
  query(tx: unknown, text: string): Promise<unknown>;
  stop(): Promise<void>;
}

const table = 'driver_test';
const values: readonly SqlValue[] = [
  'plain',
  'it\'s "quoted" \\ and ? and $1 – ü 🚚\n',
  '',
  Uint8Array.of(0, 1, 39, 92, 255),
  0,
  -1.5,
  1_700_000_000_123,
  null,
];

const drivers: Readonly<Record<string, () => Promise<Driver>>> = {
  postgres: async () => {
    const broker = await postgres();
    const pool = new pg.Pool({ connectionString: broker.url, max: 3 });
    const single = await pool.connect();
    return {
      database: pgDatabase(pool),
      transactions: pgTransactions(pool) as SqlTransactions<unknown>,
      client: pgClient() as SqlClient<unknown>,
      outside: [pool, single, {}],
      sneak: (tx, statement) => (tx as PgTx).query(statement),
      query: (tx, text) => (tx as PgTx).query(text),
      stop: async () => {
        single.release();
        await pool.end();
        await broker.stop();
      },
    };
  },
  mysql: async () => {
    const broker = await mariadb();
    const pool: MysqlPool = createPool({ uri: broker.url, connectionLimit: 3 });
    const single = await pool.getConnection();
    return {
      database: mysqlDatabase(pool),
      transactions: mysqlTransactions(pool) as SqlTransactions<unknown>,
      client: mysqlClient() as SqlClient<unknown>,
      outside: [pool, single, {}],
      sneak: (tx, statement) => (tx as MysqlTx).query(statement),
      query: (tx, text) => (tx as MysqlTx).query(text),
      stop: async () => {
        single.release();
        await pool.end();
        await broker.stop();
      },
    };
  },
  sqlite: async () => {
    const file = temporaryFile();
    const own = new DatabaseSync(file.path);
    own.exec('PRAGMA journal_mode = WAL');
    const database = sqliteDatabase(own);
    const transactions = sqliteTransactions(file.path);
    return {
      database,
      transactions: transactions as SqlTransactions<unknown>,
      client: sqliteClient() as SqlClient<unknown>,
      outside: [own, {}],
      sneak: async (tx, statement) => (tx as SqliteTx).exec(statement),
      query: async (tx, text) => (tx as SqliteTx).prepare(text).all(),
      stop: async () => {
        database.close();
        transactions.close();
        own.close();
        file.remove();
      },
    };
  },
};

describe.each(Object.entries(drivers))('%s', (name, start) => {
  let driver: Driver;
  const count = async (): Promise<number> =>
    Number((await driver.database.run(`SELECT count(*) AS n FROM ${table}`)).rows[0]?.['n']);
  const insert = (id: number): string => `INSERT INTO ${table} (id) VALUES (${id})`;

  beforeAll(async () => {
    driver = await start();
    const column = name === 'postgres' ? 'text' : name === 'mysql' ? 'longtext CHARACTER SET utf8mb4' : 'text';
    await driver.database.run(`DROP TABLE IF EXISTS ${table}`);
    await driver.database.run(`CREATE TABLE ${table} (id bigint PRIMARY KEY, word ${column})`);
  }, 120_000);
  afterAll(() => driver?.stop());

  it('takes every kind of value and gives it back', async () => {
    for (const value of values) {
      const placeholder =
        name !== 'postgres'
          ? '?'
          : typeof value === 'number'
            ? '$1::float8'
            : value instanceof Uint8Array
              ? '$1::bytea'
              : '$1::text';
      const { rows } = await driver.database.run(`SELECT ${placeholder} AS value`, [value]);
      const got = rows[0]?.['value'];
      if (value instanceof Uint8Array) expect(Buffer.from(got as Uint8Array)).toEqual(Buffer.from(value));
      else if (typeof value === 'number') expect(Number(got)).toBe(value);
      else expect(got).toBe(value);
    }
  });

  it('reads literals as they were meant', async () => {
    for (const value of values) {
      if (typeof value !== 'string') continue;
      const dialect = name as 'postgres';
      const { rows } = await driver.database.run(`SELECT ${literal(dialect, value)} AS value`);
      expect(rows[0]?.['value']).toBe(value);
    }
  });

  it('commits, counts rows and rolls back', async () => {
    await driver.database.transaction(async (tx) => {
      expect((await tx.run(insert(1))).affected).toBe(1);
    });
    expect(await count()).toBe(1);
    const failed = driver.database.transaction(async (tx) => {
      await tx.run(insert(2));
      throw new Error('changed its mind');
    });
    await expect(failed).rejects.toThrow('changed its mind');
    expect(await count()).toBe(1);
    expect((await driver.database.run(`DELETE FROM ${table}`)).affected).toBe(1);
  });

  it('says what to do about a table that is missing', async () => {
    await expect(driver.database.run('SELECT * FROM no_such_table')).rejects.toMatchObject({
      code: 'CONFIG',
      message: expect.stringContaining('run migrate()'),
    });
  });

  it('refuses what is not an open transaction', async () => {
    for (const tx of driver.outside) {
      const run = async () => driver.client.runner(tx).run(insert(9));
      await expect(run()).rejects.toMatchObject({ code: 'CONFIG', field: 'tx' });
    }
    expect(await count()).toBe(0);
  });

  it('writes into the transaction of a handler, and into nothing after it', async () => {
    let kept: unknown;
    await driver.transactions.transaction(async (tx) => {
      kept = tx;
      await driver.client.runner(tx).run(insert(3));
      expect(await count()).toBe(0);
    });
    expect(await count()).toBe(1);
    await expect((async () => driver.query(kept, 'SELECT 1'))()).rejects.toMatchObject({ field: 'tx' });
    await expect((async () => driver.client.runner(kept).run(insert(4)))()).rejects.toMatchObject({ field: 'tx' });
    await driver.database.run(`DELETE FROM ${table}`);
  });

  it('takes back what was given up, though the handler goes on', async () => {
    const given = new AbortController();
    let late: Promise<unknown> | undefined;
    const running = driver.transactions.transaction(async (tx) => {
      await driver.client.runner(tx).run(insert(5));
      given.abort(new Error('too late'));
      await wait(1);
      late = (async () => driver.query(tx, insert(6)))();
      await late.catch(() => {});
    }, given.signal);
    await expect(running).rejects.toThrow('too late');
    await vi.waitFor(() => expect(late).toBeDefined(), { timeout: 10_000 });
    await expect(late).rejects.toThrow();
    expect(await count()).toBe(0);
    // The pool is as large as before.
    await Promise.all(Array.from({ length: 6 }, () => driver.transactions.transaction(async () => {})));
  });

  it('begins nothing for what was given up before', async () => {
    const work = vi.fn();
    await expect(driver.transactions.transaction(work, AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone');
    expect(work).not.toHaveBeenCalled();
  });

  it('tells when the handler ended the transaction by itself', async () => {
    const running = driver.transactions.transaction((tx) => driver.sneak(tx, 'ROLLBACK'));
    await expect(running).rejects.toThrow('ended the transaction itself');
    expect(await count()).toBe(0);
    await driver.transactions.transaction(async () => {});
  });

  it('lets nothing commit by itself once the transaction has gone', async () => {
    const running = driver.transactions.transaction(async (tx) => {
      await driver.query(tx, insert(8));
      await driver.sneak(tx, 'ROLLBACK');
      await (async () => driver.query(tx, insert(9)))().catch(() => {});
    });
    await expect(running).rejects.toThrow();
    expect(await count()).toBe(0);
  });

  it('does not take a transaction that failed for a commit', async () => {
    const running = driver.transactions.transaction(async (tx) => {
      await driver.query(tx, insert(7));
      await (async () => driver.query(tx, 'SELECT nonsense FROM nowhere'))().catch(() => {});
    });
    if (name === 'postgres') await expect(running).rejects.toThrow('rolled it back');
    else await running;
    expect(await count()).toBe(name === 'postgres' ? 0 : 1);
    await driver.database.run(`DELETE FROM ${table}`);
  });
});

it('a callback pool of mysql2 does as well', async () => {
  const broker: GivenBroker = await mariadb();
  const pool = createCallbackPool({ uri: broker.url, connectionLimit: 1 });
  try {
    expect((await mysqlDatabase(pool).run('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    expect(mysqlTransactions(pool).maxConnections).toBe(1);
  } finally {
    await pool.promise().end();
    await broker.stop();
  }
}, 120_000);

it('a statement without an answer is given up, with its connection', async () => {
  const brokers = [await postgres(), await mariadb()] as const;
  const pool = new pg.Pool({ connectionString: brokers[0].url, max: 1 });
  const other = createPool({ uri: brokers[1].url, connectionLimit: 1 });
  try {
    for (const [database, sleep] of [
      // The same time holds for what is answered, also by a busy machine.
      [pgDatabase(pool, { timeout: 2_000 }), 'SELECT pg_sleep(20)'],
      [mysqlDatabase(other, { timeout: 2_000 }), 'SELECT SLEEP(20)'],
    ] as const) {
      await expect(database.run(sleep)).rejects.toMatchObject({ code: 'CONNECTION' });
      expect((await database.run('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    }
  } finally {
    await Promise.all([pool.end(), other.end(), ...brokers.map((broker) => broker.stop())]);
  }
}, 120_000);

it('a callback is told as well that the transaction has ended', async () => {
  const broker = await postgres();
  const pool = new pg.Pool({ connectionString: broker.url, max: 1 });
  try {
    const kept = await pgTransactions(pool).transaction(async (tx) => tx);
    const told = vi.fn();
    kept.query('SELECT 1', told);
    await vi.waitFor(() => expect(told).toHaveBeenCalledWith(expect.objectContaining({ field: 'tx' })), {
      timeout: 10_000,
    });
  } finally {
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it('a deadlock that the handler swallowed leaves nothing that commits by itself', async () => {
  const broker = await mariadb();
  const pool = createPool({ uri: broker.url, connectionLimit: 3 });
  const other = await pool.getConnection();
  try {
    await pool.query('CREATE OR REPLACE TABLE deadlocks (id int PRIMARY KEY, n int)');
    await pool.query('INSERT INTO deadlocks VALUES (1, 0), (2, 0)');
    await other.query('START TRANSACTION');
    // Whoever has changed less is the victim.
    await other.query('INSERT INTO deadlocks VALUES (3, 0), (4, 0), (5, 0), (6, 0)');
    await other.query('UPDATE deadlocks SET n = 1 WHERE id = 2');
    const swallowed = vi.fn();
    const running = mysqlTransactions(pool).transaction(async (tx) => {
      await tx.query('UPDATE deadlocks SET n = 2 WHERE id = 1');
      const circle = other.query('UPDATE deadlocks SET n = 1 WHERE id = 1');
      const update = tx.query('UPDATE deadlocks SET n = 2 WHERE id = 2').catch(swallowed);
      // Asked for before the answer of the one that fails.
      const insert = tx.query('INSERT INTO deadlocks VALUES (7, 0)').catch(() => {});
      await Promise.all([circle, update, insert]);
    });
    await expect(running).rejects.toThrow('rolled back the whole transaction');
    expect(swallowed).toHaveBeenCalledWith(expect.objectContaining({ code: 'ER_LOCK_DEADLOCK' }));
    await other.query('ROLLBACK');
    expect((await mysqlDatabase(pool).run('SELECT id FROM deadlocks WHERE id = 7')).rows).toEqual([]);
  } finally {
    other.release();
    await pool.query('DROP TABLE deadlocks');
    await pool.end();
    await broker.stop();
  }
}, 120_000);

it('a deadlock that the handler did not wait for is no commit', async () => {
  const broker = await mariadb();
  const pool = createPool({ uri: broker.url, connectionLimit: 3 });
  const other = await pool.getConnection();
  try {
    await pool.query('CREATE OR REPLACE TABLE unawaited (id int PRIMARY KEY, n int)');
    await pool.query('INSERT INTO unawaited VALUES (1, 0), (2, 0)');
    await other.query('START TRANSACTION');
    await other.query('INSERT INTO unawaited VALUES (3, 0), (4, 0), (5, 0), (6, 0)');
    await other.query('UPDATE unawaited SET n = 1 WHERE id = 2');
    const running = mysqlTransactions(pool).transaction(async (tx) => {
      await tx.query('UPDATE unawaited SET n = 2 WHERE id = 1');
      tx.query('UPDATE unawaited SET n = 2 WHERE id = 2').catch(() => {});
      setTimeout(() => other.query('UPDATE unawaited SET n = 1 WHERE id = 1').catch(() => {}), 50);
    });
    await expect(running).rejects.toThrow('rolled back the whole transaction');
    await other.query('ROLLBACK');
  } finally {
    other.release();
    await pool.query('DROP TABLE unawaited');
    await pool.end();
    await broker.stop();
  }
}, 120_000);

it('a procedure that commits is found out', async () => {
  const broker = await mariadb();
  const pool = createPool({ uri: broker.url, connectionLimit: 1 });
  try {
    await pool.query('CREATE OR REPLACE PROCEDURE commits() BEGIN SELECT 1; COMMIT; END');
    const running = mysqlTransactions(pool).transaction((tx) => tx.query('CALL commits()'));
    await expect(running).rejects.toThrow('ended the transaction itself');
  } finally {
    await pool.query('DROP PROCEDURE commits');
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it('a handler that waits for a connection is given up at once', async () => {
  const brokers = [await postgres(), await mariadb()] as const;
  const pool = new pg.Pool({ connectionString: brokers[0].url, max: 1 });
  const other = createPool({ uri: brokers[1].url, connectionLimit: 1 });
  const taken = [await pool.connect(), await other.getConnection()] as const;
  try {
    for (const transactions of [pgTransactions(pool), mysqlTransactions(other)] as const) {
      const work = vi.fn();
      const running = transactions.transaction(work as never, AbortSignal.timeout(50));
      await expect(running).rejects.toMatchObject({ name: 'TimeoutError' });
      expect(work).not.toHaveBeenCalled();
    }
  } finally {
    for (const connection of taken) connection.release();
    await Promise.all([pool.query('SELECT 1'), other.query('SELECT 1')]);
    await Promise.all([pool.end(), other.end(), ...brokers.map((broker) => broker.stop())]);
  }
}, 120_000);

it('a transaction whose first statement failed is not left to the next one', async () => {
  const broker = await postgres();
  await using wire = await Wire.to(broker.url);
  // The server says what is left of the transaction after the error, and often in a segment of its own.
  wire.answered = (chunk, { client }) => {
    client.write(chunk.subarray(0, -6));
    setTimeout(() => client.write(chunk.subarray(-6)), 5);
  };
  const pool = new pg.Pool({ connectionString: wire.url, max: 1 });
  try {
    const begin = (value: string): Promise<void> =>
      pgTransactions(pool).begin(pgStatement('SELECT 1 / $1::int'), [value], async () => {});
    await expect(begin('0')).rejects.toThrow('division by zero');
    expect((await pool.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    // Once more with both in one message, as the connection knows them then.
    await begin('1');
    await expect(begin('0')).rejects.toThrow('division by zero');
    expect((await pool.query('SELECT 2 AS two')).rows).toEqual([{ two: 2 }]);
  } finally {
    await pool.end();
    await broker.stop();
  }
}, 60_000);

it.each([
  ['together', {}, 1],
  ['one after the other where pg sends ahead by itself', { pipeline: true }, 2],
])(
  'a BEGIN and a first statement go %s',
  async (_, options, roundTrips) => {
    const broker = await postgres();
    await using wire = await Wire.to(broker.url);
    let ready = 0;
    wire.answered = (chunk, { client }) => {
      // ReadyForQuery, which ends every answer.
      ready += chunk.toString('latin1').split('Z\0\0\0\x05').length - 1;
      client.write(chunk);
    };
    const pool = new pg.Pool({ connectionString: wire.url, max: 1, ...options });
    try {
      const first = pgStatement('SELECT FROM generate_series(1, $1::int)');
      const begin = (value: string): Promise<number[]> =>
        pgTransactions(pool).begin(first, [value], async (tx, affected) => {
          const before = ready;
          return [affected, before, (await tx.query('SELECT 1 AS one')).rows.length];
        });
      expect((await begin('3'))[0]).toBe(3);
      const known = ready;
      const [affected, after = 0, rows] = await begin('5');
      expect([affected, after - known, rows]).toEqual([5, roundTrips, 1]);
    } finally {
      await pool.end();
      await broker.stop();
    }
  },
  60_000,
);

it('a BEGIN whose answer is late is not left to the next one', async () => {
  const broker = await postgres();
  await using wire = await Wire.to(broker.url);
  // The queries before and after have to be answered in that time.
  const pool = new pg.Pool({ connectionString: wire.url, max: 1, query_timeout: 2_000 });
  try {
    await pool.query('SELECT 1');
    const late: (() => void)[] = [];
    wire.answered = (chunk, { client }) => late.push(() => client.write(chunk));
    const work = vi.fn();
    await expect(pgTransactions(pool).transaction(work)).rejects.toMatchObject({ code: 'CONNECTION' });
    expect(work).not.toHaveBeenCalled();
    wire.answered = (chunk, { client }) => client.write(chunk);
    for (const answer of late) answer();
    const { rows } = await pool.query('SELECT pid FROM pg_locks WHERE pid = pg_backend_pid() AND false');
    expect(rows).toEqual([]);
    // Outside of a transaction there can be no savepoint.
    await expect(pool.query('SAVEPOINT nothing')).rejects.toMatchObject({ code: '25P01' });
  } finally {
    await pool.end();
    await broker.stop();
  }
}, 60_000);

describe('a connection that is cut while the handler waits for a statement', () => {
  const something = new Error('something else');

  it('is why the transaction failed, on PostgreSQL', async () => {
    const broker = await postgres();
    const pool = new pg.Pool({ connectionString: broker.url, max: 2 });
    try {
      const running = pgTransactions(pool).transaction(async (tx) => {
        const { pid } = (await tx.query('SELECT pg_backend_pid() AS pid')).rows[0];
        const slow = tx.query('SELECT pg_sleep(20)').catch(() => {});
        await pool.query('SELECT pg_terminate_backend($1)', [pid]);
        await slow;
        throw something;
      });
      await expect(running).rejects.toMatchObject({ code: 'CONNECTION' });
      await Promise.all([pool.query('SELECT 1'), pool.query('SELECT 1')]);
    } finally {
      await pool.end();
      await broker.stop();
    }
  }, 60_000);

  it('is why the transaction failed, on MySQL', async () => {
    const broker = await mariadb();
    const pool = createPool({ uri: broker.url, connectionLimit: 2 });
    try {
      const running = mysqlTransactions(pool).transaction(async (tx) => {
        const [rows] = (await tx.query('SELECT CONNECTION_ID() AS id')) as unknown as [{ id: number }[]];
        const slow = tx.query('SELECT SLEEP(20)').catch(() => {});
        await pool.query(`KILL ${rows[0]?.id}`);
        await slow;
        throw something;
      });
      await expect(running).rejects.toMatchObject({ code: 'CONNECTION' });
      await Promise.all([pool.query('SELECT 1'), pool.query('SELECT 1')]);
    } finally {
      await pool.end();
      await broker.stop();
    }
  }, 60_000);
});

it('a handler that was given up hears of it, though its statement has no answer', async () => {
  const brokers = [await postgres(), await mariadb()] as const;
  const pool = new pg.Pool({ connectionString: brokers[0].url, max: 1 });
  const other = createPool({ uri: brokers[1].url, connectionLimit: 1 });
  try {
    for (const [transactions, sleep] of [
      [pgTransactions(pool) as SqlTransactions<unknown>, 'SELECT pg_sleep(20)'],
      [mysqlTransactions(other) as SqlTransactions<unknown>, 'SELECT SLEEP(20)'],
    ] as const) {
      const given = new AbortController();
      const told = Promise.withResolvers<unknown>();
      const running = transactions.transaction(async (tx) => {
        setTimeout(() => given.abort(new Error('too late')), 20);
        await (tx as PgTx).query(sleep).catch(told.resolve);
      }, given.signal);
      await expect(running).rejects.toThrow('too late');
      expect(await told.promise).toBeInstanceOf(Error);
    }
  } finally {
    await Promise.all([pool.end(), other.end(), ...brokers.map((broker) => broker.stop())]);
  }
}, 60_000);

it('a statement of SQLite that was begun in time does nothing when it is too late', async () => {
  const file = temporaryFile();
  const transactions = sqliteTransactions(file.path);
  try {
    let rows: Iterator<unknown> | undefined;
    await transactions.transaction(async (tx) => {
      tx.exec('CREATE TABLE late (word text)');
      rows = tx.prepare("INSERT INTO late VALUES ('late') RETURNING word").iterate();
    });
    expect(() => rows?.next()).toThrow('transaction has ended');
  } finally {
    transactions.close();
    file.remove();
  }
});

it('a statement of SQLite that was not read to its end holds up no commit', async () => {
  const file = temporaryFile();
  const transactions = sqliteTransactions(file.path);
  try {
    await transactions.transaction(async (tx) => {
      tx.exec('CREATE TABLE unread (word text)');
      tx.prepare("INSERT INTO unread VALUES ('a'), ('b') RETURNING word").iterate().next();
    });
    await transactions.transaction(async (tx) => {
      expect(tx.prepare('SELECT count(*) AS n FROM unread').get()).toEqual({ n: 2 });
    });
  } finally {
    transactions.close();
    file.remove();
  }
});

it('an older pg, which does not tell whether a transaction is open, is asked', async () => {
  const broker = await postgres();
  const client = new pg.Client(broker.url);
  await client.connect();
  const older = { query: client.query.bind(client) } as PgTx;
  try {
    await expect(pgClient().runner(older).run('SELECT 1')).rejects.toMatchObject({ field: 'tx' });
    await client.query('BEGIN');
    expect((await pgClient().runner(older).run('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  } finally {
    await client.end();
    await broker.stop();
  }
}, 60_000);

/** Never called: what must not compile. */
export function types(pool: pg.Pool, client: pg.PoolClient, mysqlPool: MysqlPool): void {
  pgClient().runner(client);
  // @ts-expect-error a pool is no transaction
  pgClient().runner(pool);
  // @ts-expect-error a pool is no transaction
  mysqlClient().runner(mysqlPool);
}
