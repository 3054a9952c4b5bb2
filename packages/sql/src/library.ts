import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';
import { sqlError } from './errors.ts';
import type { SqlRunner, SqlTransactions } from './sql.ts';

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
  runner(tx: Tx): SqlRunner;
  /** Begins a transaction, commits it when the work resolves, and rolls it back when it rejects. */
  begin(work: (tx: Tx) => Promise<void>): Promise<unknown>;
  /**
   * Commits, and resolves with whether the server did. Most libraries do not tell, and PostgreSQL answers the COMMIT of
   * a transaction that had failed with ROLLBACK and without an error. So this is COMMIT AND CHAIN: it leaves a
   * transaction open, with nothing in it, for the library to commit. Where the library does tell, this resolves with
   * `left to it` and has done nothing.
   */
  commit(tx: Tx): Promise<boolean | 'left to it'>;
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
  const state: State<Tx, T> = {};
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
      const committed = await commitWith(library, tx);
      state.done = { result, committed };
    } catch (error) {
      state.failed = { error: signal?.aborted ? error : await whyFailed(library.runner, tx, error) };
      throw error;
    } finally {
      state.open = undefined;
    }
  };
  const whole = async (): Promise<T> => {
    let failed: { readonly error: unknown } | undefined;
    try {
      await library.begin(inside);
    } catch (error) {
      failed = { error };
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
    if (state.failed !== undefined) throw state.failed.error;
    // Without an error it was the handler that has ended it, and may go on still.
    if (state.done === undefined) throw failed === undefined ? endedByHandler() : libraryError(failed.error);
    // After a commit that is certain nothing changes any more.
    if (failed === undefined || state.done.committed) return state.done.result;
    throw commitError(failed.error);
  };
  // The library holds the connection until the work has ended, so that nothing of it reaches the next one to use it.
  return Promise.race([whole(), given.promise]);
}

/** Work whose connection broke may say anything, or nothing; and most libraries hide that its rollback failed. */
async function whyFailed<Tx>(runner: (tx: Tx) => SqlRunner, tx: Tx, error: unknown): Promise<unknown> {
  if (WaybillError.is(error, 'CONNECTION')) return error;
  try {
    await runner(tx).run('SELECT 1');
  } catch (now) {
    if (WaybillError.is(now, 'CONNECTION')) return now;
  }
  return error;
}

interface State<Tx, T> {
  open?: { readonly tx: Tx } | undefined;
  failed?: { readonly error: unknown };
  done?: { readonly result: T; readonly committed: boolean };
}

/** Resolves with whether it has been done; else the library does it. */
async function commitWith<Tx>(library: LibraryTransactions<Tx>, tx: Tx): Promise<boolean> {
  let committed: boolean | 'left to it';
  try {
    committed = await library.commit(tx);
  } catch (error) {
    throw commitError(error);
  }
  if (!committed) throw new RolledBack();
  return committed === true;
}

/** The commit was none. */
export class RolledBack extends Error {
  constructor() {
    super('a statement of the transaction had failed, so PostgreSQL rolled it back instead of committing it');
  }
}

function commitError(cause: unknown): unknown {
  const error = libraryError(cause);
  if (!WaybillError.is(error, 'CONNECTION')) return error;
  return new ConnectionError(`the commit was not confirmed: ${error.message}`, { adapter: 'postgres', cause });
}

export const commitAndChain = 'COMMIT AND CHAIN';

export interface CommitAnswer {
  readonly committed: boolean;
  /** Whether the library passed on what the server answered to the COMMIT. */
  readonly told: boolean;
}

/**
 * `LibraryTransactions.commit` by statements alone: where nobody tells, the server is asked what became of it.
 *
 * @param tells whether the library is known to tell
 */
export async function commitBy(runner: SqlRunner, tells = false): Promise<CommitAnswer> {
  const id = tells ? undefined : await idOf(runner);
  const command = await commitAndChainBy(runner);
  if (command !== undefined || id === undefined) return { committed: command === 'COMMIT', told: true };
  const { rows } = await runner.run(`SELECT pg_xact_status('${id}'::xid8) AS status`);
  return { committed: rows[0]?.['status'] === 'committed', told: false };
}

/** Fails in a transaction that had failed. */
async function idOf(runner: SqlRunner): Promise<string> {
  const { rows } = await runner.run('SELECT pg_current_xact_id()::text AS id');
  return String(rows[0]?.['id']);
}

async function commitAndChainBy(runner: SqlRunner): Promise<unknown> {
  try {
    return (await runner.run(commitAndChain)).rows[0]?.['command'];
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === noActiveTransaction) throw endedByHandler();
    throw error;
  }
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

const made = new WeakMap<object, SqlTransactions<never>>();

/** The same transactions for the same source, because inboxes that have them in common also share their connections. */
export function sharedBy<Tx>(source: object, transactions: SqlTransactions<Tx>): SqlTransactions<Tx> {
  const known = made.get(source);
  if (known?.name === transactions.name && known.maxConnections === transactions.maxConnections) {
    return known as unknown as SqlTransactions<Tx>;
  }
  made.set(source, transactions as unknown as SqlTransactions<never>);
  return transactions;
}

/** The error of the driver under those of a library, as one of Waybill's where it is one. */
export function libraryError(error: unknown): unknown {
  let found = error;
  let inner: unknown = error;
  for (let depth = 0; depth < 5 && typeof inner === 'object' && inner !== null; depth++) {
    const typed = sqlError('postgres', inner);
    if (WaybillError.is(typed) || typed instanceof RolledBack) return typed;
    const { code, driverError, cause } = inner as { code?: unknown; driverError?: unknown; cause?: unknown };
    if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)) found = inner;
    inner = driverError ?? cause;
  }
  return found;
}
