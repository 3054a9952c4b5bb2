export type { InboxOptions, SqlInbox } from './inbox.ts';
export type { SqlStore, SqlStoreOptions } from './sql-store.ts';

import type { Claim } from '@waybill/core';
import { ConfigError } from '@waybill/core/adapter';
import type { SqlRunner, SqlTransactions } from '@waybill/sql';
import { type SqliteSource, type SqliteTx, sqliteDatabase, sqliteTransactions } from '@waybill/sql/sqlite';
import { databaseOf, type InboxDialect, type InboxOptions, type SqlInbox, sqlInbox } from './inbox.ts';
import { type SqlStore, type SqlStoreOptions, sqlStore, tableOf } from './sql-store.ts';
import { sqliteNow, sqliteTable, sqliteVersions } from './sqlite-table.ts';
import { readable } from './table.ts';

type InFile<Options> = Omit<Options, 'schema'>;

export type { SqliteTx };

/**
 * An idempotency store in a file of SQLite, for the processes of one machine.
 *
 * @param source a path, or a database of node:sqlite, whose file is opened once more
 * @throws ConfigError for a database in memory, or an option that is unknown or out of range
 */
export function sqliteStore(source: SqliteSource, options: InFile<SqlStoreOptions> = {}): SqlStore {
  refuseSchema(options);
  return sqlStore(() => sqliteDatabase(source), sqliteVersions, sqliteTable, options);
}

/**
 * An inbox in a file of SQLite: the handler's second argument is a transaction, and what it writes there is committed
 * together with the mark that the message is done, or neither is (IDEM-05). SQLite has one writer at a time, so one
 * handler runs at a time, on a connection of its own; a handler in another process waits. The transaction of a process
 * that is stopped, but not dead, holds the others up.
 *
 * @param source a path, or a database of node:sqlite, whose file is opened once more; or the transactions of another
 *   library
 * @throws ConfigError for a database in memory, or an option that is unknown or out of range
 */
export function sqliteInbox(source: SqliteSource, options?: InFile<InboxOptions>): SqlInbox<SqliteTx>;
export function sqliteInbox<Tx>(source: SqlTransactions<Tx>, options?: InFile<InboxOptions>): SqlInbox<Tx>;
export function sqliteInbox<Tx>(
  source: SqliteSource | SqlTransactions<Tx>,
  options: InFile<InboxOptions> = {},
): SqlInbox<Tx | SqliteTx> {
  refuseSchema(options);
  const given = typeof source === 'object' && source !== null && 'dialect' in source;
  const transactions = given ? source : sqliteTransactions(source);
  if (transactions.dialect !== 'sqlite') {
    throw new ConfigError('source', 'is not the transactions of a library on SQLite');
  }
  const database = given ? databaseOf(source) : sqliteDatabase(source);
  const table = tableOf('sqlite', options);
  const parts = {
    versions: sqliteVersions,
    table: sqliteTable(database, table),
    permits: undefined,
    maxConcurrency: 1,
  };
  return sqlInbox<Tx | SqliteTx>(
    dialect(transactions as SqlTransactions<Tx>, table) as never,
    database,
    parts,
    options,
  );
}

function refuseSchema(options: object): void {
  if ('schema' in options) throw new ConfigError('schema', 'a file of SQLite has none; give its path');
}

function dialect<Tx>(transactions: SqlTransactions<Tx>, table: string): InboxDialect<Tx> {
  const running = new Set<string>();
  return {
    async transact(claim, id, work) {
      const name = id.toString('latin1');
      // Whoever has it would have us wait in line, and be a duplicate then.
      if (running.has(name)) return work({ answer: 'busy' });
      running.add(name);
      try {
        await transactions.transaction(async (tx) => {
          const answer = await mark(transactions.runner(tx), table, claim, id);
          await work(answer === 'won' ? { answer, tx, fence: {}, touch: async () => {} } : { answer });
        }, claim.signal);
      } finally {
        running.delete(name);
      }
    },
  };
}

async function mark(
  runner: SqlRunner,
  table: string,
  { scope, key, window }: Claim,
  id: Buffer,
): Promise<'won' | 'busy' | 'duplicate'> {
  const marked = await runner.run(
    `INSERT INTO ${table} AS t (id, scope, message, done, ends_at) VALUES (?, ?, ?, 1, ${sqliteNow} + ?)
     ON CONFLICT (id) DO UPDATE SET token = NULL, done = 1, ends_at = excluded.ends_at WHERE t.ends_at <= ${sqliteNow}
     RETURNING 1`,
    [id, readable(scope, 400), readable(key, 200), window],
  );
  if (marked.rows.length > 0) return 'won';
  // Held by a store over the same table, or done.
  const { rows } = await runner.run(`SELECT done FROM ${table} WHERE id = ?`, [id]);
  return Number(rows[0]?.['done']) === 1 ? 'duplicate' : 'busy';
}
