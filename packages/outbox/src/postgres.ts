import { ConfigError } from '@waybill/core/adapter';
import type { SqlClient } from '@waybill/sql';
import { type PgTx, pgClient, pgDatabase } from '@waybill/sql/postgres';
import type { Pool } from 'pg';
import { postgresStatements } from './dialects/postgres.ts';
import { answersWithin, createOutbox } from './outbox.ts';
import type { Outbox, OutboxOptions } from './types.ts';

export type { PgTx } from '@waybill/sql/postgres';
export type * from './types.ts';

export interface PostgresOutboxOptions<Tx> extends OutboxOptions<Tx> {
  /**
   * Whether the commit of a publish wakes relays that have nothing to do, instead of their next look at the table.
   * While they are busy nothing is notified: PostgreSQL lets transactions that notify commit one after the other.
   * Default: true.
   */
  readonly notify?: boolean;
  /**
   * `day`: the table has a partition for each UTC day. When that ended more than `keepSent` ago and all of it was sent,
   * it is dropped as a whole instead of row by row. Relays make and drop partitions, so their role has to be a member of
   * the one that owns the table; for each that is due a publish may wait half a second. A table keeps the form in which
   * `migrate` made it, and its name has at most 54 bytes. Default: no partitions.
   */
  readonly partitions?: 'day';
}

/**
 * An outbox in PostgreSQL 14 or later. The pool is for relays, migrations and `status`; publishing happens on the
 * caller's own transaction: a client of `pg` between BEGIN and COMMIT, or what `client` takes.
 *
 * @throws ConfigError for a wrong option
 */
export function postgresOutbox(
  pool: Pool,
  options?: PostgresOutboxOptions<PgTx> & { readonly client?: never },
): Outbox<PgTx>;
export function postgresOutbox<Tx>(
  pool: Pool,
  options: PostgresOutboxOptions<Tx> & { readonly client: SqlClient<Tx> },
): Outbox<Tx>;
export function postgresOutbox(pool: Pool, options: PostgresOutboxOptions<never> = {}): Outbox<never> {
  const { notify = true, partitions, ...others } = options;
  if (partitions !== undefined && partitions !== 'day') {
    throw new ConfigError('partitions', `"${String(partitions)}" is not day`);
  }
  return createOutbox<never>({
    database: pgDatabase(pool, { timeout: answersWithin }),
    client: options.client ?? (pgClient() as SqlClient<never>),
    statements: (tables, channel) => postgresStatements(tables, channel, partitions),
    options: others,
    optionNames: ['schema'],
    notify,
  });
}
