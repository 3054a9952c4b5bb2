import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';

export const adapterName = 'sqlite';

/** Primary result codes of SQLite that mean something to us: the file cannot be used, at least not now. */
const result = {
  busy: 5,
  locked: 6,
  noMemory: 7,
  readonly: 8,
  io: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  protocol: 15,
  notADatabase: 26,
};
const outages: ReadonlySet<number> = new Set(Object.values(result));

/** The primary result code of an error of node:sqlite; `undefined` for any other error. */
function resultCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return undefined;
  return error.errcode & 0xff;
}

export function isSqliteError(error: unknown): boolean {
  return resultCode(error) !== undefined;
}

/** The file cannot be used, whatever is asked of it; any other error is of what was asked. */
export function isOutage(error: unknown): boolean {
  return outages.has(resultCode(error) ?? 0);
}

/** Whether an open file is as good as before once this is over. After the others it has to be opened again. */
export function leavesFileOpen(error: unknown): boolean {
  return isBusy(error) || isFull(error);
}

export function isFull(error: unknown): boolean {
  return resultCode(error) === result.full;
}

/** Somebody else writes at the moment. */
export function isBusy(error: unknown): boolean {
  const code = resultCode(error);
  return code === result.busy || code === result.locked;
}

/** What was committed could not be flushed: whether it outlives a power cut nobody knows. */
export class FlushError extends Error {}

/** Whether the disk was asked to flush, and failed. */
export function leavesGap(error: unknown): boolean {
  return error instanceof FlushError && error.cause !== undefined;
}

/** Whether a write that failed so may be on the disk all the same. */
export function isUnclear(error: unknown): boolean {
  return resultCode(error) === result.io || error instanceof FlushError;
}

/** For what was not begun because of a failure: of that nothing is unclear, whatever the failure was. */
export function notBegun(failure: ConnectionError): ConnectionError {
  const { message, retryable } = failure;
  return new ConnectionError(message, { adapter: adapterName, cause: failure, retryable });
}

/** What stopped us from using the file, in words that say what to do (LIFE-04). */
export function fileFailure(cause: unknown, target: string): ConnectionError {
  if (WaybillError.is(cause, 'CONNECTION')) return cause as ConnectionError;
  const text = cause instanceof Error ? cause.message : String(cause);
  const fail = (why: string, retryable = true): ConnectionError =>
    new ConnectionError(`cannot use ${target}: ${why}`, { adapter: adapterName, cause, retryable });
  switch (resultCode(cause)) {
    case result.busy:
    case result.locked:
      return fail('the file is locked by another program (SQLITE_BUSY); end its transaction');
    case result.full:
      return fail('the disk is full (SQLITE_FULL); nothing was written, free some space');
    case result.readonly:
      return fail('the file or its folder is read-only (SQLITE_READONLY); this user must be able to write both');
    case result.io:
      return fail(`the disk failed (SQLITE_IOERR): ${text}`);
    case result.corrupt:
      return fail(`the file is damaged (SQLITE_CORRUPT): ${text}; restore it from a backup`);
    case result.cannotOpen:
      return fail('the file cannot be opened or made (SQLITE_CANTOPEN); look at its folder and its permissions');
    case result.notADatabase:
      return fail('it is not a database (SQLITE_NOTADB); give another path', false);
    default:
      return fail(text);
  }
}

/** What stands at the path can not be used, whatever is tried. */
export function wrongFile(target: string, why: string): ConnectionError {
  return new ConnectionError(`cannot use ${target}: ${why}`, { adapter: adapterName, retryable: false });
}

export function noFile(target: string): ConnectionError {
  return new ConnectionError(
    `cannot use ${target}: there is no such file; make it by connecting with topology 'create'`,
    { adapter: adapterName },
  );
}

export function fileGone(target: string): ConnectionError {
  return new ConnectionError(
    `cannot use ${target}: the file was moved, deleted or replaced under this process, or its folder may not be entered any more; put it back`,
    { adapter: adapterName },
  );
}

export function closedFile(target: string): ConnectionError {
  return new ConnectionError(`${target} is closed`, { adapter: adapterName, retryable: false });
}

export function noTopic(target: string, topic: string): ConfigError {
  return new ConfigError(
    'topic',
    `there is no topic "${topic}" in ${target}; make it with provision(), or connect with topology 'create'`,
    { adapter: adapterName },
  );
}

export function noGroup(target: string, topic: string, group: string): ConfigError {
  return new ConfigError(
    'group',
    `topic "${topic}" in ${target} has no group "${group}"; subscribe with it first, or make it with provision()`,
    { adapter: adapterName },
  );
}

export function noPosition(topic: string, position: string, first: number, end: number): ConfigError {
  return new ConfigError(
    'position',
    `"${position}" is not a position of topic "${topic}"; it keeps ${first} to ${end} at the moment, the last for what comes next`,
    { adapter: adapterName },
  );
}

type Options = Readonly<Record<string, unknown>> | undefined;

/** Of a topic, a subscription or a publish: a file has no options of its own there, so any is a mistake (CFG-01). */
export function unknownOption(options: Options): ConfigError | undefined {
  const name = options === undefined ? undefined : Object.keys(options)[0];
  return name === undefined
    ? undefined
    : new ConfigError(`broker.${adapterName}.${name}`, 'unknown option; SQLite has none here', {
        adapter: adapterName,
      });
}

/** @throws ConfigError that names the first option */
export function refuseOptions(options: Options): void {
  const mistake = unknownOption(options);
  if (mistake !== undefined) throw mistake;
}
