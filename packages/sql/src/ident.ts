import { hash } from 'node:crypto';
import { ConfigError } from '@waybill/core/adapter';
import type { Dialect } from './sql.ts';

/** PostgreSQL cuts longer names in silence, which makes two of one. */
const longest = 63;

/**
 * Quotes the name of a table, a column or a schema, whatever it holds.
 *
 * @param field names the option in the error
 * @throws ConfigError for a name that no database takes
 */
export function ident(dialect: Dialect, name: string, field = 'table'): string {
  if (typeof name !== 'string' || name === '' || name.includes('\0') || Buffer.byteLength(name) > longest) {
    throw new ConfigError(field, `${JSON.stringify(name)} is not a name of 1 to ${longest} bytes`);
  }
  return dialect === 'mysql' ? `\`${name.replaceAll('`', '``')}\`` : `"${name.replaceAll('"', '""')}"`;
}

/**
 * The quoted name of an index, from its table and a suffix. PostgreSQL cuts names that are too long, and its indexes share
 * their names with the tables of a schema; so a long one ends with a hash instead of its tail.
 */
export function indexName(dialect: Dialect, table: string, suffix: string): string {
  const name = `${table}_${suffix}`;
  if (Buffer.byteLength(name) <= longest) return ident(dialect, name);
  // Of no more than three bytes a unit.
  return ident(dialect, `${table.slice(0, 10).toWellFormed()}_${hash('sha1', table, 'hex').slice(0, 12)}_${suffix}`);
}

/** A table as statements name it: quoted, and with its schema where one is given (on MySQL that is the database). */
export function qualified(dialect: Dialect, table: string, schema?: string): string {
  const name = ident(dialect, table);
  return schema === undefined ? name : `${ident(dialect, schema, 'schema')}.${name}`;
}

/** A text as a literal, exact whatever it holds and however the server is set. */
export function literal(dialect: Dialect, text: string): string {
  if (/^[\w .:/@-]*$/.test(text)) return `'${text}'`;
  if (dialect === 'mysql') return `_utf8mb4 X'${Buffer.from(text).toString('hex')}'`;
  if (dialect === 'postgres' && text.includes('\\')) {
    return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
  }
  return `'${text.replaceAll("'", "''")}'`;
}

/** MariaDB makes a table of a list of a thousand, and may then read, and lock, all of the other one. */
const longestList = 500;

/** The parts of a list that a statement of MySQL or MariaDB names its rows by; none of an empty one. */
export function inLists<T>(items: readonly T[]): readonly (readonly T[])[] {
  const parts: (readonly T[])[] = [];
  for (let from = 0; from < items.length; from += longestList) parts.push(items.slice(from, from + longestList));
  return parts;
}
