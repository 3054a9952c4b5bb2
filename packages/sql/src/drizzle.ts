import { ConfigError, checkOptions } from '@waybill/core/adapter';
import type { Pool, PoolClient, QueryResult } from 'pg';
import {
  endedByHandler,
  type LibraryOptions,
  maxConnectionsOf,
  notOpen,
  RolledBack,
  sharedBy,
  transactionsOf,
} from './library.ts';
import { guardPool, hangUp } from './pg-connections.ts';
import { type RawClient, rawRunner } from './pg-library.ts';
import type { SqlClient, SqlRunner, SqlTransactions } from './sql.ts';

/** A transaction of `drizzle-orm/node-postgres`, with any schema. A database does not fit. */
export interface DrizzleTx {
  rollback(): never;
  readonly _: { readonly session: object };
}

/** A database of `drizzle-orm/node-postgres` on a pool. */
export interface DrizzleDatabase<Tx> {
  readonly $client: Pool;
  readonly _: { readonly session: object };
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
  guardPool(db.$client);
  return sharedBy(db, {
    name: 'drizzle',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, db.$client.options.max),
    runner,
    transaction: transactionsOf<Tx>({
      runner,
      async begin(inside) {
        const lent = new Lent(await db.$client.connect());
        // Given a pool, Drizzle never releases a connection whose BEGIN fails.
        const session: DrizzleSession<Tx> = Object.create(db._.session, { client: { value: lent } });
        let begun = false;
        try {
          await session.transaction((tx) => {
            begun = true;
            return inside(tx);
          });
        } finally {
          lent.release(!begun);
        }
      },
      async commit(tx) {
        (sessionOf(tx).client as unknown as Lent).close();
        return 'left to it';
      },
      spoil: (tx) => hangUp(sessionOf(tx).client),
    }),
  });
}

interface Session {
  readonly client: RawClient & Partial<Pick<PoolClient, 'release'>>;
}

interface DrizzleSession<Tx> {
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
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
  /** The first statement is the BEGIN. */
  #begun = false;
  /** Only the end of the transaction is let through any more. */
  #closed = false;

  constructor(client: PoolClient) {
    this.#client = client;
  }

  get connection(): unknown {
    return (this.#client as { readonly connection?: unknown } | undefined)?.connection;
  }

  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    return this.#client === undefined || this.#closed ? 'I' : (this.#client.getTransactionStatus?.() ?? null);
  }

  /** @throws when the handler has ended the transaction itself */
  close(): void {
    if (this.getTransactionStatus() === 'I') throw endedByHandler();
    this.#closed = true;
  }

  query(...args: unknown[]): unknown {
    const client = this.#client;
    const [{ text } = {}] = args as { readonly text?: string }[];
    const begins = !this.#begun;
    this.#begun = true;
    const commits = this.#closed && text === 'commit';
    // Whatever the handler sends after a COMMIT of its own would commit by itself.
    const lets = begins || commits || text === 'rollback' || this.getTransactionStatus() !== 'I';
    if (client === undefined || !lets) return Promise.reject(notOpen('its transaction has ended'));
    const answer = (client.query as (...all: unknown[]) => unknown)(...args);
    return commits ? certainly(answer as Promise<QueryResult>) : answer;
  }

  release(destroy: boolean): void {
    const client = this.#client;
    this.#client = undefined;
    // A ROLLBACK that failed leaves the transaction open.
    const status = client?.getTransactionStatus?.();
    client?.release(destroy || status === 'T' || status === 'E');
  }
}

/** PostgreSQL answers the COMMIT of a transaction that had failed with ROLLBACK, and without an error. */
async function certainly(answer: Promise<QueryResult>): Promise<QueryResult> {
  const result = await answer;
  if (result.command !== 'COMMIT') throw new RolledBack();
  return result;
}
