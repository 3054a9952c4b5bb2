import type { OutgoingMessage, Position } from '@waybill/core/adapter';
import type { Database } from './database.ts';
import { noPosition } from './errors.ts';
import { contentValues } from './message.ts';
import { contentColumns, place } from './schema.ts';

/** A topic, and its log: positions from `log_start` to before `log_end`. */
export interface TopicRow {
  readonly id: number;
  readonly name: string;
  readonly ordered: number;
  readonly lanes: number;
  readonly log_start: number;
  log_end: number;
  bytes: number;
  stored_at: number;
}

export function findTopic(database: Database, name: string): TopicRow | undefined {
  return database.get<TopicRow>('SELECT * FROM topics WHERE name = ?', name);
}

export function makeTopic(database: Database, name: string, lanes: number | undefined): TopicRow {
  database.run(
    'INSERT INTO topics (name, ordered, lanes) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    name,
    lanes === undefined ? 0 : 1,
    lanes ?? 1,
  );
  return findTopic(database, name) as TopicRow;
}

const insertMessage = `INSERT INTO messages (place, stored_at, ${contentColumns})
  VALUES (${place('?', '?')}, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

/** Appends to the log and returns the position. `saveTopic` has to follow, in the same transaction. */
export function append(database: Database, topic: TopicRow, message: OutgoingMessage, now: number): number {
  const at = topic.log_end++;
  topic.stored_at = Math.max(topic.stored_at, now);
  topic.bytes += message.body.byteLength;
  database.run(insertMessage, topic.id, at, topic.stored_at, ...contentValues(message));
  return at;
}

export function saveTopic(database: Database, topic: TopicRow): void {
  database.run(
    'UPDATE topics SET log_end = ?, bytes = ?, stored_at = ? WHERE id = ?',
    topic.log_end,
    topic.bytes,
    topic.stored_at,
    topic.id,
  );
}

const insertDelayed = `INSERT INTO delayed (topic, deliver_at, ${contentColumns})
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

export function appendLater(database: Database, topic: number, message: OutgoingMessage, at: number): void {
  database.run(insertDelayed, topic, Math.ceil(at), ...contentValues(message));
}

/** Delayed publishes that are moved into the log at once, at most, and bytes of them: the event loop waits. */
const dueAtOnce = 500;
const dueBytesAtOnce = 2 * 1_024 * 1_024;

const dueDelayed = `SELECT number, length(body) AS size FROM delayed
  WHERE topic = ? AND deliver_at <= ? ORDER BY deliver_at, number LIMIT ${dueAtOnce}`;
const moveDelayed = `INSERT INTO messages (place, stored_at, ${contentColumns})
  SELECT ${place('?', '?')}, ?, ${contentColumns} FROM delayed WHERE number = ?`;

/** Moves what is due into the log, the earliest first, as far as it is done at once. Returns how many. */
export function deliverDue(database: Database, topicId: number, now: number): number {
  const due = database.all<{ number: number; size: number }>(dueDelayed, topicId, now);
  if (due.length === 0) return 0;
  const topic = database.get<TopicRow>('SELECT * FROM topics WHERE id = ?', topicId);
  if (topic === undefined) return 0;
  let moved = 0;
  let bytes = 0;
  for (const { number, size } of due) {
    if (bytes >= dueBytesAtOnce) break;
    moved++;
    bytes += size;
    topic.stored_at = Math.max(topic.stored_at, now);
    topic.bytes += size;
    database.run(moveDelayed, topic.id, topic.log_end++, topic.stored_at, number);
    database.run('DELETE FROM delayed WHERE number = ?', number);
  }
  saveTopic(database, topic);
  database.touched.add(topicId);
  return moved;
}

/** @throws ConfigError for a position that the log does not keep */
export function positionOf(database: Database, topic: TopicRow, to: Position): number {
  const { log_start: start, log_end: end } = topic;
  if (to === 'earliest') return start;
  if (to === 'latest') return end;
  if (to instanceof Date) return positionAt(database, topic, to.getTime());
  const number = /^\d{1,12}$/.test(to.position) ? Number(to.position) : Number.NaN;
  if (!(number >= start && number <= end)) throw noPosition(topic.name, to.position, start, end);
  return number;
}

const nextStoredAt = `SELECT stored_at FROM messages
  WHERE place >= ${place('?1', '?2')} AND place < ${place('?1', '?3')} ORDER BY place LIMIT 1`;

/** Position of the first message stored at this time or later: times in a log never go back. */
function positionAt(database: Database, topic: TopicRow, time: number): number {
  let low = topic.log_start;
  let high = topic.log_end;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const row = database.get<{ stored_at: number }>(nextStoredAt, topic.id, middle, topic.log_end);
    if (row !== undefined && row.stored_at < time) low = middle + 1;
    else high = middle;
  }
  return low;
}
