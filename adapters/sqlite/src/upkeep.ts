import type { Logger, Timer } from '@waybill/core/adapter';
import type { Database } from './database.ts';
import { place, position } from './schema.ts';
import type { Store } from './store.ts';

/** Milliseconds that a broadcast's group outlives the last sign of its member. */
export const temporaryLease = 30_000;
/** Milliseconds between two rounds. */
export const upkeepPulse = 10_000;

/** Rows that one transaction removes, at most: the event loop waits for it, and so do other processes. */
const rowsAtOnce = 500;
/** Messages before a log's start that are looked at in one step. */
const windowSize = 1_000;
/** Bytes of bodies that one transaction trims, at most. */
const bytesAtOnce = 8 * 1_024 * 1_024;
/** Milliseconds for which whoever began a round has it to himself. */
const roundLease = 2_000;
/** Bytes of a write-ahead log that does not come to its end: SQLite begins it anew at 4 MiB where it can. */
const longLog = 256 * 1_024 * 1_024;

/**
 * What has to be done now and then, by whoever has the file open, one at a time: groups of broadcasts whose process
 * died, messages that a topic need not keep any longer, and rows of what was removed. In small steps.
 */
export class Upkeep {
  readonly #store: Store;
  /** Groups of this connection's broadcasts. */
  readonly #temporary: () => readonly number[];
  readonly #logger: Logger;
  #timer: Timer | undefined;
  #closed = false;
  /** What the store had counted in the last round that found nothing to do. */
  #quietAt = -1;
  #lastPulse: number;
  #renewal: Promise<void> | undefined;
  #round: Promise<void> | undefined;
  /** Bytes of the write-ahead log from which on it is worth a warning. */
  #longLog = longLog;

  constructor(store: Store, temporary: () => readonly number[], logger: Logger) {
    this.#store = store;
    this.#temporary = temporary;
    this.#logger = logger;
    this.#lastPulse = store.clock.now();
    this.#arm();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    await Promise.all([this.#renewal, this.#round]);
  }

  #arm(): void {
    this.#timer = this.#store.clock.setTimeout(() => {
      this.#arm();
      this.#pulse();
    }, upkeepPulse);
  }

  /** A round may take longer than a pulse; broadcasts are renewed beside it. */
  #pulse(): void {
    const now = this.#store.clock.now();
    // After a jump of the clock, or a sleep of the machine, all have expired and nobody has had time to renew.
    const asleep = Math.abs(now - this.#lastPulse) > 2 * upkeepPulse;
    this.#lastPulse = now;
    const groups = this.#temporary();
    if (groups.length > 0) {
      this.#renewal = this.#trying(
        this.#store.writeLoosely((database) => renewTemporary(database, groups, this.#store.clock.now())),
      );
    }
    this.#round ??= this.#trying(this.#run(asleep)).finally(() => {
      this.#round = undefined;
    });
  }

  /** Whatever fails is tried again with the next pulse; that the file is away others tell. */
  async #trying(work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (this.#store.problem === undefined) {
        this.#logger.warn(`${this.#store.settings.target}: upkeep failed, tried again`, { error });
      }
    }
  }

  #watchLog(): void {
    const size = this.#store.database.logSize;
    if (size < longLog) this.#longLog = longLog;
    if (size < this.#longLog) return;
    this.#longLog = 2 * size;
    this.#logger.warn(
      `${this.#store.settings.target}: the write-ahead log has grown to ${size} bytes; it cannot begin anew while a program keeps a transaction open, so look for one that does`,
    );
  }

  async #run(asleep: boolean): Promise<void> {
    this.#watchLog();
    const store = this.#store;
    const { changes } = store;
    const now = store.clock.now();
    if (!store.read((database) => isDue(database, now, changes !== this.#quietAt))) return;
    if (!(await store.writeLoosely((database) => claimRound(database, now)))) return;
    if (!asleep) {
      await store.writeLoosely((database) =>
        database.run('DELETE FROM groups WHERE expires_at IS NOT NULL AND expires_at <= ?', now),
      );
    }
    await this.#repeat((database) => sweepRemoved(database));
    const topics = store.read((database) => database.all<{ id: number }>('SELECT id FROM topics'));
    for (const { id } of topics) await this.#tend(id);
    await this.#repeat((database) => shrink(database));
    this.#quietAt = changes;
  }

  async #tend(topic: number): Promise<void> {
    const limits = this.#limits();
    if (this.#store.read((database) => isTrimmable(database, topic, limits))) {
      await this.#repeat((database) => trim(database, topic, limits));
    }
    let from: number | undefined = 0;
    while (from !== undefined && !this.#closed) {
      const at: number = from;
      const found = this.#store.read((database) => findOrphans(database, topic, at));
      if (found.places.length > 0)
        await this.#store.writeLoosely((database) => removeOrphans(database, topic, found.places));
      from = found.next;
      await pause();
    }
  }

  #limits(): Limits {
    const { settings, clock } = this.#store;
    return { before: clock.now() - settings.retainFor, bytes: settings.retainBytes };
  }

  /** Repeats a small step until it says that it is done. */
  async #repeat(step: (database: Database) => boolean): Promise<void> {
    while (!this.#closed && (await this.#store.writeLoosely(step))) await pause();
  }
}

/** Lets the work of others between two steps. */
const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function renewTemporary(database: Database, groups: readonly number[], now: number): void {
  for (const id of groups) database.run('UPDATE groups SET expires_at = ? WHERE id = ?', now + temporaryLease, id);
}

/** Once a minute in any case, because time passes too. */
const restRound = 60_000;

function isDue(database: Database, now: number, changed: boolean): boolean {
  const row = database.get<{ last: number; expired: number }>(
    `SELECT ifnull((SELECT value FROM meta WHERE name = 'upkeep'), 0) AS last,
       EXISTS (SELECT 1 FROM groups WHERE expires_at IS NOT NULL AND expires_at <= ?) AS expired`,
    now,
  );
  return row?.expired === 1 || changed || now - (row?.last ?? 0) >= restRound;
}

function claimRound(database: Database, now: number): boolean {
  const claimed = database.run(
    `INSERT INTO meta (name, value) VALUES ('upkeep', ?1)
     ON CONFLICT DO UPDATE SET value = ?1 WHERE value <= ?1 - ${roundLease} OR value > ?1`,
    now,
  );
  return claimed === 1;
}

/** Deletes rows of topics and groups that are gone. True while there may be more. */
function sweepRemoved(database: Database): boolean {
  const one = database.get<{ number: number; topic: number | null; grp: number | null }>(
    'SELECT rowid AS number, topic, grp FROM removed LIMIT 1',
  );
  if (one === undefined) return false;
  let gone = 0;
  if (one.grp !== null) {
    gone += deleteSome(database, 'copies', 'grp = ?', one.grp);
    gone += deleteSome(database, 'dead_letters', 'grp = ?', one.grp);
  }
  if (one.topic !== null) {
    gone += deleteSome(database, 'delayed', 'topic = ?', one.topic);
    gone += database.run(
      `DELETE FROM messages WHERE place IN (
         SELECT place FROM messages WHERE place >= ${place('?1', '0')} AND place < ${place('(CAST(?1 AS INTEGER) + 1)', '0')}
         LIMIT ${rowsAtOnce})`,
      one.topic,
    );
  }
  if (gone === 0) database.run('DELETE FROM removed WHERE rowid = ?', one.number);
  return true;
}

function deleteSome(database: Database, table: string, which: string, id: number): number {
  return database.run(
    `DELETE FROM ${table} WHERE number IN (SELECT number FROM ${table} WHERE ${which} LIMIT ${rowsAtOnce})`,
    id,
  );
}

const floorOf = `SELECT t.log_start, t.log_end, t.bytes,
    min(t.log_end, ifnull((SELECT min(next) FROM groups WHERE topic = t.id), t.log_end)) AS floor
  FROM topics t WHERE t.id = ?`;
const oldest = `SELECT ${position('place')} AS position, stored_at, length(body) AS size FROM messages
  WHERE place >= ${place('?1', '?2')} AND place < ${place('?1', '?3')} ORDER BY place LIMIT ${rowsAtOnce}`;
/** What a copy still refers to stays where it is, before the log's start. */
const dropRead = `DELETE FROM messages WHERE place >= ${place('?1', '?2')} AND place < ${place('?1', '?3')}
  AND NOT EXISTS (SELECT 1 FROM copies WHERE copies.place = messages.place)`;

/** What a topic keeps of what all groups have read. */
interface Limits {
  /** Milliseconds since the epoch: what was stored before is too old. */
  readonly before: number;
  readonly bytes: number;
}

interface LogBounds {
  readonly log_start: number;
  readonly log_end: number;
  readonly bytes: number;
  /** Before it all groups have read everything. */
  readonly floor: number;
}

function isTrimmable(database: Database, topic: number, { before, bytes }: Limits): boolean {
  const found = database.get<LogBounds>(floorOf, topic);
  if (found === undefined || found.log_start >= found.floor) return false;
  if (found.bytes > bytes) return true;
  const first = database.get<{ stored_at: number }>(oldest, topic, found.log_start, found.floor);
  return first === undefined || first.stored_at < before;
}

/**
 * Forgets the oldest messages of a topic that all groups have read, while they are too old or too many. True while
 * there may be more.
 */
function trim(database: Database, topic: number, { before, bytes }: Limits): boolean {
  const found = database.get<LogBounds>(floorOf, topic);
  if (found === undefined || found.log_start >= found.floor) return false;
  const { log_start: start, floor } = found;
  const rows = database.all<{ position: number; stored_at: number; size: number }>(oldest, topic, start, floor);
  let left = found.bytes;
  let to = rows.length === 0 ? floor : start;
  let more = rows.length === rowsAtOnce;
  let dropped = 0;
  for (const row of rows) {
    const old = row.stored_at < before || left > bytes;
    if (!old || dropped >= bytesAtOnce) {
      more = old;
      break;
    }
    dropped += row.size;
    left -= row.size;
    to = row.position + 1;
  }
  if (to === start) return false;
  database.run(dropRead, topic, start, to);
  // Strangers delete rows and count nothing: an empty log is where the count is right again.
  const bytesLeft = to === found.log_end ? 0 : Math.max(0, left);
  database.run('UPDATE topics SET log_start = ?, bytes = ? WHERE id = ?', to, bytesLeft, topic);
  return more;
}

const beforeLog = `SELECT ${position('m.place')} AS position,
    NOT EXISTS (SELECT 1 FROM copies WHERE copies.place = m.place) AS orphan
  FROM topics t JOIN messages m ON m.place >= ${place('t.id', '?2')} AND m.place < ${place('t.id', 't.log_start')}
  WHERE t.id = ?1 ORDER BY m.place LIMIT ${windowSize}`;

/** Messages before a log's start that nothing refers to any more, in one window; `next` is where to go on. */
function findOrphans(
  database: Database,
  topic: number,
  from: number,
): { readonly places: readonly number[]; readonly next: number | undefined } {
  const rows = database.all<{ position: number; orphan: number }>(beforeLog, topic, from);
  const places = rows.filter(({ orphan }) => orphan === 1).map((row) => row.position);
  return { places, next: rows.length < windowSize ? undefined : (rows.at(-1)?.position ?? 0) + 1 };
}

const removeOrphan = `DELETE FROM messages WHERE place = ${place('?', '?')}
  AND NOT EXISTS (SELECT 1 FROM copies WHERE copies.place = messages.place)`;

function removeOrphans(database: Database, topic: number, positions: readonly number[]): void {
  for (const at of positions) database.run(removeOrphan, topic, at);
}

/** Pages of the file that are free before it is made smaller; fewer are soon used again. */
const sparePages = 4_096;
const pagesAtOnce = 256;

const freePages = (database: Database): number =>
  database.get<{ freelist_count: number }>('PRAGMA freelist_count')?.freelist_count ?? 0;

/** Gives free pages back to the disk. True while there may be more. */
function shrink(database: Database): boolean {
  const free = freePages(database);
  const all = database.get<{ page_count: number }>('PRAGMA page_count')?.page_count ?? 0;
  if (free <= sparePages || free * 2 <= all) return false;
  database.handle.exec(`PRAGMA incremental_vacuum(${pagesAtOnce})`);
  return freePages(database) < free;
}
