import type { IdempotencyStore } from '@waybill/core';
import { checkOptions, type Duration, duration } from '@waybill/core/adapter';
import {
  type Dialect,
  type MigrateResult,
  migrate,
  qualified,
  type Schema,
  type SqlDatabase,
  schemaSql,
} from '@waybill/sql';
import { LeasedStore } from './leased-store.ts';
import type { ClaimTable } from './table.ts';

/** Where the outcomes are kept. */
export interface TableOptions {
  /** Default: `waybill_idempotency`. */
  readonly table?: string;
  /** The schema, or on MySQL the database, of the table. Default: where the connection looks first. */
  readonly schema?: string;
}

export interface SqlStoreOptions extends TableOptions {
  /** How long a question to the database may take; then the store counts as away (IDEM-06). Default: `'10s'`. */
  readonly timeout?: Duration;
}

/** What has a table. */
export interface Migratable {
  /**
   * Makes the table, or brings it to this version. Idempotent; any number of processes may do so at once.
   *
   * @throws ConfigError when a newer version of the package has migrated it
   * @throws ConnectionError when the database is away
   */
  migrate(): Promise<MigrateResult>;
  /** The same as SQL, for migrations of your own. */
  schema(): string;
}

export interface SqlStore extends IdempotencyStore, Migratable {}

/** The quoted name of the table. */
export function tableOf(dialect: Dialect, { table = 'waybill_idempotency', schema }: TableOptions): string {
  return qualified(dialect, table, schema);
}

/** How a dialect's table comes to be. */
export type Versions = (table: string, options: TableOptions) => Schema['versions'];

export function migratable(database: SqlDatabase, versions: Versions, options: TableOptions): Migratable {
  const { dialect } = database;
  const { table = 'waybill_idempotency', schema } = options;
  const plan = { name: `idempotency ${table}`, schema, versions: versions(tableOf(dialect, options), options) };
  return { migrate: () => migrate(database, plan), schema: () => schemaSql(dialect, plan) };
}

/** @throws ConfigError for an option that is unknown or out of range */
export function sqlStore(
  open: (options: { readonly timeout: number }) => SqlDatabase,
  versions: Versions,
  claimTable: (database: SqlDatabase, table: string) => ClaimTable,
  options: SqlStoreOptions,
): SqlStore {
  checkOptions(options, ['table', 'schema', 'timeout'], '');
  const timeout = duration(options.timeout ?? '10s', 'timeout');
  // A connection that is only slow may bring its answer still: then what it claimed is let go of at once.
  const database = open({ timeout: 3 * timeout });
  const store = new LeasedStore(claimTable(database, tableOf(database.dialect, options)), timeout);
  return { run: (claim, work) => store.run(claim, work), ...migratable(database, versions, options) };
}

/** Rows are locked in one order by everybody, so that nobody waits in a circle. */
export function inOrder<T extends { readonly id: Buffer }>(items: readonly T[]): readonly T[] {
  return items.length === 1 ? items : [...items].sort((a, b) => Buffer.compare(a.id, b.id));
}
