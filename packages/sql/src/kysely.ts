import { ConfigError, checkOptions } from '@waybill/core/adapter';
import type { CompiledQuery, Kysely, Transaction } from 'kysely';
import type { Pool } from 'pg';
import {
  type CommitAnswer,
  commitBy,
  endedByHandler,
  type LibraryOptions,
  libraryError,
  maxConnectionsOf,
  notOpen,
  sharedBy,
  spoilt,
  transactionsOf,
} from './library.ts';
import { guardPool } from './pg-connections.ts';
import type { SqlClient, SqlResult, SqlRunner, SqlTransactions, SqlValue } from './sql.ts';

/** A `Transaction` of Kysely, of any database type. A `Kysely` does not fit. */
export interface KyselyTx {
  readonly isTransaction: true;
  withoutPlugins(): {
    executeQuery(query: CompiledQuery): Promise<{
      readonly rows: readonly unknown[];
      readonly numAffectedRows?: bigint | undefined;
    }>;
  };
}

export interface KyselyOptions extends LibraryOptions {
  /**
   * The pool of the dialect, which Kysely does not show: tells `maxConnections`, and keeps a restart of the server from
   * ending the process while a handler runs.
   */
  readonly pool?: Pool;
}

/**
 * Transactions of Kysely on PostgreSQL. With a `Kysely` it also begins them, for inboxes.
 *
 * @throws ConfigError for what is not a Kysely on PostgreSQL
 */
export function kyselyAdapter(): SqlClient<KyselyTx>;
export function kyselyAdapter<DB>(db: Kysely<DB>, options?: KyselyOptions): SqlTransactions<Transaction<DB>>;
export function kyselyAdapter<DB>(
  db?: Kysely<DB>,
  options: KyselyOptions = {},
): SqlClient<KyselyTx> | SqlTransactions<Transaction<DB>> {
  const client: SqlClient<KyselyTx> = { name: 'kysely', runner: kyselyRunner };
  if (db === undefined) return client;
  if (typeof db?.transaction !== 'function') throw new ConfigError('db', 'is not a Kysely');
  if (db.isTransaction) throw new ConfigError('db', 'is a transaction; give the Kysely that begins them');
  const { adapter } = db.getExecutor();
  if (!adapter.supportsReturning || !adapter.supportsTransactionalDdl) {
    throw new ConfigError('db', 'is a Kysely on another database than PostgreSQL');
  }
  checkOptions(options, ['maxConnections', 'pool'], '');
  if (options.pool !== undefined) guardPool(options.pool);
  // Newer versions pass on what the server answers to a COMMIT.
  let tells = false;
  return sharedBy(db, {
    name: 'kysely',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, options.pool?.options.max),
    runner: kyselyRunner,
    transaction: transactionsOf<Transaction<DB>>({
      runner: kyselyRunner,
      begin: (inside) => db.transaction().execute(inside),
      async commit(tx) {
        const answer = await commitKysely(tx, tells);
        tells = answer.told;
        return answer.committed;
      },
      spoil: spoilKysely,
    }),
  });
}

/** Also for what MikroORM keeps, which is a transaction of Kysely. */
export function kyselyRunner(tx: KyselyTx): SqlRunner {
  if (tx?.isTransaction !== true || typeof tx.withoutPlugins !== 'function') {
    throw notOpen('is not a Transaction of Kysely');
  }
  if (hasEnded(tx)) throw notOpen('its transaction has ended');
  // Plugins may rename what comes back.
  const plain = tx.withoutPlugins();
  return {
    async run(text, values = []) {
      if (hasEnded(tx)) throw notOpen('its transaction has ended');
      try {
        return resultOf(await plain.executeQuery(compiled(text, values)));
      } catch (error) {
        throw isEnded(error) ? notOpen('its transaction has ended') : libraryError(error);
      }
    },
  };
}

/** A controlled transaction says so; any other one when it is used. */
function hasEnded(tx: KyselyTx): boolean {
  const { isCommitted, isRolledBack } = tx as { readonly isCommitted?: boolean; readonly isRolledBack?: boolean };
  return isCommitted === true || isRolledBack === true;
}

function isEnded(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('Transaction is already');
}

let count = 0;

function compiled(sql: string, parameters: readonly SqlValue[]): CompiledQuery {
  return {
    sql,
    parameters,
    query: { kind: 'RawNode', sqlFragments: [sql], parameters: [] },
    queryId: { queryId: `waybill${++count}` },
  };
}

function resultOf(result: {
  readonly rows: readonly unknown[];
  readonly numAffectedRows?: bigint | undefined;
}): SqlResult {
  const rows = result.rows as SqlResult['rows'];
  return { rows, affected: Number(result.numAffectedRows ?? rows.length) };
}

export async function commitKysely(tx: KyselyTx, tells = false): Promise<CommitAnswer> {
  if (hasEnded(tx)) throw endedByHandler();
  return commitBy(kyselyRunner(tx), tells);
}

export function spoilKysely(tx: KyselyTx): void {
  try {
    kyselyRunner(tx).run(spoilt).catch(noop);
  } catch {
    // It has ended.
  }
}

function noop(): void {}
