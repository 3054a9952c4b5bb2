export type Dialect = 'postgres' | 'mysql' | 'sqlite';

/** What every driver takes and gives back alike. Bytes are `bytea`, `blob` or `longblob`; times are the database's. */
export type SqlValue = string | number | Uint8Array | null;

export interface SqlResult {
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  /** Rows that the statement inserted, changed or deleted. */
  readonly affected: number;
}

/** Runs one statement. Placeholders are the dialect's own: `$1`, `$2` on PostgreSQL, `?` elsewhere, each used once and in order. */
export interface SqlRunner {
  run(text: string, values?: readonly SqlValue[]): Promise<SqlResult>;
}

/**
 * A database on connections of our own choice: for migrations, stores and relays. Each `run` commits by itself. On
 * PostgreSQL one without values takes several statements, in one message and one transaction; the result is the last's.
 */
export interface SqlDatabase extends SqlRunner {
  readonly dialect: Dialect;
  /** Commits when the work resolves, rolls back when it rejects; a connection that broke is not used again. */
  transaction<T>(work: (tx: SqlRunner) => Promise<T>): Promise<T>;
  /**
   * Calls `heard` when somebody notified the channel, and after each time the connection was away, because a word may
   * have been missed meanwhile. Absent where the database has no such thing.
   */
  listen?(channel: string, heard: () => void): Promise<AsyncDisposable>;
}

/** How statements get into a transaction that the caller began, with the library of their choice. */
export interface SqlClient<Tx> {
  /** `pg`, `kysely`: for messages. */
  readonly name: string;
  /**
   * A runner inside of the caller's transaction.
   * @throws ConfigError when it is not one, or, as far as the library can tell, not open any more
   */
  runner(tx: Tx): SqlRunner;
}

/** A client that also begins transactions, for inboxes. */
export interface SqlTransactions<Tx> extends SqlClient<Tx> {
  readonly dialect: Dialect;
  /** Connections that may be in use at once, if the library tells: an inbox runs fewer handlers than that. */
  readonly maxConnections?: number;
  /**
   * Begins a transaction, commits it when the work resolves, rolls it back when it rejects. When `signal` aborts, the
   * caller has given up on the work though it still runs: the transaction must come to nothing soon, and no statement
   * of the work may reach a connection that serves somebody else.
   */
  transaction<T>(work: (tx: Tx) => Promise<T>, signal?: AbortSignal): Promise<T>;
}
