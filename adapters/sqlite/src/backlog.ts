import type { Database } from './database.ts';
import { deliverDue } from './log.ts';
import type { ContentRow } from './message.ts';
import { contentColumns, place, position, state } from './schema.ts';

/** A group as one of its members looks at it. */
export interface GroupView {
  readonly id: number;
  readonly topic: number;
  readonly ordered: number;
  readonly next: number;
  readonly epoch: number;
  readonly log_start: number;
  readonly log_end: number;
  /** Whether copies stand ready. */
  readonly ready: number;
  readonly alone: number;
  /** Whether redriven ones may come into the lines of their keys. */
  readonly later: number;
  /** When the next lease or delay ends, in milliseconds since the epoch; `noneDue` where there is none. */
  readonly due: number;
}

/** Later than any date. */
export const noneDue = 9e15;

const view = `
  SELECT g.id, g.topic, g.next, g.epoch, t.ordered, t.log_start, t.log_end,
    EXISTS (SELECT 1 FROM copies WHERE grp = g.id AND state = ${state.ready}) AS ready,
    EXISTS (SELECT 1 FROM copies WHERE grp = g.id AND state = ${state.alone}) AS alone,
    EXISTS (SELECT 1 FROM copies WHERE grp = g.id AND state = ${state.later} AND line <= g.next) AS later,
    min(ifnull((SELECT min(until) FROM copies WHERE grp = g.id AND until IS NOT NULL), ${noneDue}),
        ifnull((SELECT min(deliver_at) FROM delayed WHERE topic = g.topic), ${noneDue})) AS due
  FROM groups g JOIN topics t ON t.id = g.topic WHERE g.id = ?`;

/** `undefined`: the group was removed. */
export function viewGroup(database: Database, group: number): GroupView | undefined {
  return database.get<GroupView>(view, group);
}

/** Lets in what is due: delayed publishes, delayed copies, and those whose lease has ended. Part of a transaction. */
export function admitDue(database: Database, group: number, topic: number, now: number): void {
  deliverDue(database, topic, now);
  database.run(wakeCopies, group, now);
}

/** A copy that was handed out, with its message. */
export interface CopyRow extends ContentRow {
  readonly number: number;
  readonly token: number;
  readonly attempt: number;
  readonly deliveries: number;
  readonly alone: number;
  readonly forever: number;
  readonly position: number;
  readonly stored_at: number;
}

export interface Taken {
  readonly copies: CopyRow[];
  /** Of their bodies. */
  bytes: number;
  /** Messages that were no longer there, and from where to where the group went. */
  lost: { readonly count: number; readonly from: number; readonly to: number } | undefined;
}

export interface Wish {
  readonly max: number;
  /** Of bodies; one is always handed out. */
  readonly maxBytes: number;
  /** Milliseconds since the epoch, like `until`: the end of the leases. */
  readonly now: number;
  readonly until: number;
}

/** Copies whose time has come that are looked after at once. */
const wakeAtOnce = 1_000;
/** Messages of an ordered topic that are read at once to find some whose keys are free. */
const readAtOnce = 500;

const message = `m.stored_at, ${contentColumns.replaceAll(/(\w+)/g, 'm.$1')}`;

const wakeCopies = `UPDATE copies SET state = iif(alone, ${state.alone}, ${state.ready}), until = NULL
  WHERE number IN (SELECT number FROM copies WHERE grp = ? AND until IS NOT NULL AND until <= ? ORDER BY until LIMIT ${wakeAtOnce})`;

const copyFields = `c.number, c.token, c.attempt, c.deliveries, c.alone, c.forever, ${position('c.place')} AS position,
  c.key AS line_key`;
const readyCopies = (which: number): string => `
  SELECT ${copyFields}, ${message} FROM copies c LEFT JOIN messages m ON m.place = c.place
  WHERE c.grp = ? AND c.state = ${which} ORDER BY c.line, c.number LIMIT ?`;
const readyOnes = readyCopies(state.ready);
const aloneOnes = readyCopies(state.alone);

const lend = `UPDATE copies SET state = ${state.out}, until = ?, token = token + 1, deliveries = deliveries + 1
  WHERE number = ?`;

const insertOut = `INSERT INTO copies (grp, place, line, state, until, token, deliveries, key)
  VALUES (?1, ${place('?2', '?3')}, ?3, ${state.out}, ?4, 1, 1, ?5) RETURNING number`;
const insertBehind = `INSERT INTO copies (grp, place, line, state, key)
  VALUES (?1, ${place('?2', '?3')}, ?3, ${state.behind}, ?4)`;

const logRows = `SELECT ${position('m.place')} AS position, ${message} FROM messages m
  WHERE m.place >= ${place('?1', '?2')} AND m.place < ${place('?1', '?3')} ORDER BY m.place LIMIT ?4`;
const logKeys = `SELECT ${position('place')} AS position, key FROM messages
  WHERE place >= ${place('?1', '?2')} AND place < ${place('?1', '?3')} ORDER BY place LIMIT ?4`;
const oneOfLog = `SELECT ${position('m.place')} AS position, ${message} FROM messages m WHERE m.place = ${place('?', '?')}`;

/** Whether one of this key stands before what is read now: those that come later do not. */
const keyAhead = `SELECT 1 FROM copies WHERE grp = ? AND key = ? AND state <> ${state.later} LIMIT 1`;

type KeyRow = { readonly position: number; readonly key: string | null };
type LogRow = ContentRow & { readonly position: number; readonly stored_at: number };

/** Hands out to one member: what came back first, then what is next in the log. Part of a transaction. */
export function take(database: Database, group: number, wish: Wish): Taken | undefined {
  const before = viewGroup(database, group);
  if (before === undefined) return undefined;
  const taken: Taken = { copies: [], bytes: 0, lost: undefined };
  let seen = before;
  if (before.due <= wish.now) {
    admitDue(database, group, before.topic, wish.now);
    seen = viewGroup(database, group) ?? before; // sees what that has brought
  }
  if (seen.ready === 1) takeReady(database, group, wish, taken, readyOnes, wish.max);
  if (isFull(taken, wish)) return taken;
  if (seen.ordered === 0) takeNext(database, seen, wish, taken);
  else if (takeByKey(database, seen, wish, taken) && !isFull(taken, wish)) {
    takeReady(database, group, wish, taken, readyOnes, wish.max - taken.copies.length);
  }
  return taken;
}

/** Hands out one that was set apart. Part of a transaction. */
export function takeAlone(database: Database, group: number, wish: Wish): Taken {
  const taken: Taken = { copies: [], bytes: 0, lost: undefined };
  database.run(wakeCopies, group, wish.now);
  takeReady(database, group, wish, taken, aloneOnes, 1);
  return taken;
}

function isFull({ copies, bytes }: Taken, { max, maxBytes }: Wish): boolean {
  return copies.length >= max || (copies.length > 0 && bytes >= maxBytes);
}

type ReadyRow = CopyRow & {
  /** The copy's own, which it keeps when its message is gone. */
  readonly line_key: string | null;
  readonly body: Uint8Array | null;
};

function takeReady(database: Database, group: number, wish: Wish, taken: Taken, sql: string, max: number): void {
  const found: ReadyRow[] = [];
  let bytes = 0;
  for (const row of database.iterate<ReadyRow>(sql, group, max)) {
    found.push(row);
    bytes += row.body?.byteLength ?? 0;
    if (bytes >= wish.maxBytes) break;
  }
  for (const { line_key: key, ...row } of found) {
    if ((row.body as Uint8Array | null) === null) {
      // A stranger deleted the message itself.
      database.run('DELETE FROM copies WHERE number = ?', row.number);
      if (key !== null) freeKey(database, group, key);
      noteLost(taken, 1, row.position, row.position + 1);
      continue;
    }
    database.run(lend, wish.until, row.number);
    taken.copies.push({ ...row, token: row.token + 1, deliveries: row.deliveries + 1 });
    taken.bytes += row.body.byteLength;
  }
}

// The + keeps SQLite from looking through all that stand behind others instead of those of this key.
const nextOfKey = `UPDATE copies SET state = ${state.ready} WHERE number = (
  SELECT number FROM copies WHERE grp = ? AND key = ? AND +state = ${state.behind} ORDER BY line, number LIMIT 1)`;

/** The first of a key is done with: the next may come. False where there is none. */
export function freeKey(database: Database, group: number, key: string): boolean {
  return database.run(nextOfKey, group, key) === 1;
}

/** The next of the log, of a topic without order. */
function takeNext(database: Database, group: GroupView, wish: Wish, taken: Taken): void {
  const { topic, log_end: end } = group;
  const start = Math.max(group.next, group.log_start);
  const max = wish.max - taken.copies.length;
  const rows: LogRow[] = [];
  let full = false;
  for (const row of database.iterate<LogRow>(logRows, topic, start, end, max)) {
    rows.push(row);
    taken.bytes += row.body.byteLength;
    full = rows.length === max || taken.bytes >= wish.maxBytes;
    if (full) break;
  }
  // Fewer than asked for: there is nothing between the last of them and the end.
  const next = full ? (rows.at(-1)?.position ?? start) + 1 : Math.max(start, end);
  const missing = next - group.next - rows.length;
  if (missing > 0) noteLost(taken, missing, group.next, next);
  for (const row of rows) taken.copies.push(lendNew(database, group, row, wish.until, null));
  saveNext(database, group, next);
}

/**
 * The next of the log whose keys are free, of an ordered topic; the others stand in line behind the ones before them.
 * True where redriven ones came in, and may be ready.
 */
function takeByKey(database: Database, group: GroupView, wish: Wish, taken: Taken): boolean {
  const { id, topic } = group;
  // What was redriven comes behind all that stood in the log then, and before what came after.
  const later = database.get<{ line: number | null }>(nextLater, id)?.line ?? Number.POSITIVE_INFINITY;
  const end = Math.min(group.log_end, later);
  let next = Math.max(group.next, group.log_start);
  if (next > group.next) noteLost(taken, next - group.next, group.next, next);
  let read = 0;
  let full = false;
  for (const { position: at, key } of database.iterate<KeyRow>(logKeys, topic, next, end, readAtOnce)) {
    read++;
    if (at > next) noteLost(taken, at - next, next, at);
    next = at + 1;
    if (key !== null && database.get(keyAhead, id, key) !== undefined) {
      database.run(insertBehind, id, topic, at, key);
      continue;
    }
    const row = database.get<LogRow>(oneOfLog, topic, at);
    if (row === undefined) continue;
    taken.copies.push(lendNew(database, group, row, wish.until, key));
    taken.bytes += row.body.byteLength;
    full = isFull(taken, wish);
    if (full) break;
  }
  if (!full && read < readAtOnce && next < end) {
    noteLost(taken, end - next, next, end);
    next = end;
  }
  if (next >= later) admitLater(database, id, next);
  saveNext(database, group, next);
  return next >= later;
}

const nextLater = `SELECT min(line) AS line FROM copies WHERE grp = ? AND state = ${state.later}`;
const laterOnes = `SELECT number, key FROM copies WHERE grp = ? AND state = ${state.later} AND line <= ?
  ORDER BY line, number LIMIT ${readAtOnce}`;

/** Lets redriven ones into the lines of their keys, up to this position. */
function admitLater(database: Database, group: number, upTo: number): void {
  for (const { number, key } of database.all<{ number: number; key: string | null }>(laterOnes, group, upTo)) {
    const behind = key !== null && database.get(keyAhead, group, key) !== undefined;
    database.run('UPDATE copies SET state = ? WHERE number = ?', behind ? state.behind : state.ready, number);
  }
}

function lendNew(database: Database, group: GroupView, row: LogRow, until: number, key: string | null): CopyRow {
  const inserted = database.get<{ number: number }>(insertOut, group.id, group.topic, row.position, until, key);
  return { ...row, number: inserted?.number ?? 0, token: 1, attempt: 1, deliveries: 1, alone: 0, forever: 0 };
}

function noteLost(taken: Taken, count: number, from: number, to: number): void {
  taken.lost = { count: (taken.lost?.count ?? 0) + count, from: taken.lost?.from ?? from, to };
}

function saveNext(database: Database, group: GroupView, next: number): void {
  if (next !== group.next) database.run('UPDATE groups SET next = ? WHERE id = ?', next, group.id);
}
