import { ConfigError, ConnectionError } from '@waybill/core/adapter';
import { isForbidden, isLockTimeout } from './errors.ts';
import { literal, qualified } from './ident.ts';
import type { Dialect, SqlDatabase, SqlRunner } from './sql.ts';

/** What a package keeps in the database, and how it came to be. */
export interface Schema {
  /** Whose it is, with the name of its table: `outbox waybill_outbox`. Each has a version of its own. */
  readonly name: string;
  /** Where its tables and the table of versions are. Default: where the connection looks first. */
  readonly schema?: string | undefined;
  /**
   * The statements of version 1, 2 and so on. Each must do no harm when it is run twice (`IF NOT EXISTS`): MySQL commits
   * after each, and somebody may have run the SQL of `schemaSql` by hand.
   */
  readonly versions: readonly (readonly string[])[];
}

export interface MigrateResult {
  /** The version that was found, 0 for none. */
  readonly from: number;
  readonly to: number;
}

const versionsTable = 'waybill_schema_versions';
/** Seconds that a process waits for another one that migrates. */
const patience = 60;

/**
 * Brings the schema to its newest version. Any number of processes may do so at once; one works, the others wait. When
 * there is nothing to do it only reads.
 *
 * @throws ConfigError when the database was migrated by a newer version of the package, or the role may not do it
 * @throws ConnectionError when the database is away, or another process has been migrating for a minute
 */
export async function migrate(database: SqlDatabase, schema: Schema): Promise<MigrateResult> {
  try {
    return await migrated(database, schema);
  } catch (error) {
    if (!isForbidden(database.dialect, error)) throw error;
    const { message } = error as Error;
    throw new ConfigError('schema', `${message}; have the SQL of schema() run by a role that may`, {
      adapter: database.dialect,
      cause: error,
    });
  }
}

async function migrated(database: SqlDatabase, schema: Schema): Promise<MigrateResult> {
  const newest = schema.versions.length;
  const found = await versionOf(database, database.dialect, schema).catch((error: unknown) => {
    if (ConfigError.is(error, 'CONFIG')) return 0;
    throw error;
  });
  if (found === newest) return { from: found, to: newest };
  refuseNewer(schema, found);
  return database.transaction((tx) => underLock(database.dialect, tx, () => bringUp(database.dialect, tx, schema)));
}

async function bringUp(dialect: Dialect, tx: SqlRunner, schema: Schema): Promise<MigrateResult> {
  const newest = schema.versions.length;
  for (const statement of preparation(dialect, schema)) await tx.run(statement);
  // Somebody else may have been quicker.
  const from = await versionOf(tx, dialect, schema);
  refuseNewer(schema, from);
  for (let version = from + 1; version <= newest; version++) {
    for (const statement of schema.versions[version - 1] ?? []) await tx.run(statement);
    await tx.run(noteVersion(dialect, schema, version));
  }
  return { from, to: newest };
}

/** The same as text, for people with migrations of their own: what it made is recognised by `migrate`. */
export function schemaSql(dialect: Dialect, schema: Schema): string {
  const statements = [
    ...preparation(dialect, schema),
    ...schema.versions.flat(),
    noteVersion(dialect, schema, schema.versions.length),
  ];
  return `${statements.map((statement) => `${statement.trim()};`).join('\n\n')}\n`;
}

function preparation(dialect: Dialect, { schema }: Schema): readonly string[] {
  const table = qualified(dialect, versionsTable, schema);
  const text = dialect === 'mysql' ? 'varchar(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin' : 'text';
  const create = `CREATE TABLE IF NOT EXISTS ${table} (name ${text} NOT NULL PRIMARY KEY, version integer NOT NULL)`;
  if (dialect !== 'postgres' || schema === undefined) return [create];
  // Not CREATE SCHEMA IF NOT EXISTS alone: that asks for the privilege to create one also where it is there.
  const name = literal(dialect, schema);
  const make = `BEGIN IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = ${name}) THEN CREATE SCHEMA ${qualified(dialect, schema)}; END IF; END`;
  return [`DO ${literal(dialect, make)}`, create];
}

function noteVersion(dialect: Dialect, { name, schema }: Schema, version: number): string {
  const insert = `INSERT INTO ${qualified(dialect, versionsTable, schema)} (name, version) VALUES (${literal(dialect, name)}, ${version})`;
  return dialect === 'mysql'
    ? `${insert} ON DUPLICATE KEY UPDATE version = ${version}`
    : `${insert} ON CONFLICT (name) DO UPDATE SET version = ${version}`;
}

async function versionOf(runner: SqlRunner, dialect: Dialect, { name, schema }: Schema): Promise<number> {
  const table = qualified(dialect, versionsTable, schema);
  const { rows } = await runner.run(`SELECT version FROM ${table} WHERE name = ${literal(dialect, name)}`);
  return Number(rows[0]?.['version'] ?? 0);
}

function refuseNewer({ name, versions }: Schema, found: number): void {
  if (found <= versions.length) return;
  throw new ConfigError(
    'schema',
    `"${name}" has version ${found} in the database and this package knows up to ${versions.length}; update the package`,
  );
}

async function underLock<T>(dialect: Dialect, tx: SqlRunner, work: () => Promise<T>): Promise<T> {
  if (dialect === 'sqlite') return work();
  if (dialect === 'postgres') {
    // Whatever the default is: behind the lock, what the other process has made must be seen.
    await tx.run('SET TRANSACTION ISOLATION LEVEL READ COMMITTED');
    await tx.run(`SET LOCAL lock_timeout = '${patience}s'`);
    await tx.run('SET LOCAL statement_timeout = 0');
    await tx.run("SELECT pg_advisory_xact_lock(hashtext('waybill migrate'))").catch((error: unknown) => {
      throw isLockTimeout(dialect, error) ? tooLong(dialect, error) : error;
    });
    return work();
  }
  const { rows } = await tx.run(`SELECT GET_LOCK('waybill migrate', ${patience}) AS got`);
  if (Number(rows[0]?.['got']) !== 1) throw tooLong(dialect);
  try {
    return await work();
  } finally {
    // A connection that broke has let go of it.
    await tx.run("DO RELEASE_LOCK('waybill migrate')").catch(() => {});
  }
}

function tooLong(dialect: Dialect, cause?: unknown): ConnectionError {
  return new ConnectionError(`another process has been migrating for ${patience} seconds`, { adapter: dialect, cause });
}
