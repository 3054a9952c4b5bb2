import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { isLockTimeout, isTransient, sqlError } from '../src/errors.ts';
import { mysqlDatabase } from '../src/mysql.ts';
import { pgDatabase } from '../src/postgres.ts';
import { mariadb, postgres } from './databases.ts';

const thrown = (facts: object): Error => Object.assign(new Error('it says so'), facts);

describe('errors of drivers', () => {
  it.each([
    ['postgres', { code: '57P01' }],
    ['postgres', { code: '25006' }],
    ['postgres', { code: 'ECONNREFUSED' }],
    ['mysql', { errno: 1927 }],
    ['mysql', { errno: 1047, sqlState: '08S01' }],
    ['mysql', { errno: 1290, message: 'The MariaDB server is running with the --read-only option' }],
    ['mysql', { code: 'PROTOCOL_CONNECTION_LOST', fatal: true }],
    ['sqlite', { errcode: 266 }],
  ] as const)('say that the database is away, for now: %s %j', (dialect, facts) => {
    expect(sqlError(dialect, thrown(facts))).toMatchObject({ code: 'CONNECTION', retryable: true });
  });

  it.each([
    ['postgres', { code: '28P01' }],
    ['postgres', { code: '3D000' }],
    ['mysql', { errno: 1045 }],
    ['mysql', { errno: 1049 }],
  ] as const)('say that somebody has to put it right: %s %j', (dialect, facts) => {
    expect(sqlError(dialect, thrown(facts))).toMatchObject({ code: 'CONNECTION', retryable: false });
  });

  it.each([
    ['postgres', { code: '23505' }],
    ['postgres', { code: '57014' }],
    ['postgres', { code: '25P02' }],
    // A message that is larger than the server takes: it stays so, though the state is that of a connection.
    ['mysql', { errno: 1153, sqlState: '08S01' }],
    ['mysql', { errno: 1290, message: 'The MySQL server is running with the --secure-file-priv option' }],
    ['sqlite', { errcode: 1555 }],
  ] as const)('stay as they are where a statement is at fault: %s %j', (dialect, facts) => {
    const error = thrown(facts);
    expect(sqlError(dialect, error)).toBe(error);
  });

  it('are repeated only where nothing was done', () => {
    expect(isTransient('postgres', thrown({ code: '40001' }))).toBe(true);
    expect(isTransient('mysql', thrown({ errno: 1213 }))).toBe(true);
    expect(isTransient('mysql', thrown({ errno: 1205 }))).toBe(false);
    expect(isLockTimeout('mysql', thrown({ errno: 1205 }))).toBe(true);
  });

  it('tell of a log-in that is refused and of a database that is not there', async () => {
    const brokers = [await postgres(), await mariadb()] as const;
    const changes: readonly Partial<URL>[] = [{ password: 'wrong' }, { pathname: '/not_there' }];
    for (const part of changes) {
      const [url, other] = brokers.map((broker) => Object.assign(new URL(broker.url), part).href);
      const pool = new pg.Pool({ connectionString: url });
      const mysql = createPool(other as string);
      for (const database of [pgDatabase(pool), mysqlDatabase(mysql)]) {
        const failed = database.run('SELECT 1');
        await expect(failed).rejects.toMatchObject({ code: 'CONNECTION', retryable: false });
        await expect(failed).rejects.not.toThrow('wrong');
      }
      await Promise.all([pool.end(), mysql.end()]);
    }
    for (const broker of brokers) await broker.stop();
  }, 120_000);
});
