import type {
  DeadLetterDetails,
  DeadLetterRecord,
  DeadLetterScan,
  GroupRef,
  Lag,
  Position,
  SettleResult,
} from '@waybill/core/adapter';
import { admitDue, viewGroup } from './backlog.ts';
import type { Database } from './database.ts';
import { positionOf } from './log.ts';
import { type ContentRow, contentOf } from './message.ts';
import type { SqliteMessage } from './receiver.ts';
import { contentColumns, place, position, state } from './schema.ts';
import type { Store } from './store.ts';
import type { GroupRow, Topology } from './topology.ts';

export function countDeadLetters(database: Database, topology: Topology, ref: GroupRef): number {
  const { id } = topology.group(database, ref);
  return database.get<{ count: number }>('SELECT count(*) AS count FROM dead_letters WHERE grp = ?', id)?.count ?? 0;
}

const inState = (...states: number[]): string =>
  `(SELECT count(*) FROM copies WHERE grp = g.id AND state IN (${states.join(', ')}))`;
const dueInState = (which: number): string =>
  `(SELECT count(*) FROM copies WHERE grp = g.id AND until IS NOT NULL AND until <= ?2 AND state = ${which})`;
const lagOf = `
  SELECT t.log_end - max(g.next, t.log_start) AS unread,
    ${inState(state.ready, state.behind, state.alone, state.later)} AS waiting,
    ${inState(state.out)} AS out, ${dueInState(state.out)} AS out_due,
    ${inState(state.delayed)} AS delayed, ${dueInState(state.delayed)} AS delayed_due,
    (SELECT count(*) FROM delayed WHERE topic = g.topic) AS later,
    (SELECT count(*) FROM delayed WHERE topic = g.topic AND deliver_at <= ?2) AS later_due
  FROM groups g JOIN topics t ON t.id = g.topic WHERE g.id = ?1`;

type LagRow = Record<
  'unread' | 'waiting' | 'out' | 'out_due' | 'delayed' | 'delayed_due' | 'later' | 'later_due',
  number
>;

/** What is due counts as waiting, also where nobody has looked since. */
export function lag(database: Database, topology: Topology, ref: GroupRef, now: number): Lag {
  const { id } = topology.group(database, ref);
  const row = database.get<LagRow>(lagOf, id, now);
  if (row === undefined) throw topology.noGroup(ref);
  return {
    waiting: row.unread + row.waiting + row.out_due + row.delayed_due + row.later_due,
    delayed: row.delayed - row.delayed_due + row.later - row.later_due,
    inFlight: row.out - row.out_due,
    exact: true,
  };
}

/**
 * Moves a group. What waits before the new place is skipped, and what is in hand before it stays; `earliest` skips
 * nothing, also of what is so old that the log has dropped it. Part of a transaction.
 */
export function seek(database: Database, topology: Topology, ref: GroupRef, to: Position, now: number): void {
  const { id, topic: topicId } = topology.group(database, ref);
  // What has come due stands where it belongs before the place is looked up.
  for (let view = viewGroup(database, id); view !== undefined && view.due <= now; view = viewGroup(database, id)) {
    admitDue(database, id, topicId, now);
  }
  const topic = topology.topic(database, ref.topic.name);
  const next = positionOf(database, topic, to);
  const again = `place >= ${place('?2', '?3')}`;
  // A member's hands are one: of what is read again it may keep nothing, and so it keeps nothing at all.
  const rewound = database.get(
    `SELECT 1 FROM copies WHERE grp = ?1 AND state = ${state.out} AND ${again} LIMIT 1`,
    id,
    topic.id,
    next,
  );
  database.run(`DELETE FROM copies WHERE grp = ?1 AND ${again}`, id, topic.id, next);
  if (to !== 'earliest') {
    const waiting = [state.ready, state.behind, state.alone, state.later].join(', ');
    database.run(`DELETE FROM copies WHERE grp = ? AND state IN (${waiting})`, id);
  }
  if (rewound !== undefined) {
    database.run(
      `UPDATE copies SET state = iif(alone, ${state.alone}, ${state.ready}), until = NULL, token = token + 1
       WHERE grp = ? AND state = ${state.out}`,
      id,
    );
    database.run('UPDATE groups SET epoch = epoch + 1 WHERE id = ?', id);
  }
  // Whoever stood behind one that is gone is the first of its key now.
  database.run(
    `UPDATE copies SET state = ${state.ready} WHERE grp = ?1 AND state = ${state.behind} AND NOT EXISTS (
       SELECT 1 FROM copies AS ahead WHERE ahead.grp = ?1 AND ahead.key = copies.key AND ahead.state <> ${state.later}
       AND (ahead.line, ahead.number) < (copies.line, copies.number))`,
    id,
  );
  database.run('UPDATE groups SET next = ? WHERE id = ?', next, id);
  database.touched.add(topic.id);
}

interface LetterRow extends ContentRow {
  readonly number: number;
  readonly position: number;
  readonly stored_at: number;
  readonly details: string;
}

const walk = `SELECT number, ${position('place')} AS position, stored_at, details, ${contentColumns} FROM dead_letters
  WHERE grp = ? AND number > ? AND number <= ? ORDER BY number LIMIT ?`;

/** Bodies that are read at once, at most. */
const bytesAtOnce = 8 * 1_024 * 1_024;

export class SqliteDeadLetterScan implements DeadLetterScan {
  readonly #store: Store;
  readonly #ordered: boolean;
  readonly #group: GroupRow;
  /** The newest that was there when the walk began: what is added later is not visited. */
  readonly #last: number;
  #seen = 0;

  constructor(store: Store, topology: Topology, ref: GroupRef) {
    this.#store = store;
    this.#ordered = ref.topic.ordered;
    const { group, last } = store.read((database) => {
      const found = topology.group(database, ref);
      const newest = database.get<{ last: number | null }>(
        'SELECT max(number) AS last FROM dead_letters WHERE grp = ?',
        found.id,
      );
      return { group: found, last: newest?.last ?? 0 };
    });
    this.#group = group;
    this.#last = last;
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    return this.#store.read((database) => {
      const records: DeadLetterRecord[] = [];
      let bytes = 0;
      for (const row of database.iterate<LetterRow>(walk, this.#group.id, this.#seen, this.#last, max)) {
        this.#seen = row.number;
        records.push(recordOf(row));
        bytes += row.body.byteLength;
        if (bytes >= bytesAtOnce) break;
      }
      return records;
    });
  }

  redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#each(records, (database, entry) => redrive(database, this.#group, this.#ordered, entry));
  }

  purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#each(records, (database, entry) => removeLetter(database, this.#group.id, entry));
  }

  /** Nothing was taken out to be looked at, so nothing has to be put back. */
  async close(): Promise<void> {}

  async #each(
    records: readonly DeadLetterRecord[],
    act: (database: Database, entry: string) => boolean,
  ): Promise<readonly SettleResult[]> {
    return await this.#store.write((database) =>
      records.map(({ details }): SettleResult => (act(database, details.entry) ? 'applied' : 'lost')),
    );
  }
}

function removeLetter(database: Database, group: number, entry: string): boolean {
  return database.run('DELETE FROM dead_letters WHERE grp = ? AND entry = ?', group, entry) === 1;
}

// Where the log has dropped the message meanwhile, it stands before it for as long as the copy refers to it.
const messageAgain = `INSERT OR IGNORE INTO messages (place, stored_at, ${contentColumns})
  SELECT place, stored_at, ${contentColumns} FROM dead_letters WHERE grp = ? AND entry = ?`;
const copyAgain = `INSERT INTO copies (grp, place, line, state, forever, key)
  SELECT grp, place, ifnull(?3, ${position('place')}), ?4, 1, iif(?5, key, NULL) FROM dead_letters
  WHERE grp = ?1 AND entry = ?2`;

/** Puts a dead letter behind what its key has waiting, as a message that was never tried (DLQ-04). */
function redrive(database: Database, group: GroupRow, ordered: boolean, entry: string): boolean {
  const topic = database.get<{ log_end: number }>(
    'SELECT t.log_end FROM groups g JOIN topics t ON t.id = g.topic WHERE g.id = ?',
    group.id,
  );
  if (topic === undefined) return false;
  database.run(messageAgain, group.id, entry);
  const [line, at] = ordered ? [topic.log_end, state.later] : [null, state.ready];
  if (database.run(copyAgain, group.id, entry, line, at, ordered ? 1 : 0) === 0) return false;
  database.touched.add(group.topic);
  return removeLetter(database, group.id, entry);
}

function recordOf(row: LetterRow): DeadLetterRecord {
  const native: SqliteMessage = { position: row.position, storedAt: row.stored_at };
  return {
    ...contentOf(row, row.stored_at),
    position: String(row.position),
    native,
    details: JSON.parse(row.details) as DeadLetterDetails,
  };
}
