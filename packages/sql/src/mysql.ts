import { ConfigError, ConnectionError, systemClock, WaybillError } from '@waybill/core/adapter';
import type { Pool as CallbackPool } from 'mysql2';
import type { Connection, Pool, PoolConnection, ResultSetHeader } from 'mysql2/promise';
import { sqlError } from './errors.ts';
import { unlessGivenUp } from './given-up.ts';
import { literal } from './ident.ts';
import { Loan } from './loan.ts';
import type { SqlClient, SqlDatabase, SqlResult, SqlRunner, SqlTransactions, SqlValue } from './sql.ts';
import { Turns } from './turns.ts';

/** A connection of `mysql2/promise` with a transaction open, or what an inbox hands to its handler. A pool does not fit. */
export interface MysqlTx extends Pick<Connection, 'query' | 'execute'> {
  /** Pools have it: each query of one may run on another connection. */
  readonly getConnection?: never;
}

/** A pool of `mysql2`, with promises or with callbacks. */
export type MysqlPool = Pool | CallbackPool;

/** Transactions on the connections of a pool. */
export interface MysqlTransactions extends SqlTransactions<MysqlTx> {
  readonly maxConnections: number;
  readonly pool: MysqlPool;
  /**
   * @param last a statement for the connection once the transaction has ended, however it did, and before somebody else
   *   has it. If it fails, the connection is closed
   */
  transaction<T>(work: (tx: MysqlTx) => Promise<T>, signal?: AbortSignal, last?: string): Promise<T>;
}

/**
 * A database on a pool of `mysql2`. The pool stays the caller's, who closes it.
 *
 * @param options.timeout milliseconds after which `run` gives up on an answer, and its connection is closed: it may have
 *   died without a word. Default: none
 */
export function mysqlDatabase(pool: MysqlPool, options: { readonly timeout?: number } = {}): SqlDatabase {
  const promised = promisedPool(pool);
  const { timeout } = options;
  return {
    dialect: 'mysql',
    run: (text, values) =>
      timeout === undefined ? runOn(promised, text, values) : runWithin(timeout, promised, text, values),
    transaction: (work) => transact(promised, (tx) => work({ run: (text, values) => runOn(tx, text, values) })),
  };
}

/**
 * Statements in a transaction that the caller began on a connection of `mysql2`. Each costs a second round trip: the
 * server says only in its answers whether a transaction is open, and a statement outside of one has been committed by
 * then. So it is asked before (`DO 0`).
 */
export function mysqlClient(): SqlClient<MysqlTx> {
  return { name: 'mysql2', runner };
}

/** Transactions on a pool of `mysql2`, for inboxes. */
export function mysqlTransactions(pool: MysqlPool): MysqlTransactions {
  const promised = promisedPool(pool);
  return {
    name: 'mysql2',
    dialect: 'mysql',
    maxConnections: insideOf(promised).config.connectionLimit,
    pool,
    runner,
    transaction: (work, signal, last) => transact(promised, work, { signal, last, whole: true }),
  };
}

/** What the types of a pool leave out. */
interface PoolInside {
  readonly config: {
    readonly connectionLimit: number;
    readonly connectionConfig: { readonly enableKeepAlive?: boolean; readonly keepAliveInitialDelay?: number };
  };
  on(event: 'connection', heard: (connection: Inside) => void): unknown;
}

/** What connections have underneath. */
interface Inside {
  readonly stream?: { destroy(error: Error): void; setKeepAlive?(enable: boolean, initialDelay: number): void };
}

/** Milliseconds of silence after which a server is asked whether it is still there: the system's default is two hours. */
const silence = 30_000;

const guarded = new WeakSet<object>();

function promisedPool(pool: MysqlPool): Pool {
  if (typeof pool?.getConnection !== 'function') throw new ConfigError('pool', 'is not a pool of mysql2');
  const promised = 'promise' in pool && typeof pool.promise === 'function' ? pool.promise() : (pool as Pool);
  const core = insideOf(promised);
  const { enableKeepAlive, keepAliveInitialDelay } = core.config.connectionConfig;
  if (!guarded.has(core) && enableKeepAlive !== false && !keepAliveInitialDelay) {
    guarded.add(core);
    core.on('connection', ({ stream }) => stream?.setKeepAlive?.(true, silence));
  }
  return promised;
}

function insideOf(promised: Pool): PoolInside {
  return (promised as unknown as { readonly pool: PoolInside }).pool;
}

/** Flags of the protocol, in every answer. */
const inTransaction = 1;
const autocommit = 2;

function runner(tx: MysqlTx): SqlRunner {
  if (typeof tx?.query !== 'function') throw new ConfigError('tx', 'is not a connection of mysql2');
  if ('getConnection' in tx) {
    throw new ConfigError(
      'tx',
      'is a pool, each of whose queries may run on another connection; take a connection of it',
    );
  }
  const { promise } = tx as { promise?: () => MysqlTx };
  const promised = typeof promise === 'function' ? promise.call(tx) : tx;
  return {
    async run(text, values) {
      if (promised instanceof Handle) promised.check();
      else if (!(await isOpen(promised))) throw new ConfigError('tx', 'has no transaction open; begin one first');
      return runOn(promised, text, values);
    },
  };
}

async function statusOf(tx: Pick<Connection, 'query'>): Promise<number> {
  return ((await ask(tx, 'DO 0')) as ResultSetHeader).serverStatus;
}

/** What an answer says by itself: rows say nothing, and of several results, as procedures have them, the last one does. */
function statusIn(answer: unknown): number | undefined {
  const last: unknown = Array.isArray(answer) ? answer.at(-1) : answer;
  const { serverStatus, affectedRows } = (last ?? {}) as Partial<ResultSetHeader>;
  return affectedRows === undefined ? undefined : serverStatus;
}

async function isOpen(tx: MysqlTx): Promise<boolean> {
  const serverStatus = await statusOf(tx);
  // Without autocommit the next statement begins one.
  return (serverStatus & inTransaction) !== 0 || (serverStatus & autocommit) === 0;
}

/** Plain text, with plain rows whatever the pool was told. */
async function ask(target: Pick<Connection, 'query'>, sql: string): Promise<unknown> {
  try {
    const [answer] = await target.query({ sql, rowsAsArray: false, nestTables: false } as never);
    return answer;
  } catch (error) {
    throw sqlError('mysql', error);
  }
}

async function runOn(
  target: Pick<Connection, 'query'>,
  text: string,
  values: readonly SqlValue[] = [],
): Promise<SqlResult> {
  const answer = await ask(target, values.length === 0 ? text : fill(text, values));
  if (Array.isArray(answer)) return { rows: answer, affected: 0 };
  return { rows: [], affected: (answer as ResultSetHeader).affectedRows };
}

async function runWithin(
  timeout: number,
  pool: Pool,
  text: string,
  values: readonly SqlValue[] | undefined,
): Promise<SqlResult> {
  const connection = await connect(pool);
  const silent = Promise.withResolvers<never>();
  const timer = systemClock.setTimeout(
    () =>
      silent.reject(new ConnectionError(`the database has not answered within ${timeout} ms`, { adapter: 'mysql' })),
    timeout,
  );
  let lost = false;
  try {
    return await Promise.race([runOn(connection, text, values), silent.promise]);
  } catch (error) {
    // The answer of this statement, if it is late, must not be taken for that of the next.
    lost = WaybillError.is(error, 'CONNECTION');
    throw error;
  } finally {
    timer.cancel();
    if (lost) hangUp(connection);
    else connection.release();
  }
}

/**
 * Values as literals that no setting of the server reads differently. The driver's own depend on `sql_mode`, and its
 * prepared statements cost a second round trip for every new number of rows.
 */
function fill(text: string, values: readonly SqlValue[]): string {
  let count = 0;
  // A name in back-ticks may hold a question mark.
  const filled = text.replace(/`[^`]*`|\?/g, (found) => {
    if (found !== '?') return found;
    return show(values[count++] ?? null);
  });
  if (count !== values.length) throw new Error(`${values.length} values for ${count} placeholders`);
  return filled;
}

function show(value: SqlValue): string {
  if (value === null) return 'NULL';
  if (typeof value === 'string') return literal('mysql', value);
  if (typeof value !== 'number') return `X'${Buffer.from(value).toString('hex')}'`;
  if (!Number.isFinite(value)) throw new TypeError(`${value} is not a number for a database`);
  return String(value);
}

const ended = 'its transaction has ended; await all of its queries in the handler';
const endedByHandler =
  'the handler has ended the transaction itself, by COMMIT, ROLLBACK or DDL; leave that to the inbox';
const rolledBack =
  'an error has rolled back the whole transaction, as a deadlock does; let such errors out of the handler';

/**
 * The connection of a handler: dead once its transaction has ended, so that it never reaches the connection's next user,
 * and so that nothing commits by itself. For that, its statements go out one after the other.
 */
class Handle implements MysqlTx {
  /** Why no transaction is open any more, where an answer said so. */
  left: string | undefined;
  readonly #turns = new Turns();
  readonly #whole: boolean;
  #connection: PoolConnection | undefined;

  constructor(connection: PoolConnection, whole: boolean) {
    this.#connection = connection;
    this.#whole = whole;
  }

  /** Resolves once what is under way has its answer, and so has shown what is left of the transaction. */
  end(): Promise<void> {
    this.#connection = undefined;
    return this.#turns.take(async () => {});
  }

  /** @throws ConfigError when the transaction has ended */
  check(): PoolConnection {
    if (this.#connection === undefined) throw new ConfigError('tx', ended);
    if (this.#whole && this.left !== undefined) throw new ConfigError('tx', this.left);
    return this.#connection;
  }

  query: Connection['query'] = ((...args: unknown[]) => this.#pass('query', args)) as never;
  execute: Connection['execute'] = ((...args: unknown[]) => this.#pass('execute', args)) as never;

  #pass(name: 'query' | 'execute', args: unknown[]): Promise<unknown> {
    return this.#turns.take(async () => {
      const connection = this.check();
      try {
        const answer = await (connection[name] as unknown as (...all: unknown[]) => Promise<[unknown]>)(...args);
        const status = statusIn(answer[0]);
        if (status !== undefined && (status & inTransaction) === 0) this.left ??= endedByHandler;
        return answer;
      } catch (error) {
        // An error's answer does not say what is left of the transaction.
        const status = await statusOf(connection).catch(() => 0);
        if ((status & inTransaction) === 0) this.left ??= rolledBack;
        throw error;
      }
    });
  }
}

function connect(pool: Pool, signal?: AbortSignal): Promise<PoolConnection> {
  return unlessGivenUp(
    () => pool.getConnection(),
    (connection) => connection.release(),
    signal,
  ).catch((error: unknown) => {
    throw signal?.aborted ? error : sqlError('mysql', error);
  });
}

/**
 * Cuts the connection. Its own `destroy` waits for a server that may not answer, and leaves the statements that are under
 * way without an end.
 */
function hangUp(connection: PoolConnection): void {
  connection.on('error', noop);
  const { stream } = (connection as unknown as { readonly connection: Inside }).connection;
  stream?.destroy(new Error('the connection was given up'));
  connection.destroy();
}

function noop(): void {}

interface TransactOptions {
  readonly signal?: AbortSignal | undefined;
  readonly last?: string | undefined;
  readonly whole?: boolean;
}

async function transact<T>(
  pool: Pool,
  work: (tx: MysqlTx) => Promise<T>,
  // Migrations are not one transaction: each of their statements commits.
  { signal, last, whole = false }: TransactOptions = {},
): Promise<T> {
  const connection = await connect(pool, signal);
  const handle = new Handle(connection, whole);
  const onError = (error: Error): void => loan.breakOff(sqlError('mysql', error));
  connection.on('error', onError);
  const loan = new Loan((destroy) => {
    void handle.end();
    connection.off('error', onError);
    if (destroy) hangUp(connection);
    else connection.release();
  }, signal);
  const finish = async (): Promise<void> => {
    if (last !== undefined) await ask(connection, last);
  };
  try {
    await loan.during(ask(connection, 'START TRANSACTION'));
    const result = await loan.during(work(handle));
    await loan.during(handle.end());
    if (whole && handle.left !== undefined) throw new Error(handle.left);
    await loan.during(commit(connection));
    await loan.during(finish()).then(
      () => loan.end(false),
      () => loan.end(true),
    );
    return result;
  } catch (error) {
    void handle.end();
    throw await loan.undo(error, () => ask(connection, 'ROLLBACK').then(finish));
  }
}

async function commit(connection: PoolConnection): Promise<void> {
  try {
    await ask(connection, 'COMMIT');
  } catch (error) {
    if (!ConnectionError.is(error, 'CONNECTION')) throw error;
    throw new ConnectionError(`the commit was not confirmed: ${error.message}`, { adapter: 'mysql', cause: error });
  }
}
