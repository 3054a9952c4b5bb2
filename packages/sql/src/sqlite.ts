import { realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { ConfigError, ConnectionError, sleep, systemClock } from '@waybill/core/adapter';
import { isLockTimeout, sqlError } from './errors.ts';
import type { SqlClient, SqlDatabase, SqlResult, SqlRunner, SqlTransactions, SqlValue } from './sql.ts';
import { Turns } from './turns.ts';

/** The part of a `StatementSync` that a handler has. */
export type SqliteStatement = Pick<StatementSync, 'run' | 'get' | 'all' | 'iterate'>;

/** A `DatabaseSync` with a transaction open, or what an inbox hands to its handler. */
export interface SqliteTx {
  readonly isTransaction: boolean;
  exec(sql: string): void;
  prepare(sql: string): SqliteStatement;
}

/** The path of a file, or a database of `node:sqlite` that has it open: then the file is opened once more. */
export type SqliteSource = string | DatabaseSync;

export interface SqliteDatabase extends SqlDatabase {
  /** Closes the connection of its own. */
  close(): void;
}

export interface SqliteTransactions extends SqlTransactions<SqliteTx> {
  readonly maxConnections: 1;
  /** Closes the connection of its own. */
  close(): void;
}

/**
 * A database on a connection of its own: what the caller has open in a transaction on theirs is no part of it.
 *
 * @throws ConfigError for a database in memory, which nobody else can open
 */
export function sqliteDatabase(source: SqliteSource): SqliteDatabase {
  const file = new File(source);
  return {
    dialect: 'sqlite',
    run: (text, values) => file.run(text, values),
    transaction: (work) => file.transaction((tx) => work(runnerOn(tx))),
    close: () => file.close(),
  };
}

/** Statements in a transaction that the caller began on a database of `node:sqlite`. */
export function sqliteClient(): SqlClient<SqliteTx> {
  return { name: 'node:sqlite', runner };
}

/**
 * Transactions for inboxes, on a connection of their own. One at a time, in this process and, as SQLite has it, in all
 * that write to the file: one that finds it locked is tried again, without holding up the event loop.
 *
 * @throws ConfigError for a database in memory, which nobody else can open
 */
export function sqliteTransactions(source: SqliteSource): SqliteTransactions {
  const file = new File(source);
  return {
    name: 'node:sqlite',
    dialect: 'sqlite',
    maxConnections: 1,
    runner,
    transaction: (work, signal) => file.transaction(work, signal),
    close: () => file.close(),
  };
}

function runner(tx: SqliteTx): SqlRunner {
  if (typeof tx?.prepare !== 'function') throw new ConfigError('tx', 'is not a database of node:sqlite');
  if (!tx.isTransaction) throw new ConfigError('tx', 'has no transaction open; begin one first');
  return {
    async run(text, values) {
      if (!tx.isTransaction) throw new ConfigError('tx', 'its transaction has ended');
      return runOn(tx instanceof Handle ? tx.check() : tx, text, values);
    },
  };
}

function runnerOn(tx: SqliteTx): SqlRunner {
  return { run: async (text, values) => runOn(tx, text, values) };
}

interface Prepared {
  readonly statement: SqliteStatement;
  readonly reads: boolean;
}

/** Statements of an open database: preparing one takes longer than running it. */
const prepared = new WeakMap<SqliteTx, Map<string, Prepared>>();

function runOn(tx: SqliteTx, text: string, values: readonly SqlValue[] = []): SqlResult {
  const given = values as SQLInputValue[];
  try {
    const { statement, reads } = prepare(tx, text);
    if (!reads) return { rows: [], affected: Number(statement.run(...given).changes) };
    const rows = statement.all(...given);
    return { rows, affected: rows.length };
  } catch (error) {
    // A database that was closed and opened again has none of its statements any more.
    prepared.get(tx)?.delete(text);
    throw sqlError('sqlite', error);
  }
}

function prepare(tx: SqliteTx, text: string): Prepared {
  let known = prepared.get(tx);
  if (known === undefined) {
    known = new Map();
    prepared.set(tx, known);
  }
  let found = known.get(text);
  if (found === undefined) {
    const statement = tx.prepare(text) as SqliteStatement & Partial<Pick<StatementSync, 'columns'>>;
    found = { statement, reads: (statement.columns?.().length ?? 0) > 0 };
    // Batches have few sizes; whatever has many must not pile up.
    if (known.size >= 100) known.clear();
    known.set(text, found);
  }
  return found;
}

/** Milliseconds for which a statement is tried while another process writes. */
const longestWait = 30_000;

function isBusy(error: unknown): boolean {
  return isLockTimeout('sqlite', error) || (error instanceof Error && isLockTimeout('sqlite', error.cause));
}

/** Repeats what found the file locked. */
async function patiently<T>(step: () => T, signal?: AbortSignal): Promise<T> {
  const giveUp = performance.now() + longestWait;
  for (let wait = 1; ; wait = Math.min(wait * 2, 8)) {
    try {
      return step();
    } catch (error) {
      if (!isBusy(error) || performance.now() > giveUp) throw sqlError('sqlite', error);
    }
    // Spread, so that two processes do not knock in step.
    await sleep(systemClock, wait * (0.5 + Math.random()), signal);
    signal?.throwIfAborted();
  }
}

/** Writers of this process come one after the other, in the order in which they asked. */
const turnsOfFiles = new Map<string, Turns>();

class File {
  readonly path: string;
  readonly #turns: Turns;
  #connection: DatabaseSync | undefined;
  #closed = false;

  constructor(source: SqliteSource) {
    this.path = pathOf(source);
    this.#turns = turnsOfFiles.get(this.path) ?? new Turns();
    turnsOfFiles.set(this.path, this.#turns);
  }

  /** @throws ConnectionError when the file cannot be opened */
  open(): DatabaseSync {
    if (this.#closed) throw new ConnectionError(`${this.path} is closed`, { adapter: 'sqlite', retryable: false });
    try {
      // Waiting inside of SQLite would hold up the event loop.
      this.#connection ??= new DatabaseSync(this.path, { timeout: 0 });
      return this.#connection;
    } catch (error) {
      throw sqlError('sqlite', error);
    }
  }

  close(): void {
    this.#closed = true;
    if (this.#connection?.isOpen) this.#connection.close();
  }

  /** At once where that is possible: whoever reads need not wait for a writer, and readers are most. */
  async run(text: string, values: readonly SqlValue[] | undefined): Promise<SqlResult> {
    if (this.#connection?.isTransaction !== true) {
      try {
        return runOn(this.open(), text, values);
      } catch (error) {
        if (!isBusy(error)) throw error;
      }
    }
    return this.#turns.take(() => patiently(() => runOn(this.open(), text, values)));
  }

  transaction<T>(work: (tx: SqliteTx) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#turns.take(() => this.#transact(work, signal), signal);
  }

  async #transact<T>(work: (tx: SqliteTx) => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const connection = this.open();
    await patiently(() => connection.exec('BEGIN IMMEDIATE'), signal);
    const handle = new Handle(connection);
    const gone = Promise.withResolvers<never>();
    gone.promise.catch(() => {});
    const onAbort = (): void => gone.reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const result = await Promise.race([work(handle), gone.promise]);
      handle.end();
      if (!this.open().isTransaction) {
        throw new Error('the handler has ended the transaction itself; leave COMMIT and ROLLBACK to the inbox');
      }
      // A reader of a file without write-ahead log can hold up a commit; until it is through, nothing is lost.
      await patiently(() => connection.exec('COMMIT'), signal);
      return result;
    } finally {
      handle.end();
      signal?.removeEventListener('abort', onAbort);
      if (connection.isOpen && connection.isTransaction) connection.exec('ROLLBACK');
    }
  }
}

function pathOf(source: SqliteSource): string {
  if (typeof source !== 'string' && typeof source?.location !== 'function') {
    throw new ConfigError('database', 'is neither a path nor a database of node:sqlite');
  }
  const path = typeof source === 'string' ? resolve(source) : source.location();
  if (path === null || source === ':memory:' || source === '') {
    throw new ConfigError('database', 'is in memory, where nobody else can open it; give the path of a file');
  }
  try {
    return realpathSync(path);
  } catch {
    // Not made yet.
    return path;
  }
}

const ended = 'its transaction has ended; nothing of the handler may go on after it';

/**
 * The database of a handler: dead once its transaction has ended, with all statements that it prepared. Some errors end it
 * too, and what came after them would commit by itself.
 */
class Handle implements SqliteTx {
  #database: DatabaseSync | undefined;
  /** Rows that were not read to their end: SQLite commits nothing while a statement that writes is at it. */
  readonly #reading = new Set<Iterator<unknown>>();

  constructor(database: DatabaseSync) {
    this.#database = database;
  }

  end(): void {
    this.#database = undefined;
    for (const rows of this.#reading) rows.return?.();
    this.#reading.clear();
  }

  get isTransaction(): boolean {
    return this.#database?.isOpen === true && this.#database.isTransaction;
  }

  exec(sql: string): void {
    this.check().exec(sql);
  }

  prepare(sql: string): SqliteStatement & Pick<StatementSync, 'columns'> {
    const statement = this.check().prepare(sql);
    const whileAlive = (name: 'run' | 'get' | 'all' | 'columns') =>
      ((...values: unknown[]) => {
        this.check();
        return (statement[name] as (...given: unknown[]) => unknown).apply(statement, values);
      }) as never;
    const check = (): unknown => this.check();
    // A statement runs when its first row is asked for, which may be late.
    const reading = this.#reading;
    const iterate = function* (...values: unknown[]) {
      check();
      const rows = statement.iterate(...(values as SQLInputValue[]));
      reading.add(rows);
      try {
        for (const row of rows) {
          yield row;
          check();
        }
      } finally {
        reading.delete(rows);
      }
    };
    return {
      run: whileAlive('run'),
      get: whileAlive('get'),
      all: whileAlive('all'),
      iterate: iterate as never,
      columns: whileAlive('columns'),
    };
  }

  /** @throws ConfigError when the transaction has ended */
  check(): DatabaseSync {
    if (this.#database === undefined || !this.isTransaction) throw new ConfigError('tx', ended);
    return this.#database;
  }
}
