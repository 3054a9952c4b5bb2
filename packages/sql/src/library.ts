import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';
import { sqlError } from './errors.ts';
import type { SqlResult, SqlRunner, SqlTransactions } from './sql.ts';

/** Options of the transactions of a library. */
export interface LibraryOptions {
  /**
   * Connections of the pool behind the library: an inbox runs fewer handlers than that. Default: what the library
   * tells, else 10, as of a pool of `pg`.
   */
  readonly maxConnections?: number;
}

/** How the transactions of a library begin and end. */
export interface LibraryTransactions<Tx> {
  /** Begins a transaction, commits it when the work resolves, and rolls it back when it rejects. */
  begin(work: (tx: Tx) => Promise<void>): Promise<unknown>;
  /**
   * Commits, and resolves with whether the server did. Libraries do not tell, and PostgreSQL answers the COMMIT of a
   * transaction that had failed with ROLLBACK and without an error. So this is COMMIT AND CHAIN: it leaves a transaction
   * open, with nothing in it, for the library to commit.
   */
  commit(tx: Tx): Promise<boolean>;
  /** Makes sure that the transaction comes to nothing, while statements may still be sent to it. */
  spoil(tx: Tx): void;
}

/** Transactions of a library that has them last as long as a promise. */
export function transactionsOf<Tx>(library: LibraryTransactions<Tx>): SqlTransactions<Tx>['transaction'] {
  return (work, signal) => transact(library, work, signal);
}

async function transact<Tx, T>(
  library: LibraryTransactions<Tx>,
  work: (tx: Tx) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  signal?.throwIfAborted();
  const given = Promise.withResolvers<never>();
  given.promise.catch(() => {});
  const state: { open?: { readonly tx: Tx } | undefined; failed?: { readonly error: unknown }; done?: { result: T } } =
    {};
  const giveUp = (): void => {
    given.reject(signal?.reason);
    if (state.open !== undefined) library.spoil(state.open.tx);
  };
  signal?.addEventListener('abort', giveUp, { once: true });

  const inside = async (tx: Tx): Promise<void> => {
    state.open = { tx };
    try {
      signal?.throwIfAborted();
      const result = await work(tx);
      signal?.throwIfAborted();
      await commit(library, tx);
      state.done = { result };
    } catch (error) {
      state.failed = { error };
      throw error;
    } finally {
      state.open = undefined;
    }
  };
  const whole = async (): Promise<T> => {
    let failure: unknown;
    try {
      await library.begin(inside);
    } catch (error) {
      failure = error;
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
    // What came after the commit changes nothing any more.
    if (state.done !== undefined) return state.done.result;
    throw state.failed === undefined ? libraryError(failure) : state.failed.error;
  };
  // The library holds the connection until the work has ended, so that nothing of it reaches the next one to use it.
  return Promise.race([whole(), given.promise]);
}

async function commit<Tx>(library: LibraryTransactions<Tx>, tx: Tx): Promise<void> {
  let committed: boolean;
  try {
    committed = await library.commit(tx);
  } catch (cause) {
    const error = libraryError(cause);
    if (!WaybillError.is(error, 'CONNECTION')) throw error;
    throw new ConnectionError(`the commit was not confirmed: ${error.message}`, { adapter: 'postgres', cause });
  }
  if (!committed) {
    throw new Error('a statement of the transaction had failed, so PostgreSQL rolled it back instead of committing it');
  }
}

export const commitAndChain = 'COMMIT AND CHAIN';

/** `LibraryTransactions.commit` by statements alone: where nobody tells, the server is asked what became of it. */
export async function commitBy(runner: SqlRunner): Promise<boolean> {
  // Fails in a transaction that had failed.
  const { rows } = await runner.run('SELECT pg_current_xact_id()::text AS id');
  const id = String(rows[0]?.['id']);
  let answer: SqlResult;
  try {
    answer = await runner.run(commitAndChain);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === noActiveTransaction) throw endedByHandler();
    throw error;
  }
  // Newer versions of Kysely pass it on.
  const command = answer.rows[0]?.['command'];
  if (command !== undefined) return command === 'COMMIT';
  const { rows: found } = await runner.run(`SELECT pg_xact_status('${id}'::xid8) AS status`);
  return found[0]?.['status'] === 'committed';
}

const noActiveTransaction = '25P01';

/** Fails, and with it all that follows in its transaction; what the transaction had locked is free at once. */
export const spoilt =
  "DO $$ BEGIN RAISE EXCEPTION 'the handler was given up, so its transaction must not commit'; END $$";

/** The handler has called COMMIT or ROLLBACK. */
export function endedByHandler(): Error {
  return new Error('the handler has ended the transaction itself; leave COMMIT and ROLLBACK to the inbox');
}

export function notOpen(why = 'has no transaction open'): ConfigError {
  return new ConfigError('tx', `${why}; publish within the transaction, and await it there`);
}

/** @throws ConfigError */
export function maxConnectionsOf({ maxConnections }: LibraryOptions, told: unknown): number {
  const found = maxConnections ?? (typeof told === 'number' ? told : 10);
  if (Number.isInteger(found) && found > 0) return found;
  throw new ConfigError('maxConnections', `${found} is not a whole number above 0`);
}

/** The error of the driver under those of a library, as one of Waybill's where it is one. */
export function libraryError(error: unknown): unknown {
  let found = error;
  let inner: unknown = error;
  for (let depth = 0; depth < 5 && typeof inner === 'object' && inner !== null; depth++) {
    const typed = sqlError('postgres', inner);
    if (WaybillError.is(typed)) return typed;
    const { code, driverError, cause } = inner as { code?: unknown; driverError?: unknown; cause?: unknown };
    if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)) found = inner;
    inner = driverError ?? cause;
  }
  return found;
}
