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

/** A table, a column or a schema that is not there, by dialect. */
function isMissing(dialect: Dialect, { code, errno, message }: Facts): boolean {
  if (dialect === 'postgres') return code === '42P01' || code === '42703' || code === '3F000';
  if (dialect === 'mysql') return errno === 1146 || errno === 1054 || errno === 1049;
  return typeof message === 'string' && /^no such (table|column)|has no column named/.test(message);
}

/** Faults of sockets and of name look-up, on any driver. */
const network = /^(ECONN\w+|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ENOENT|EACCES)$/;
/** What `pg` says without a code. */
const pgAway =
  /^(Connection terminated|Client (has encountered|was closed)|timeout (exceeded|expired)|Query read timeout)/;
const mysqlAway =
  /^(PROTOCOL_|ER_SERVER_SHUTDOWN$|ER_NORMAL_SHUTDOWN$|ER_CONNECTION_KILLED$|ER_CLIENT_INTERACTION_TIMEOUT$|ER_CON_COUNT_ERROR$|ER_TOO_MANY_USER_CONNECTIONS$|ER_USER_LIMIT_REACHED$)/;
const mysqlPool = /^(Queue limit reached|No connections available|Pool is closed)|closed state/;

function isAway(dialect: Dialect, facts: Facts): boolean {
  const code = typeof facts.code === 'string' ? facts.code : '';
  const text = typeof facts.message === 'string' ? facts.message : '';
  if (dialect === 'sqlite') {
    // Busy, locked, read-only, disk, full, not to be opened, not a database; and a handle that was closed.
    const outages = [5, 6, 8, 10, 13, 14, 26];
    const primary = typeof facts.errcode === 'number' ? facts.errcode & 0xff : 0;
    return outages.includes(primary) || (code === 'ERR_INVALID_STATE' && text.includes('not open'));
  }
  if (network.test(code)) return true;
  if (dialect === 'postgres') {
    // 08 connection, 28 log-in, 53 resources, 57P0x shutdown and start, 25P03 and 25P04 cut by a time-out.
    return /^(08|28|53|57P0|25P0[34])/.test(code) || pgAway.test(text) || /after calling end/.test(text);
  }
  return facts.fatal === true || mysqlAway.test(code) || mysqlPool.test(text);
}

/** Log-in and names are wrong until somebody puts them right. */
function isRetryable({ code }: Facts): boolean {
  return !(typeof code === 'string' && (code.startsWith('28') || code.startsWith('ER_ACCESS_DENIED')));
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
  return dialect === 'mysql' && (errno === 1213 || errno === 1020);
}

/** Whether somebody else held a row, a table or the file for too long. */
export function isLockTimeout(dialect: Dialect, error: unknown): boolean {
  const { code, errno, errcode } = factsOf(error);
  if (dialect === 'postgres') return code === '55P03';
  if (dialect === 'mysql') return errno === 1205 || errno === 3572;
  return typeof errcode === 'number' && [5, 6].includes(errcode & 0xff);
}
