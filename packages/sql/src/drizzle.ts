import { ConfigError, checkOptions } from '@waybill/core/adapter';
import type { Pool, PoolClient } from 'pg';
import { type LibraryOptions, maxConnectionsOf, notOpen, transactionsOf } from './library.ts';
import { commitRaw, cut, outliveCuts, type RawClient, rawRunner } from './pg-library.ts';
import type { SqlClient, SqlRunner, SqlTransactions } from './sql.ts';

/** A transaction of `drizzle-orm/node-postgres`, with any schema. A database does not fit. */
export interface DrizzleTx {
  rollback(): never;
  readonly _: { readonly session: object };
}

/** A database of `drizzle-orm/node-postgres` on a pool. */
export interface DrizzleDatabase<Tx> {
  readonly $client: Pool;
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
}

export interface DrizzleOptions extends LibraryOptions {}

/**
 * Transactions of Drizzle on PostgreSQL, with the driver `drizzle-orm/node-postgres`. With a database it also begins
 * them, for inboxes.
 *
 * @throws ConfigError for what is not such a database, or one on a single client
 */
export function drizzleAdapter(): SqlClient<DrizzleTx>;
export function drizzleAdapter<Tx extends DrizzleTx>(
  db: DrizzleDatabase<Tx>,
  options?: DrizzleOptions,
): SqlTransactions<Tx>;
export function drizzleAdapter<Tx extends DrizzleTx>(
  db?: DrizzleDatabase<Tx>,
  options: DrizzleOptions = {},
): SqlClient<DrizzleTx> | SqlTransactions<Tx> {
  if (db === undefined) return { name: 'drizzle', runner };
  if (typeof db?.transaction !== 'function' || typeof db.$client !== 'object') {
    throw new ConfigError('db', 'is not a database of drizzle-orm/node-postgres');
  }
  checkOptions(options, ['maxConnections'], '');
  if (!('totalCount' in db.$client)) throw new ConfigError('db', 'is not on a Pool of pg, which an inbox needs');
  outliveCuts(db.$client);
  return {
    name: 'drizzle',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, db.$client.options.max),
    runner,
    transaction: transactionsOf<Tx>({
      begin: (inside) =>
        db.transaction((tx) => {
          const session = sessionOf(tx);
          session.client = new Lent(session.client as PoolClient) as unknown as RawClient;
          return inside(tx);
        }),
      commit: (tx) => commitRaw(sessionOf(tx).client),
      spoil: (tx) => cut(sessionOf(tx).client),
    }),
  };
}

interface Session {
  client: RawClient & Partial<Pick<PoolClient, 'release'>>;
}

/** How transactions hold their client, so that one that ended is known though its client serves the next one. */
const held = new WeakMap<DrizzleTx, { readonly release: unknown }>();

function runner(tx: DrizzleTx): SqlRunner {
  if (typeof tx?.rollback !== 'function' || typeof tx._?.session !== 'object') {
    throw notOpen('is not a transaction of Drizzle');
  }
  const { client } = sessionOf(tx);
  if (typeof client?.query !== 'function' || !('connection' in client)) {
    throw new ConfigError('tx', 'is not of drizzle-orm/node-postgres');
  }
  if (!held.has(tx)) held.set(tx, { release: client.release });
  const check = (): RawClient => {
    // A pool gives a client a new one each time it lends it.
    if (held.get(tx)?.release !== client.release) throw notOpen('its transaction has ended');
    return client;
  };
  check();
  return rawRunner(check);
}

function sessionOf(tx: DrizzleTx): Session {
  return tx._.session as Session;
}

/** The client of a handler's transaction: dead once that has ended, so that it never reaches the next one. */
class Lent {
  #client: PoolClient | undefined;

  constructor(client: PoolClient) {
    this.#client = client;
  }

  get connection(): unknown {
    return (this.#client as { readonly connection?: unknown } | undefined)?.connection;
  }

  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    return this.#client === undefined ? 'I' : (this.#client.getTransactionStatus?.() ?? null);
  }

  query(...args: unknown[]): unknown {
    if (this.#client === undefined) return Promise.reject(notOpen('its transaction has ended'));
    return (this.#client.query as (...all: unknown[]) => unknown)(...args);
  }

  release(): void {
    const client = this.#client;
    this.#client = undefined;
    client?.release();
  }
}
