export type { InboxOptions, SqlInbox } from './inbox.ts';
export type { SqlStore, SqlStoreOptions } from './sql-store.ts';

import type { Claim } from '@waybill/core';
import { ConfigError } from '@waybill/core/adapter';
import { isLockTimeout, type SqlRunner, type SqlTransactions } from '@waybill/sql';
import {
  type MysqlPool,
  type MysqlTransactions,
  type MysqlTx,
  mysqlDatabase,
  mysqlTransactions,
} from '@waybill/sql/mysql';
import { besideHandlers, databaseOf, type InboxDialect, type InboxOptions, type SqlInbox, sqlInbox } from './inbox.ts';
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
 * transactions, such as those of MyISAM, are no part of it, and a statement that commits by itself, such as DDL, fails
 * the attempt.
 *
 * A subscription runs at most `maxConcurrency` handlers: one less than the pool has connections, so that a handler that
 * asks the pool itself does not wait for ever. All inboxes over one pool share that number.
 *
 * @param source a pool of mysql2, or the transactions of another library
 * @throws ConfigError for an option that is unknown or out of range
 */
export function mysqlInbox(source: MysqlPool, options?: InboxOptions): SqlInbox<MysqlTx>;
export function mysqlInbox<Tx>(source: SqlTransactions<Tx>, options?: InboxOptions): SqlInbox<Tx>;
export function mysqlInbox<Tx>(
  source: MysqlPool | SqlTransactions<Tx>,
  options: InboxOptions = {},
): SqlInbox<Tx | MysqlTx> {
  const transactions = isPool(source) ? mysqlTransactions(source) : source;
  if (transactions?.dialect !== 'mysql') {
    throw new ConfigError('source', 'is neither a pool of mysql2 nor the transactions of a library on MySQL');
  }
  const { pool } = transactions as Partial<MysqlTransactions>;
  const database =
    pool === undefined ? databaseOf(transactions as SqlTransactions<Tx>) : mysqlDatabase(pool, besideHandlers);
  const table = tableOf('mysql', options);
  const { maxConnections } = transactions;
  const parts = {
    versions: mysqlVersions,
    table: mysqlTable(database, table),
    permits: maxConnections === undefined ? undefined : sharedPermits(pool ?? transactions, maxConnections),
  };
  return sqlInbox<Tx | MysqlTx>(dialect(transactions as SqlTransactions<Tx>, table) as never, database, parts, options);
}

function isPool(source: object): source is MysqlPool {
  return typeof source === 'object' && source !== null && 'getConnection' in source;
}

function dialect<Tx>(transactions: SqlTransactions<Tx>, table: string): InboxDialect<Tx> {
  return {
    transact: (claim, id, work) =>
      transactions.transaction(async (tx) => {
        const runner = transactions.runner(tx);
        const lock = `'waybill ${id.toString('hex', 0, 24)}'`;
        const touch = (): Promise<void> => runner.run('DO 0').then(noop, noop);
        await runner.run(lockSql(lock, claim.lease));
        try {
          const answer = await mark(runner, table, claim, id);
          await work(answer === 'won' ? { answer, tx, fence: {}, touch } : { answer });
        } finally {
          // The row's own lock stands until the commit. A connection that broke has let go of both.
          await runner.run(unlockSql(lock)).catch(noop);
        }
      }, claim.signal),
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
