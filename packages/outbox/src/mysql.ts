import type { SqlClient } from '@waybill/sql';
import { type MysqlPool, type MysqlTx, mysqlClient, mysqlDatabase } from '@waybill/sql/mysql';
import { mysqlStatements } from './dialects/mysql.ts';
import { answersWithin, createOutbox } from './outbox.ts';
import type { Outbox, OutboxOptions } from './types.ts';

export type { MysqlPool, MysqlTx } from '@waybill/sql/mysql';
export type * from './types.ts';

/**
 * An outbox in MySQL 8 or MariaDB 10.6, or later, on InnoDB. The pool is for relays, migrations and `status`;
 * publishing happens on the caller's own transaction: a connection of `mysql2` between BEGIN and COMMIT, or what
 * `client` takes.
 *
 * @throws ConfigError for a wrong option
 */
export function mysqlOutbox(
  pool: MysqlPool,
  options?: OutboxOptions<MysqlTx> & { readonly client?: never },
): Outbox<MysqlTx>;
export function mysqlOutbox<Tx>(
  pool: MysqlPool,
  options: OutboxOptions<Tx> & { readonly client: SqlClient<Tx> },
): Outbox<Tx>;
export function mysqlOutbox(pool: MysqlPool, options: OutboxOptions<never> = {}): Outbox<never> {
  return createOutbox<never>({
    database: mysqlDatabase(pool, { timeout: answersWithin }),
    client: options.client ?? (mysqlClient() as SqlClient<never>),
    statements: mysqlStatements,
    options,
    optionNames: ['schema'],
    notify: false,
  });
}
