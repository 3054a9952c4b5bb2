import { backOff, ConfigError, ConnectionError, sleep, systemClock } from '@waybill/core/adapter';
import type { Client, ClientBase, ClientConfig, Pool, PoolClient, QueryConfig, QueryResult } from 'pg';
import { sqlError } from './errors.ts';
import { unlessGivenUp } from './given-up.ts';
import { ident } from './ident.ts';
import { Loan } from './loan.ts';
import { beginWith, type PgStatement } from './pg-begin.ts';
import { guardPool, hangUp, keepAlive } from './pg-connections.ts';
import type { SqlClient, SqlDatabase, SqlResult, SqlRunner, SqlTransactions, SqlValue } from './sql.ts';

export { type PgStatement, pgStatement } from './pg-begin.ts';

/** A client of `pg` with a transaction open, or what an inbox hands to its handler. A `Pool` does not fit. */
export interface PgTx extends Pick<ClientBase, 'query'> {
  /** Pools have it: each query of one may run on another connection. */
  readonly totalCount?: never;
}

/** Transactions on the connections of a pool. */
export interface PgTransactions extends SqlTransactions<PgTx> {
  readonly maxConnections: number;
  readonly pool: Pool;
  /**
   * A transaction whose `BEGIN` travels with a first statement in one message, once a connection has prepared both;
   * `work` is given the number of rows that it inserted, changed or deleted.
   */
  begin<T>(
    first: PgStatement,
    values: readonly string[],
    work: (tx: PgTx, affected: number, session: PgSession) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T>;
}

/** The connection under a transaction. */
export interface PgSession {
  /** Aborts when the connection is gone, and the transaction with it. */
  readonly lost: AbortSignal;
  /** Any statement, so that the server sees a sign of life. Never rejects. */
  touch(): Promise<void>;
}

/**
 * A database on a pool of `pg`. The pool stays the caller's, who closes it.
 *
 * @param options.timeout milliseconds after which `run` gives up on an answer, and its connection is closed: it may have
 *   died without a word. Default: none but the pool's own
 */
export function pgDatabase(pool: Pool, options: { readonly timeout?: number } = {}): SqlDatabase {
  guardPool(pool);
  const { timeout } = options;
  // The types of pg know this one only for a connection as a whole.
  const query = (text: string, values?: unknown[]): Promise<QueryResult> =>
    timeout === undefined
      ? pool.query(text, values)
      : pool.query({ text, values: values ?? [], query_timeout: timeout } as QueryConfig);
  return {
    dialect: 'postgres',
    run: (text, values) => runOn({ query }, text, values),
    transaction: (work) => transact(pool, plainBegin, (tx) => work({ run: (text, values) => runOn(tx, text, values) })),
    listen: (channel, heard) => listen(pool, channel, heard),
  };
}

/** Statements in a transaction that the caller began on a client of `pg`. */
export function pgClient(): SqlClient<PgTx> {
  return { name: 'pg', runner };
}

/** Transactions on a pool of `pg`, for inboxes. */
export function pgTransactions(pool: Pool): PgTransactions {
  guardPool(pool);
  return {
    name: 'pg',
    dialect: 'postgres',
    maxConnections: pool.options.max,
    pool,
    runner,
    transaction: (work, signal) => transact(pool, plainBegin, work, signal),
    begin: (first, values, work, signal) =>
      transact(pool, (client) => beginWith(pool, client, first, values), work, signal),
  };
}

function runner(tx: PgTx): SqlRunner {
  refuse(tx);
  return {
    async run(text, values) {
      // The transaction may have ended since, and the next statement would commit by itself.
      if (refuse(tx) === undefined) await probe(tx);
      return runOn(tx, text, values);
    },
  };
}

/**
 * `open`, or `undefined` where pg does not tell: its older versions do not.
 *
 * @throws ConfigError for what is not a client with a transaction that can still commit
 */
function refuse(tx: PgTx): 'open' | undefined {
  if (typeof tx?.query !== 'function') throw new ConfigError('tx', 'is not a client of pg');
  if ('totalCount' in tx) {
    throw new ConfigError('tx', 'is a Pool, each of whose queries may run on another connection; take a client of it');
  }
  const status = statusOf(tx);
  if (status === 'I') throw new ConfigError('tx', noTransaction);
  if (status === 'E') throw new ConfigError('tx', 'a statement of this transaction failed: it can only be rolled back');
  return status === 'T' ? 'open' : undefined;
}

const noTransaction = 'has no transaction open; await its BEGIN first';

/** Only in a transaction can there be a savepoint. */
async function probe(tx: PgTx): Promise<void> {
  try {
    // In one message, so that no savepoint of the caller's can begin within it.
    await tx.query('SAVEPOINT waybill_probe;RELEASE SAVEPOINT waybill_probe');
  } catch (error) {
    if ((error as { code?: unknown }).code === '25P01') throw new ConfigError('tx', noTransaction, { cause: error });
    throw sqlError('postgres', error);
  }
}

/** What all clients and pools of pg have. */
interface Queryable {
  query(text: string, values?: unknown[]): Promise<QueryResult>;
}

async function runOn(target: Queryable, text: string, values?: readonly SqlValue[]): Promise<SqlResult> {
  try {
    return resultOf(await (values === undefined ? target.query(text) : target.query(text, [...values])));
  } catch (error) {
    throw sqlError('postgres', error);
  }
}

function resultOf(result: QueryResult<Record<string, unknown>>): SqlResult {
  // Several statements in one message have as many results, which the type of pg does not know.
  const { rows, rowCount } = Array.isArray(result) ? (result.at(-1) as QueryResult) : result;
  return { rows, affected: rowCount ?? 0 };
}

function connect(pool: Pool, signal?: AbortSignal): Promise<PoolClient> {
  return unlessGivenUp(
    () => pool.connect(),
    (client) => client.release(),
    signal,
  ).catch((error: unknown) => {
    throw signal?.aborted ? error : sqlError('postgres', error);
  });
}

/**
 * The client of a handler: dead once its transaction has ended, so that it never reaches the connection's next user, and
 * so that nothing commits by itself.
 */
class Handle {
  #client: PoolClient | undefined;

  constructor(client: PoolClient) {
    this.#client = client;
  }

  end(): void {
    this.#client = undefined;
  }

  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    return this.#client === undefined ? 'I' : statusOf(this.#client);
  }

  // biome-ignore lint/suspicious/noExplicitAny: the overloads of pg's own, which it has in its type (PgTx)
  query(...args: any[]): unknown {
    if (this.#client !== undefined && statusOf(this.#client) !== 'I')
      return (this.#client.query as (...all: unknown[]) => unknown)(...args);
    const error = new ConfigError('tx', 'its transaction has ended; await all of its queries in the handler');
    const callback = args.at(-1);
    if (typeof callback !== 'function') return Promise.reject(error);
    process.nextTick(callback, error);
    return undefined;
  }
}

/** Older versions of pg 8 do not tell. */
function statusOf(client: object): 'I' | 'T' | 'E' | null {
  return (client as Partial<Pick<ClientBase, 'getTransactionStatus'>>).getTransactionStatus?.() ?? null;
}

async function transact<T, Began>(
  pool: Pool,
  begin: (client: PoolClient) => Promise<Began>,
  work: (tx: PgTx, began: Began, session: PgSession) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const client = await connect(pool, signal);
  const handle = new Handle(client);
  const lost = new AbortController();
  const onError = (error: Error): void => {
    lost.abort(error);
    loan.breakOff(sqlError('postgres', error));
  };
  client.on('error', onError);
  const loan = new Loan((destroy) => {
    handle.end();
    client.off('error', onError);
    client.release(destroy);
    if (destroy) hangUp(client);
  }, signal);
  const touch = async (): Promise<void> => {
    if (!loan.over) await client.query('SELECT 1').catch(() => {});
  };
  try {
    const began = await loan.during(begin(client));
    const result = await loan.during(work(handle as unknown as PgTx, began, { lost: lost.signal, touch }));
    handle.end();
    await loan.during(commit(client));
    loan.end(false);
    return result;
  } catch (error) {
    handle.end();
    // Also where none seems to be open: what the server says of that comes after the error that it tells of.
    throw await loan.undo(error, () => runOn(client, 'ROLLBACK'));
  }
}

function plainBegin(client: PoolClient): Promise<SqlResult> {
  return runOn(client, 'BEGIN');
}

async function commit(client: PoolClient): Promise<void> {
  if (statusOf(client) === 'I') {
    throw new Error('the handler has ended the transaction itself; leave COMMIT and ROLLBACK to the inbox');
  }
  try {
    const { command } = await client.query('COMMIT');
    if (command === 'COMMIT') return;
  } catch (cause) {
    const error = sqlError('postgres', cause);
    if (!ConnectionError.is(error, 'CONNECTION')) throw error;
    throw new ConnectionError(`the commit was not confirmed: ${error.message}`, { adapter: 'postgres', cause });
  }
  throw new Error('a statement of the transaction had failed, so PostgreSQL rolled it back instead of committing it');
}

/** Milliseconds for a server that takes a connection to say something on it. */
const longestOpening = 10_000;

/**
 * Listens on a connection of its own beside the pool, which may be as small as one. It is opened again whenever it goes
 * away, and the first time too: a database that is away now is listened to later.
 */
async function listen(pool: Pool, channel: string, heard: () => void): Promise<AsyncDisposable> {
  const listenTo = `LISTEN ${ident('postgres', channel, 'channel')}`;
  const PoolsClient = (pool as unknown as { Client: new (config: ClientConfig) => Client }).Client;
  const stop = new AbortController();
  let current: Client | undefined;

  const end = (client: Client): Promise<void> => {
    const ending = client.end().catch(() => {});
    hangUp(client);
    return ending;
  };
  // In an object, because a function that is async would wait for the end.
  const open = async (): Promise<{ readonly ended: Promise<void> }> => {
    const client = new PoolsClient(pool.options);
    const ended = new Promise<void>((resolve) => client.once('end', () => resolve()));
    client.on('error', () => void end(client));
    client.on('notification', heard);
    current = client;
    const timer = systemClock.setTimeout(() => hangUp(client), longestOpening);
    const begin = async (): Promise<void> => {
      await client.connect();
      keepAlive(pool, client);
      await client.query(listenTo);
    };
    // pg itself does not say when a connect was broken off.
    const brokenOff = ended.then(() => {
      throw new Error('the connection has ended');
    });
    try {
      await Promise.race([begin(), brokenOff]);
    } catch (error) {
      await end(client);
      throw error;
    } finally {
      timer.cancel();
    }
    return { ended };
  };
  const keep = async (first: { readonly ended: Promise<void> } | undefined): Promise<void> => {
    let opened = first;
    for (let tries = 1; !stop.signal.aborted; tries++) {
      if (opened !== undefined) {
        await opened.ended;
        tries = 1;
      }
      await sleep(systemClock, backOff(tries, { initial: 100, max: 5_000 }), stop.signal);
      if (stop.signal.aborted) return;
      opened = await open().catch(() => undefined);
      if (opened !== undefined) heard();
    }
  };
  const kept = keep(await open().catch(() => undefined));
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      if (current !== undefined) await end(current);
      await kept;
    },
  };
}
