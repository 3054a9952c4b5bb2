export type { InboxOptions, SqlInbox } from './inbox.ts';
export type { SqlStore, SqlStoreOptions } from './sql-store.ts';

import type { Claim } from '@waybill/core';
import { ConfigError } from '@waybill/core/adapter';
import { isLockTimeout, type SqlRunner } from '@waybill/sql';
import {
  type MysqlPool,
  type MysqlTransactions,
  type MysqlTx,
  mysqlDatabase,
  mysqlTransactions,
} from '@waybill/sql/mysql';
import { besideHandlers, type InboxDialect, type InboxOptions, type SqlInbox, sqlInbox } from './inbox.ts';
import { mysqlEnd, mysqlNow, mysqlTable, mysqlVersions } from './mysql-table.ts';
import { sharedPermits } from './permits.ts';
import { type SqlStore, type SqlStoreOptions, sqlStore, tableOf } from './sql-store.ts';
import { readable } from './table.ts';

export type { MysqlTx };

/**
 * An idempotency store in MySQL 8 or MariaDB 10.6 and later, for any number of processes.
 *
 * @param pool of mysql2; it stays the caller's, who closes it
 * @throws ConfigError for an option that is unknown or out of range
 */
export function mysqlStore(pool: MysqlPool, options: SqlStoreOptions = {}): SqlStore {
  return sqlStore((within) => mysqlDatabase(pool, within), mysqlVersions, mysqlTable, options);
}

/**
 * An inbox in MySQL 8 or MariaDB 10.6 and later: the handler's second argument is a transaction, and what it writes
 * there is committed together with the mark that the message is done, or neither is (IDEM-05). Tables without
 * transactions, such as those of MyISAM, are no part of it. A statement that commits by itself, such as DDL, commits what
 * was written until then, the mark with it, and nothing after it is written.
 *
 * A subscription runs at most `maxConcurrency` handlers: one less than the pool has connections, so that a handler that
 * asks the pool itself does not wait for ever. All inboxes over one pool share that number.
 *
 * @param pool of mysql2; it stays the caller's, who closes it
 * @throws ConfigError for an option that is unknown or out of range, and for the transactions of a library: those are
 *   supported on PostgreSQL alone
 */
export function mysqlInbox(pool: MysqlPool, options: InboxOptions = {}): SqlInbox<MysqlTx> {
  if (typeof pool !== 'object' || pool === null || !('getConnection' in pool)) {
    throw new ConfigError('pool', 'is not a pool of mysql2; inboxes on the transactions of libraries need PostgreSQL');
  }
  const transactions = mysqlTransactions(pool);
  const database = mysqlDatabase(pool, besideHandlers);
  const table = tableOf('mysql', options);
  const parts = {
    versions: mysqlVersions,
    table: mysqlTable(database, table),
    permits: sharedPermits(pool, transactions.maxConnections),
  };
  return sqlInbox(dialect(transactions, table), database, parts, options);
}

function dialect(transactions: MysqlTransactions, table: string): InboxDialect<MysqlTx> {
  return {
    transact: (claim, id, work) => {
      const lock = `'waybill ${id.toString('hex', 0, 24)}'`;
      const inside = async (tx: MysqlTx): Promise<void> => {
        const runner = transactions.runner(tx);
        const touch = (): Promise<void> => runner.run('DO 0').then(noop, noop);
        await runner.run(lockSql(lock, claim.lease));
        const answer = await mark(runner, table, claim, id);
        await work(answer === 'won' ? { answer, tx, fence: {}, touch } : { answer });
      };
      // Not before the end: the row is locked until then, and a process that froze or lost its network must not keep it.
      return transactions.transaction(inside, claim.signal, unlockSql(lock));
    },
  };
}

function noop(): void {}

/**
 * The lock says at once that somebody is at it, where the unique key would have us wait for their commit. The server ends
 * a connection on which nobody has said anything for a lease.
 */
function lockSql(lock: string, lease: number): string {
  const idle = Math.max(1, Math.ceil(lease / 1_000));
  return `SET @waybill_wait = @@SESSION.wait_timeout, SESSION wait_timeout = ${idle}, @waybill_lock = GET_LOCK(${lock}, 0)`;
}

function unlockSql(lock: string): string {
  return `SET SESSION wait_timeout = @waybill_wait, @waybill_lock = RELEASE_LOCK(${lock})`;
}

async function mark(
  runner: SqlRunner,
  table: string,
  { scope, key, window }: Claim,
  id: Buffer,
): Promise<'won' | 'busy' | 'duplicate'> {
  try {
    const inserted = await runner.run(
      `INSERT IGNORE INTO ${table} (id, scope, message, done, ends_at)
       SELECT ?, ?, ?, 1, ${mysqlEnd(window)} FROM DUAL WHERE @waybill_lock = 1`,
      [id, readable(scope, 400), readable(key, 200)],
    );
    if (inserted.affected === 1) return 'won';
    const { rows } = await runner.run('SELECT @waybill_lock AS got');
    if (Number(rows[0]?.['got']) !== 1) return 'busy';
    const renewed = await runner.run(
      `UPDATE ${table} SET token = '', done = 1, ends_at = ${mysqlEnd(window)} WHERE id = ? AND ends_at <= ${mysqlNow}`,
      [id],
    );
    if (renewed.affected === 1) return 'won';
  } catch (error) {
    // Somebody is committing, or a store over the same table is at it.
    if (isLockTimeout('mysql', error)) return 'busy';
    throw error;
  }
  const { rows } = await runner.run(`SELECT done FROM ${table} WHERE id = ?`, [id]);
  return Number(rows[0]?.['done']) === 1 ? 'duplicate' : 'busy';
}
