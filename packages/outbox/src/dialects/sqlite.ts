import { backlogOf } from '../backlog.ts';
import { heartbeatOf } from '../heartbeat.ts';
import { laneCount } from '../lanes.ts';
import { columns, largeBody } from '../row.ts';
import type { Statements, Tables } from '../statements.ts';

/** SQLite as Node has it. Times are integers: milliseconds since 1970. */
export function sqliteStatements({ outbox, lanes, relays, index }: Tables): Statements {
  const now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
  const read = `o.id, o.lane, o.topic, o.topic_options, o.message_id, o.message_key, o.message_type, o.headers,
    o.content_type, o.broker_options, o.attempts, o.published_at, o.deliver_at, o.expires_at`;
  const sized = `length(o.body) AS size, CASE WHEN length(o.body) <= ${largeBody} THEN o.body END AS body`;
  const listed = '(SELECT value FROM json_each(?))';

  const fillLanes = `INSERT OR IGNORE INTO ${lanes} (lane) WITH RECURSIVE n(lane) AS (
  SELECT 0 UNION ALL SELECT lane + 1 FROM n WHERE lane < ${laneCount - 1}
) SELECT lane FROM n`;

  return {
    migrations: [
      [
        `CREATE TABLE IF NOT EXISTS ${outbox} (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  lane INTEGER NOT NULL,
  topic TEXT NOT NULL,
  topic_options TEXT,
  message_id TEXT NOT NULL,
  message_key TEXT,
  message_type TEXT,
  headers TEXT,
  content_type TEXT NOT NULL,
  body BLOB NOT NULL,
  broker_options TEXT,
  published_at INTEGER NOT NULL,
  deliver_at INTEGER,
  expires_at INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0,
  next_attempt_at INTEGER,
  last_error TEXT,
  sent_at INTEGER,
  dead_at INTEGER
)`,
        `CREATE INDEX IF NOT EXISTS ${index('pending')} ON ${outbox} (id, lane) WHERE sent_at IS NULL AND dead_at IS NULL`,
        `CREATE INDEX IF NOT EXISTS ${index('failed')} ON ${outbox} (topic, message_key) WHERE sent_at IS NULL AND next_attempt_at IS NOT NULL`,
        `CREATE INDEX IF NOT EXISTS ${index('dead')} ON ${outbox} (id) WHERE dead_at IS NOT NULL`,
        `CREATE TABLE IF NOT EXISTS ${lanes} (
  lane INTEGER PRIMARY KEY,
  owner TEXT,
  fence INTEGER NOT NULL DEFAULT 0,
  until INTEGER
)`,
        fillLanes,
        `CREATE TABLE IF NOT EXISTS ${relays} (
  relay TEXT PRIMARY KEY,
  until INTEGER NOT NULL
)`,
      ],
    ],
    // There is no way to a server to be spared, and one statement stays prepared.
    rowsPerInsert: 1,
    channel: undefined,
    insert: () => `INSERT INTO ${outbox} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`,

    heartbeat: (db, relay, lease) =>
      db.transaction(async (tx) => {
        await tx.run(
          `INSERT INTO ${relays} (relay, until) VALUES (?, ${now} + ?) ON CONFLICT (relay) DO UPDATE SET until = excluded.until`,
          [relay, lease],
        );
        const held = await tx.run(`UPDATE ${lanes} SET until = ${now} + ? WHERE owner = ? RETURNING lane, fence`, [
          lease,
          relay,
        ]);
        const { rows } = await tx.run(
          `SELECT NULL AS lane, count(*) AS living, count(*) FILTER (WHERE relay < ?) AS earlier FROM ${relays}
          WHERE until > ${now}`,
          [relay],
        );
        return heartbeatOf([...held.rows, ...rows]);
      }),
    async claim(db, relay, lease, count) {
      await db.run(fillLanes);
      const { affected } = await db.run(
        `UPDATE ${lanes} SET owner = ?, fence = fence + 1, until = ${now} + ? WHERE lane IN (
          SELECT lane FROM ${lanes} WHERE owner IS NULL OR until < ${now} ORDER BY lane LIMIT ?)`,
        [relay, lease, count],
      );
      return affected;
    },
    async giveBack(db, relay, given) {
      await db.run(`UPDATE ${lanes} SET owner = NULL, until = NULL WHERE owner = ? AND lane IN ${listed}`, [
        relay,
        JSON.stringify(given),
      ]);
    },
    async leave(db, relay) {
      await db.run(`DELETE FROM ${relays} WHERE relay = ?`, [relay]);
    },
    async forgetRelays(db, silence) {
      await db.run(`DELETE FROM ${relays} WHERE until < ${now} - ?`, [silence]);
    },

    async page(db, { relay, lanes: held, after, upTo, limit, idsLeftOut, topicsLeftOut, keysLeftOut }) {
      const leftOut = keysLeftOut
        .map(() => ' AND (o.message_key IS NULL OR o.topic <> ? OR o.message_key <> ?)')
        .join('');
      // Without the word on the index SQLite walks over all that was sent.
      const { rows } = await db.run(
        `SELECT ${read}, ${sized}, o.next_attempt_at IS NOT NULL AS failed, l.fence, (SELECT max(id) FROM ${outbox}) AS newest
        FROM ${outbox} o INDEXED BY ${index('pending')} CROSS JOIN ${lanes} l ON l.lane = o.lane AND l.owner = ?
        WHERE o.sent_at IS NULL AND o.dead_at IS NULL AND o.lane IN ${listed} AND o.id > ? AND o.id <= ?
          AND (o.next_attempt_at IS NULL OR o.next_attempt_at <= ${now})
          AND (o.message_key IS NULL OR NOT EXISTS (
            SELECT 1 FROM ${outbox} f INDEXED BY ${index('failed')}
            WHERE f.sent_at IS NULL AND f.next_attempt_at IS NOT NULL
              AND f.topic = o.topic AND f.message_key = o.message_key AND f.id < o.id))
          AND o.id NOT IN ${listed} AND o.topic NOT IN ${listed}${leftOut}
        ORDER BY o.id LIMIT ?`,
        [
          relay,
          JSON.stringify(held),
          after,
          upTo,
          JSON.stringify(idsLeftOut),
          JSON.stringify(topicsLeftOut),
          ...keysLeftOut.flat(),
          limit,
        ],
      );
      return rows;
    },
    async bodies(db, ids) {
      return (await db.run(`SELECT id, body FROM ${outbox} WHERE id IN ${listed}`, [JSON.stringify(ids)])).rows;
    },
    async markSent(db, relay, ids, keep) {
      const those = `id IN ${listed} AND sent_at IS NULL
        AND (next_attempt_at IS NULL OR lane IN (SELECT lane FROM ${lanes} WHERE owner = ?))`;
      await db.run(
        keep
          ? `UPDATE ${outbox} SET sent_at = ${now}, dead_at = NULL WHERE ${those}`
          : `DELETE FROM ${outbox} WHERE ${those}`,
        [JSON.stringify(ids), relay],
      );
    },
    async markFailed(db, relay, failures) {
      await db.run(
        `UPDATE ${outbox} SET attempts = f.value ->> 'attempts', last_error = f.value ->> 'error',
          next_attempt_at = CASE WHEN NOT f.value ->> 'dead' THEN ${now} + (f.value ->> 'after')
            WHEN f.value ->> 'holds' THEN ${now} END,
          dead_at = CASE WHEN f.value ->> 'dead' THEN ${now} END
        FROM json_each(?) f
        WHERE ${outbox}.id = f.value ->> 'id' AND sent_at IS NULL AND dead_at IS NULL
          AND lane IN (SELECT lane FROM ${lanes} WHERE owner = ?)`,
        [JSON.stringify(failures), relay],
      );
    },
    sweep: (db, after, age, limit) =>
      db.transaction(async (tx) => {
        const page = `(SELECT id, sent_at, published_at FROM ${outbox} WHERE id > ? ORDER BY id LIMIT ?)`;
        const { rows } = await tx.run(
          `SELECT max(id) AS last, count(*) AS seen,
            min(published_at) < ${now} - ? OR coalesce(min(sent_at) < ${now} - ?, 0) AS old FROM ${page}`,
          [age, age, after, limit],
        );
        const seen = rows[0];
        if (!Number(seen?.['old'])) return undefined;
        await tx.run(`DELETE FROM ${outbox} WHERE id IN (SELECT id FROM ${page} WHERE sent_at < ${now} - ?)`, [
          after,
          limit,
          age,
        ]);
        return Number(seen?.['seen']) === limit ? Number(seen?.['last']) : undefined;
      }),

    async backlog(db) {
      const { rows } = await db.run(
        `SELECT count(*) AS pending, count(next_attempt_at) AS retrying, ${now} - min(published_at) AS age,
          (SELECT count(*) FROM ${outbox} INDEXED BY ${index('dead')} WHERE dead_at IS NOT NULL) AS dead
        FROM ${outbox} INDEXED BY ${index('pending')} WHERE sent_at IS NULL AND dead_at IS NULL`,
      );
      return backlogOf(rows[0]);
    },
    async dead(db, after, limit) {
      const { rows } = await db.run(
        `SELECT ${read}, o.body, o.last_error, o.dead_at FROM ${outbox} o INDEXED BY ${index('dead')}
        WHERE o.dead_at IS NOT NULL AND o.id > ? ORDER BY o.id LIMIT ?`,
        [after, limit],
      );
      return rows;
    },
    async revive(db, ids) {
      const { affected } = await db.run(
        `UPDATE ${outbox} SET dead_at = NULL, attempts = 0, next_attempt_at = ${now}
        WHERE id IN ${listed} AND dead_at IS NOT NULL`,
        [JSON.stringify(ids)],
      );
      return affected;
    },
    purge: (db, ids) =>
      db.transaction(async (tx) => {
        const those = `id IN ${listed} AND dead_at IS NOT NULL`;
        await tx.run(
          `UPDATE ${lanes} SET fence = fence + 1 WHERE lane IN (SELECT lane FROM ${outbox} WHERE ${those})`,
          [JSON.stringify(ids)],
        );
        const { affected } = await tx.run(`DELETE FROM ${outbox} WHERE ${those}`, [JSON.stringify(ids)]);
        return affected;
      }),
  };
}
