import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';
import type { Dialect } from './sql.ts';

interface Facts {
  readonly code?: unknown;
  readonly errno?: unknown;
  readonly errcode?: unknown;
  readonly fatal?: unknown;
  readonly message?: unknown;
}

function factsOf(error: unknown): Facts {
  return typeof error === 'object' && error !== null ? error : {};
}

/** A table, a column, a schema or a function that is not there, by dialect. */
function isMissing(dialect: Dialect, { code, errno, message }: Facts): boolean {
  if (dialect === 'postgres') {
    // The last one is also that of an operator.
    if (code === '42883') return typeof message === 'string' && message.startsWith('function ');
    return code === '42P01' || code === '42703' || code === '3F000';
  }
  if (dialect === 'mysql') return errno === 1146 || errno === 1054;
  return typeof message === 'string' && /^no such (table|column)|has no column named/.test(message);
}

/** Faults of sockets, of name look-up and of TLS, on any driver. */
const network =
  /^(ECONN\w+|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ENOENT|EACCES|ERR_TLS\w+|ERR_SSL\w+|CERT_\w+|UNABLE_TO_\w+|DEPTH_ZERO_\w+|SELF_SIGNED_\w+|HANDSHAKE_\w+)$/;
/**
 * 08 connection, 25006 a server that only reads since another one took over, 25P03 and 25P04 cut by a time-out, 28
 * log-in, 3D no such database, 53 resources, 57P0x shutdown and start.
 */
const pgAway = /^(08|25006|25P0[34]|28|3D|53|57P0)/;
/** What `pg` says without a code; Knex puts the statement before it. */
const pgSays =
  /(^| - )(Connection terminated|Client (has encountered|was closed)|timeout (exceeded|expired)|Query read timeout|SASL|The server does not support SSL|There was an error establishing an SSL)|after calling end/;
/** By number, because mysql2 has no names for those of MariaDB. */
const mysqlAway = new Set([
  // Shutdown, and connections that were killed, broke off or waited for too long.
  1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031,
  // Too many connections; no memory, no disk.
  1040, 1203, 1226, 1021, 1041, 1114,
  // A node that is not ready, a server that only reads since another one took over.
  1047, 1836,
]);
/** Log-ins that are refused, and no such database. */
const mysqlRefused = new Set([1044, 1045, 1049, 1129, 1130, 1698, 3118, 4151]);
/** What mysql2 says without a number. */
const mysqlSays = /^(Queue limit reached|No connections available|Pool is closed)|closed state/;

function isAway(dialect: Dialect, facts: Facts): boolean {
  const code = typeof facts.code === 'string' ? facts.code : '';
  const text = typeof facts.message === 'string' ? facts.message : '';
  if (dialect === 'sqlite') {
    // Busy, locked, read-only, disk, damaged, full, not to be opened, not a database; and a handle that was closed.
    const outages = [5, 6, 8, 10, 11, 13, 14, 26];
    const primary = typeof facts.errcode === 'number' ? facts.errcode & 0xff : 0;
    return outages.includes(primary) || (code === 'ERR_INVALID_STATE' && text.includes('not open'));
  }
  if (network.test(code)) return true;
  if (dialect === 'postgres') return pgAway.test(code) || (code === '' && pgSays.test(text));
  const number = Number(facts.errno);
  if (facts.fatal === true || code.startsWith('PROTOCOL_') || mysqlAway.has(number) || mysqlRefused.has(number)) {
    return true;
  }
  // Servers use 1290 for several options.
  return mysqlSays.test(text) || (number === 1290 && /read.only/i.test(text));
}

/** Log-in and names are wrong until somebody puts them right. */
function isRetryable({ code, errno }: Facts): boolean {
  return !((typeof code === 'string' && /^(28|3D)/.test(code)) || mysqlRefused.has(Number(errno)));
}

/**
 * The error of a driver as one of Waybill's: `ConfigError` where a table is missing, `ConnectionError` where the
 * database is away or no connection became free. Any other is what the statement did, and stays as it is.
 */
export function sqlError(dialect: Dialect, error: unknown): unknown {
  if (WaybillError.is(error)) return error;
  const facts = factsOf(error);
  const text = typeof facts.message === 'string' ? facts.message : String(error);
  if (isMissing(dialect, facts)) {
    return new ConfigError('table', `${text}; run migrate(), or the SQL of schema()`, {
      adapter: dialect,
      cause: error,
    });
  }
  if (!isAway(dialect, facts)) return error;
  // An AggregateError of several addresses has no text of its own.
  const why = text === '' ? String(facts.code ?? 'it did not answer') : text;
  return new ConnectionError(`the database cannot be used: ${why}`, {
    adapter: dialect,
    cause: error,
    retryable: isRetryable(facts),
  });
}

/** Whether nothing was done and the same statement may succeed at once: a deadlock, or a race of transactions. */
export function isTransient(dialect: Dialect, error: unknown): boolean {
  const { code, errno } = factsOf(error);
  if (dialect === 'postgres') return code === '40P01' || code === '40001';
  return dialect === 'mysql' && (errno === 1213 || errno === 1020 || errno === 3101);
}

/** Whether somebody else held a row, a table or the file for too long. */
export function isLockTimeout(dialect: Dialect, error: unknown): boolean {
  const { code, errno, errcode } = factsOf(error);
  if (dialect === 'postgres') return code === '55P03';
  if (dialect === 'mysql') return errno === 1205 || errno === 3572;
  return typeof errcode === 'number' && [5, 6].includes(errcode & 0xff);
}

/** Whether the role may not do that. */
export function isForbidden(dialect: Dialect, error: unknown): boolean {
  const { code, errno } = factsOf(error);
  return dialect === 'postgres' ? code === '42501' : dialect === 'mysql' && errno === 1142;
}
