export type { InboxOptions, SqlInbox } from './inbox.ts';
export type { SqlStore, SqlStoreOptions } from './sql-store.ts';

import type { Claim } from '@waybill/core';
import { ConfigError } from '@waybill/core/adapter';
import type { SqlRunner, SqlTransactions } from '@waybill/sql';
import { type PgTransactions, type PgTx, pgDatabase, pgStatement, pgTransactions } from '@waybill/sql/postgres';
import type { Pool } from 'pg';
import {
  type Answered,
  besideHandlers,
  databaseOf,
  type InboxDialect,
  type InboxOptions,
  type SqlInbox,
  sqlInbox,
} from './inbox.ts';
import { sharedPermits } from './permits.ts';
import { postgresTable, postgresVersions } from './postgres-table.ts';
import { type SqlStore, type SqlStoreOptions, sqlStore, tableOf } from './sql-store.ts';
import { readable } from './table.ts';

export type { PgTx };

/**
 * An idempotency store in PostgreSQL 14 or later, for any number of processes.
 *
 * @param pool of pg; it stays the caller's, who closes it
 * @throws ConfigError for an option that is unknown or out of range
 */
export function postgresStore(pool: Pool, options: SqlStoreOptions = {}): SqlStore {
  return sqlStore((within) => pgDatabase(pool, within), postgresVersions, postgresTable, options);
}

/**
 * An inbox in PostgreSQL 14 or later: the handler's second argument is a transaction, and what it writes there is
 * committed together with the mark that the message is done, or neither is (IDEM-05).
 *
 * A subscription runs at most `maxConcurrency` handlers: one less than the pool has connections, so that a handler that
 * asks the pool itself does not wait for ever. All inboxes over one pool share that number.
 *
 * @param source a pool of pg, or the transactions of another library
 * @throws ConfigError for an option that is unknown or out of range
 */
export function postgresInbox(source: Pool, options?: InboxOptions): SqlInbox<PgTx>;
export function postgresInbox<Tx>(source: SqlTransactions<Tx>, options?: InboxOptions): SqlInbox<Tx>;
export function postgresInbox<Tx>(source: Pool | SqlTransactions<Tx>, options: InboxOptions = {}): SqlInbox<Tx | PgTx> {
  const transactions = isPool(source) ? pgTransactions(source) : source;
  if (transactions?.dialect !== 'postgres') {
    throw new ConfigError('source', 'is neither a pool of pg nor the transactions of a library on PostgreSQL');
  }
  const ofPg = isOfPg(transactions) ? transactions : undefined;
  const database =
    ofPg === undefined ? databaseOf(transactions as SqlTransactions<Tx>) : pgDatabase(ofPg.pool, besideHandlers);
  const table = tableOf('postgres', options);
  const { maxConnections } = transactions;
  const parts = {
    versions: postgresVersions,
    table: postgresTable(database, table),
    permits: maxConnections === undefined ? undefined : sharedPermits(ofPg?.pool ?? transactions, maxConnections),
    lingers: ofPg === undefined,
  };
  if (ofPg !== undefined) return sqlInbox<Tx | PgTx>(inOneMessage(ofPg, table) as never, database, parts, options);
  return sqlInbox<Tx | PgTx>(
    inStatements(transactions as SqlTransactions<Tx>, table) as never,
    database,
    parts,
    options,
  );
}

function isPool(source: object): source is Pool {
  return typeof source === 'object' && source !== null && 'totalCount' in source;
}

function isOfPg(transactions: object): transactions is PgTransactions {
  return 'begin' in transactions && 'pool' in transactions;
}

/** `BEGIN` and the claim in one round trip. */
function inOneMessage(transactions: PgTransactions, table: string): InboxDialect<PgTx> {
  const statement = pgStatement(claimText(table));
  return {
    transact: (claim, id, work) =>
      transactions.begin(
        statement,
        claimValues(claim, id),
        async (tx, affected, { lost, touch }) =>
          work(
            await answer(affected === 1, transactions.runner(tx), table, id, { tx, fence: { signal: lost }, touch }),
          ),
        claim.signal,
      ),
  };
}

function inStatements<Tx>(transactions: SqlTransactions<Tx>, table: string): InboxDialect<Tx> {
  // Some libraries tell of rows alone.
  const text = claimText(table, 'RETURNING 1 AS won');
  return {
    transact: (claim, id, work) =>
      transactions.transaction(async (tx) => {
        const runner = transactions.runner(tx);
        const touch = (): Promise<void> => runner.run('SELECT 1').then(noop, noop);
        const { rows, affected } = await runner.run(text, claimValues(claim, id));
        await work(await answer(rows.length === 1 || affected === 1, runner, table, id, { tx, fence: {}, touch }));
      }, claim.signal),
  };
}

function noop(): void {}

/**
 * The lock says at once that somebody is at it, where the unique index would have us wait for their commit. It ends with
 * the transaction, as the mark does; what was committed by then is seen as a conflict. The server ends a transaction in
 * which nobody has said anything for a lease.
 */
function claimText(table: string, returning = ''): string {
  return `INSERT INTO ${table} AS t (id, scope, message, done, ends_at)
    SELECT decode($1::text, 'hex'), $2::text, $3::text, true, clock_timestamp() + $4::float8 * interval '1 millisecond'
      WHERE pg_try_advisory_xact_lock($5::bigint)
        AND set_config('idle_in_transaction_session_timeout', $6::text, true) <> ''
    ON CONFLICT (id) DO UPDATE SET token = NULL, done = true, ends_at = excluded.ends_at
      WHERE t.ends_at <= clock_timestamp() ${returning}`;
}

function claimValues({ scope, key, lease, window }: Claim, id: Buffer): readonly string[] {
  return [
    // Bytes do not arrive whole on libpq.
    id.toString('hex'),
    readable(scope, 400),
    readable(key, 200),
    String(window),
    String(lockOf(id)),
    String(Math.max(1, Math.ceil(lease))),
  ];
}

function lockOf(id: Buffer): bigint {
  return id.readBigInt64BE();
}

async function answer<Tx>(
  isWon: boolean,
  runner: SqlRunner,
  table: string,
  id: Buffer,
  won: Omit<Extract<Answered<Tx>, { answer: 'won' }>, 'answer'>,
): Promise<Answered<Tx>> {
  if (isWon) return { answer: 'won', ...won };
  // Asked again, the lock is ours already, or still somebody else's; or theirs has just ended. Then the row may be new.
  const lock = await runner.run(`SELECT pg_try_advisory_xact_lock('${lockOf(id)}')::int AS got`);
  if (Number(lock.rows[0]?.['got']) !== 1) return { answer: 'busy' };
  const row = await runner.run(
    `SELECT done::int AS done FROM ${table} WHERE id = decode('${id.toString('hex')}', 'hex') AND ends_at > clock_timestamp()`,
  );
  // Not done: a store over the same table is at it, or the one that was has failed.
  return { answer: Number(row.rows[0]?.['done']) === 1 ? 'duplicate' : 'busy' };
}
