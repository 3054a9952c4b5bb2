import type { SqlClient } from '@waybill/sql';
import { type SqliteSource, type SqliteTx, sqliteClient, sqliteDatabase } from '@waybill/sql/sqlite';
import { sqliteStatements } from './dialects/sqlite.ts';
import { createOutbox } from './outbox.ts';
import type { Outbox, OutboxOptions } from './types.ts';

export type { SqliteSource, SqliteTx } from '@waybill/sql/sqlite';
export type * from './types.ts';

export type SqliteOutboxOptions<Tx> = Omit<OutboxOptions<Tx>, 'schema'>;

export interface SqliteOutbox<Tx> extends Outbox<Tx> {
  /** Closes the connection of its own. Relays have been closed before. */
  close(): void;
}

/**
 * An outbox in a file of SQLite. The file is opened once more, for relays, migrations and `status`; publishing happens
 * on the caller's own connection: a `DatabaseSync` between BEGIN and COMMIT, or what `client` takes.
 *
 * @throws ConfigError for a wrong option, and for a database in memory, which nobody else can open
 */
export function sqliteOutbox(
  file: SqliteSource,
  options?: SqliteOutboxOptions<SqliteTx> & { readonly client?: never },
): SqliteOutbox<SqliteTx>;
export function sqliteOutbox<Tx>(
  file: SqliteSource,
  options: SqliteOutboxOptions<Tx> & { readonly client: SqlClient<Tx> },
): SqliteOutbox<Tx>;
export function sqliteOutbox(file: SqliteSource, options: SqliteOutboxOptions<never> = {}): SqliteOutbox<never> {
  const database = sqliteDatabase(file);
  const outbox = createOutbox<never>({
    database,
    client: options.client ?? (sqliteClient() as SqlClient<never>),
    statements: sqliteStatements,
    options,
    optionNames: [],
    notify: false,
  });
  return Object.assign(outbox, { close: () => database.close() });
}
