import { closeSync, existsSync, fdatasync, fstatSync, openSync, realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { FlushError, fileFailure, isBusy, noFile, wrongFile } from './errors.ts';
import type { Settings } from './options.ts';
import { applicationId, migrations } from './schema.ts';

export type Value = null | number | string | Uint8Array;

/**
 * Milliseconds that SQLite itself waits for a lock, with the event loop standing still: as long as another process's
 * batch takes. Longer waits are the store's, which lets the loop run.
 */
const busyWait = 4;

/** Pages of the file that are held in memory, in KiB. */
const cacheSize = 8_192;

const flushFile = promisify(fdatasync);

/** One open file, with its statements. */
export class Database {
  readonly handle: DatabaseSync;
  /** Topics with something new for members, since the last commit. */
  readonly touched = new Set<number>();
  readonly #statements = new Map<string, StatementSync>();
  readonly #path: string;
  readonly #identity: string | undefined;
  /** The write-ahead log, on which SQLite holds no locks: the database itself must not be opened beside it. */
  readonly #log: number;
  #flushing: Promise<void> | undefined;

  constructor(handle: DatabaseSync, path: string) {
    this.handle = handle;
    this.#path = path;
    this.#identity = identityOf(path);
    this.#log = openSync(`${realpathSync(path)}-wal`, 'r+');
  }

  /**
   * Resolves when all that is committed is on the disk. SQLite would flush within the commit, with the event loop and
   * the other writers standing still for it; so it is told not to, and the same flush is made beside them. (A
   * checkpoint flushes the log by itself before it empties it, so what is no longer in the log is on the disk.)
   * One at a time.
   */
  async flush(): Promise<void> {
    // Its descriptor may be another file's by now.
    if (!this.handle.isOpen) throw new FlushError('the file was closed before it was flushed');
    this.#flushing = flushFile(this.#log);
    try {
      await this.#flushing;
    } catch (cause) {
      throw new FlushError(`the disk failed to keep what was written: ${String(cause)}`, { cause });
    } finally {
      this.#flushing = undefined;
    }
  }

  /** Puts all that is in the write-ahead log into the database, so that the log begins anew. */
  emptyLog(): void {
    const row = this.get<{ busy: number }>('PRAGMA wal_checkpoint(RESTART)');
    if (row?.busy !== 0) throw new FlushError('the write-ahead log cannot be renewed while another program reads');
  }

  /** Bytes of the write-ahead log. */
  get logSize(): number {
    return fstatSync(this.#log).size;
  }

  /** Whether the path still leads to this file. */
  get inPlace(): boolean {
    return this.#identity !== undefined && identityOf(this.#path) === this.#identity;
  }

  /** Returns how many rows were changed. */
  run(sql: string, ...values: Value[]): number {
    return Number(this.#statement(sql).run(...values).changes);
  }

  get<Row>(sql: string, ...values: Value[]): Row | undefined {
    return this.#statement(sql).get(...values) as Row | undefined;
  }

  all<Row>(sql: string, ...values: Value[]): Row[] {
    return this.#statement(sql).all(...values) as Row[];
  }

  /** Row by row, so that large bodies that are not wanted any more are not read. */
  iterate<Row>(sql: string, ...values: Value[]): Iterable<Row> {
    return this.#statement(sql).iterate(...values) as Iterable<Row>;
  }

  /** Counts the commits of others. */
  version(): number {
    return this.get<{ data_version: number }>('PRAGMA data_version')?.data_version ?? 0;
  }

  close(): void {
    this.#statements.clear();
    if (!this.handle.isOpen) return;
    this.handle.close();
    const closeLog = (): void => closeSync(this.#log);
    if (this.#flushing === undefined) closeLog();
    else this.#flushing.then(closeLog, closeLog);
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.handle.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

/** Another file at the same path has another one. `undefined` where there is none, or none that can be reached. */
function identityOf(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

/**
 * Opens the file and brings it to this version.
 *
 * @param make whether a file that is missing is made
 * @throws ConnectionError that says why it cannot be used
 */
export function openDatabase(settings: Settings, make: boolean): Database {
  const { path, target, synchronous } = settings;
  let handle: DatabaseSync | undefined;
  try {
    const there = statSync(path, { throwIfNoEntry: false });
    if (there?.isDirectory()) throw wrongFile(target, 'it is a folder; give the path of a file');
    if (there === undefined && !make) throw noFile(target);
    const folder = dirname(path);
    if (!existsSync(folder)) throw wrongFile(target, `there is no folder ${folder}; make it first`);
    const url = pathToFileURL(path);
    url.searchParams.set('mode', make ? 'rwc' : 'rw');
    handle = new DatabaseSync(url, { timeout: busyWait });
    // Can only be chosen while the file is empty: lets it shrink again.
    if (isEmpty(handle)) handle.exec('PRAGMA auto_vacuum = INCREMENTAL');
    const foreign = refuse(handle, target);
    if (foreign !== undefined) throw foreign;
    checkWal(handle, target);
    // Keeps the file whole over a power cut; what is to be there after it is flushed by us, see Database.flush.
    handle.exec('PRAGMA synchronous = NORMAL');
    // Only macOS knows the difference: there a plain flush may end in the disk's cache.
    if (synchronous === 'full') handle.exec('PRAGMA checkpoint_fullfsync = 1');
    handle.exec(`PRAGMA cache_size = -${cacheSize}`);
    handle.exec('PRAGMA journal_size_limit = 67108864');
    migrate(handle, target);
    checkWritable(handle);
    return new Database(handle, path);
  } catch (error) {
    if (handle?.isOpen) handle.close();
    throw fileFailure(error, target);
  }
}

/** Why a file is none of ours. Asked in this order, because another process may be making it ours at this moment. */
function refuse(handle: DatabaseSync, target: string): Error | undefined {
  const empty = isEmpty(handle);
  const id = pragma(handle, 'application_id');
  if (id === applicationId || (id === 0 && empty)) return undefined;
  return wrongFile(target, "it is another program's database; give a file of its own");
}

/** Whoever reads waits for nobody, and a crash leaves what was committed: all of it rests on the write-ahead log. */
function checkWal(handle: DatabaseSync, target: string): void {
  const row = handle.prepare('PRAGMA journal_mode = WAL').get() as { journal_mode?: string } | undefined;
  if (row?.journal_mode !== 'wal') {
    throw wrongFile(target, 'this file system cannot hold a write-ahead log; use a local disk');
  }
}

function checkWritable(handle: DatabaseSync): void {
  try {
    handle.exec('BEGIN IMMEDIATE');
    handle.exec('ROLLBACK');
  } catch (error) {
    // Somebody writes at this moment: so it can be written.
    if (!isBusy(error)) throw error;
  }
}

function migrate(handle: DatabaseSync, target: string): void {
  const newest = migrations.length;
  if (versionOf(handle, target) === newest && pragma(handle, 'application_id') === applicationId) return;
  handle.exec('BEGIN IMMEDIATE');
  try {
    // Somebody else may have been quicker.
    for (let version = versionOf(handle, target); version < newest; version++) handle.exec(migrations[version] ?? '');
    handle.exec(`PRAGMA user_version = ${newest}`);
    handle.exec(`PRAGMA application_id = ${applicationId}`);
    handle.exec('COMMIT');
  } catch (error) {
    if (handle.isTransaction) handle.exec('ROLLBACK');
    throw error;
  }
}

function versionOf(handle: DatabaseSync, target: string): number {
  const version = pragma(handle, 'user_version');
  if (version <= migrations.length) return version;
  throw wrongFile(
    target,
    `it was made by a newer @waybill/sqlite (version ${version} of the file, this one knows up to ${migrations.length}); update the package`,
  );
}

function isEmpty(handle: DatabaseSync): boolean {
  return handle.prepare('SELECT 1 FROM sqlite_master LIMIT 1').get() === undefined;
}

function pragma(handle: DatabaseSync, name: string): number {
  const row = handle.prepare(`PRAGMA ${name}`).get() as Record<string, number> | undefined;
  return row?.[name] ?? 0;
}
