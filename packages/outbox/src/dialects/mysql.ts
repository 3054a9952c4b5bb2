import { inLists } from '@waybill/sql';
import { backlogOf } from '../backlog.ts';
import { heartbeatOf } from '../heartbeat.ts';
import { laneCount } from '../lanes.ts';
import { columns, largeBody } from '../row.ts';
import type { Statements, Tables } from '../statements.ts';

/**
 * MySQL 8 and MariaDB 10.6 or later. Times are milliseconds since 1970, which no time zone changes. An index cannot be
 * of some rows only, so `pending` and `failing` stand first in theirs and are NULL in all other rows.
 */
export function mysqlStatements({ outbox, lanes, relays, index }: Tables): Statements {
  const now = 'CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)';
  const text = (length: number): string => `varchar(${length}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`;
  const long = 'longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin';
  const read = `o.id, o.lane, o.topic, o.topic_options, o.message_id, o.message_key, o.message_type, o.headers,
    o.content_type, o.broker_options, o.attempts, o.published_at, o.deliver_at, o.expires_at`;
  const sized = `length(o.body) AS size, CASE WHEN length(o.body) <= ${largeBody} THEN o.body END AS body`;
  // Whatever else InnoDB walks over it locks, and waits where somebody else's transaction is open.
  const byId = 'FORCE INDEX (PRIMARY)';
  // Without an alias: that would be looked for in a default database.
  const deleted = `DELETE ${outbox} FROM ${outbox} ${byId}`;
  const among = (column: string, numbers: readonly number[]): string =>
    `(${inLists(numbers)
      .map((part) => `${column} IN (${part.join(', ')})`)
      .join(' OR ')})`;

  const fillLanes = `INSERT IGNORE INTO ${lanes} (lane) VALUES ${Array.from({ length: laneCount }, (_, lane) => `(${lane})`).join(', ')}`;

  return {
    migrations: [
      [
        `CREATE TABLE IF NOT EXISTS ${outbox} (
  id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
  lane smallint NOT NULL,
  topic ${text(100)} NOT NULL,
  topic_options ${long},
  message_id ${text(128)} NOT NULL,
  message_key ${text(512)},
  message_type ${text(128)},
  headers ${long},
  content_type ${text(128)} NOT NULL,
  body longblob NOT NULL,
  broker_options ${long},
  published_at bigint NOT NULL,
  deliver_at bigint,
  expires_at bigint,
  attempts int NOT NULL DEFAULT 0,
  next_attempt_at bigint,
  last_error ${long},
  sent_at bigint,
  dead_at bigint,
  pending tinyint DEFAULT 1,
  failing tinyint,
  KEY ${index('pending')} (pending, id, lane),
  KEY ${index('failed')} (failing, topic, message_key),
  KEY ${index('dead')} (dead_at, id)
) ENGINE=InnoDB`,
        `CREATE TABLE IF NOT EXISTS ${lanes} (
  lane smallint NOT NULL PRIMARY KEY,
  owner ${text(36)},
  fence bigint NOT NULL DEFAULT 0,
  until bigint
) ENGINE=InnoDB`,
        fillLanes,
        `CREATE TABLE IF NOT EXISTS ${relays} (
  relay ${text(36)} NOT NULL PRIMARY KEY,
  until bigint NOT NULL
) ENGINE=InnoDB`,
      ],
    ],
    rowsPerInsert: 500,
    channel: undefined,
    insert(rows) {
      const row = `(${columns.map(() => '?').join(', ')})`;
      return `INSERT INTO ${outbox} (${columns.join(', ')}) VALUES ${new Array(rows).fill(row).join(', ')}`;
    },

    async heartbeat(db, relay, lease) {
      await db.run(
        `INSERT INTO ${relays} (relay, until) VALUES (?, ${now} + ?) ON DUPLICATE KEY UPDATE until = ${now} + ?`,
        [relay, lease, lease],
      );
      await db.run(`UPDATE ${lanes} SET until = ${now} + ? WHERE owner = ?`, [lease, relay]);
      const { rows } = await db.run(
        `SELECT lane, fence, NULL AS living, NULL AS earlier FROM ${lanes} WHERE owner = ?
        UNION ALL SELECT NULL, NULL, count(*), count(CASE WHEN relay < ? THEN 1 END) FROM ${relays} WHERE until > ${now}`,
        [relay, relay],
      );
      return heartbeatOf(rows);
    },
    async claim(db, relay, lease, count) {
      await db.run(fillLanes);
      const { affected } = await db.run(
        `UPDATE ${lanes} SET owner = ?, fence = fence + 1, until = ${now} + ?
        WHERE owner IS NULL OR until < ${now} ORDER BY lane LIMIT ?`,
        [relay, lease, count],
      );
      return affected;
    },
    async giveBack(db, relay, given) {
      await db.run(`UPDATE ${lanes} SET owner = NULL, until = NULL WHERE owner = ? AND ${among('lane', given)}`, [
        relay,
      ]);
    },
    async leave(db, relay) {
      await db.run(`DELETE FROM ${relays} WHERE relay = ?`, [relay]);
    },
    async forgetRelays(db, silence) {
      await db.run(`DELETE FROM ${relays} WHERE until < ${now} - ?`, [silence]);
    },

    async page(db, { relay, lanes: held, after, upTo, limit, idsLeftOut, topicsLeftOut, keysLeftOut }) {
      const ids = idsLeftOut.length === 0 ? '' : ` AND NOT (${among('o.id', idsLeftOut)})`;
      const topics =
        topicsLeftOut.length === 0 ? '' : ` AND o.topic NOT IN (${topicsLeftOut.map(() => '?').join(', ')})`;
      const keys = keysLeftOut.map(() => ' AND (o.message_key IS NULL OR o.topic <> ? OR o.message_key <> ?)').join('');
      const { rows } = await db.run(
        `SELECT STRAIGHT_JOIN ${read}, ${sized}, o.next_attempt_at IS NOT NULL AS failed, l.fence, (SELECT max(id) FROM ${outbox}) AS newest
        FROM ${outbox} o FORCE INDEX (${index('pending')}) JOIN ${lanes} l ON l.lane = o.lane AND l.owner = ?
        WHERE o.pending = 1 AND o.id > ? AND o.id <= ? AND ${among('o.lane', held)}
          AND (o.next_attempt_at IS NULL OR o.next_attempt_at <= ${now})
          AND (o.message_key IS NULL OR NOT EXISTS (
            SELECT 1 FROM ${outbox} f FORCE INDEX (${index('failed')})
            WHERE f.failing = 1 AND f.topic = o.topic AND f.message_key = o.message_key AND f.id < o.id))${ids}${topics}${keys}
        ORDER BY o.id LIMIT ?`,
        [relay, after, upTo, ...topicsLeftOut, ...keysLeftOut.flat(), limit],
      );
      return rows;
    },
    async bodies(db, ids) {
      return (await db.run(`SELECT id, body FROM ${outbox} WHERE ${among('id', ids)}`)).rows;
    },
    async markSent(db, relay, ids, keep) {
      const those = `${among(`${outbox}.id`, ids)} AND ${outbox}.sent_at IS NULL AND (${outbox}.next_attempt_at IS NULL
        OR EXISTS (SELECT 1 FROM ${lanes} l WHERE l.lane = ${outbox}.lane AND l.owner = ?))`;
      await db.run(
        keep
          ? `UPDATE ${outbox} ${byId} SET sent_at = ${now}, dead_at = NULL, pending = NULL, failing = NULL WHERE ${those}`
          : `${deleted} WHERE ${those}`,
        [relay],
      );
    },
    async markFailed(db, relay, failures) {
      const list = failures.map((failure) => ({ ...failure, dead: +failure.dead, holds: +failure.holds }));
      await db.run(
        `UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id bigint PATH '$.id', attempts int PATH '$.attempts',
            after double PATH '$.after', error longtext CHARACTER SET utf8mb4 PATH '$.error', dead tinyint PATH '$.dead',
            holds tinyint PATH '$.holds')) f
          STRAIGHT_JOIN ${outbox} o ${byId} ON o.id = f.id STRAIGHT_JOIN ${lanes} l ON l.lane = o.lane AND l.owner = ?
        SET o.attempts = f.attempts, o.last_error = f.error, o.pending = IF(f.dead, NULL, 1),
          o.failing = IF(f.dead AND NOT f.holds, NULL, 1), o.dead_at = IF(f.dead, ${now}, NULL),
          o.next_attempt_at = IF(f.dead, IF(f.holds, ${now}, NULL), ${now} + CEIL(f.after))
        WHERE o.pending = 1`,
        [JSON.stringify(list), relay],
      );
    },
    async sweep(db, after, age, limit) {
      const { rows } = await db.run(
        `SELECT id, sent_at < ${now} - ? AS gone, published_at < ${now} - ? AS old FROM ${outbox}
        WHERE id > ? ORDER BY id LIMIT ?`,
        [age, age, after, limit],
      );
      const gone = rows.filter((row) => Number(row['gone']) === 1).map((row) => Number(row['id']));
      if (gone.length > 0) await db.run(`${deleted} WHERE ${among('id', gone)}`);
      const more = rows.length === limit && (gone.length > 0 || rows.some((row) => Number(row['old']) === 1));
      return more ? Number(rows.at(-1)?.['id']) : undefined;
    },

    async backlog(db) {
      const { rows } = await db.run(
        `SELECT count(*) AS pending, count(next_attempt_at) AS retrying, ${now} - min(published_at) AS age,
          (SELECT count(*) FROM ${outbox} WHERE dead_at IS NOT NULL) AS dead
        FROM ${outbox} FORCE INDEX (${index('pending')}) WHERE pending = 1`,
      );
      return backlogOf(rows[0]);
    },
    async dead(db, after, limit) {
      const { rows } = await db.run(
        `SELECT ${read}, o.body, o.last_error, o.dead_at FROM ${outbox} o FORCE INDEX (${index('dead')})
        WHERE o.dead_at IS NOT NULL AND o.id > ? ORDER BY o.id LIMIT ?`,
        [after, limit],
      );
      return rows;
    },
    async revive(db, ids) {
      const { affected } = await db.run(
        `UPDATE ${outbox} ${byId} SET dead_at = NULL, attempts = 0, next_attempt_at = ${now}, pending = 1, failing = 1
        WHERE ${among('id', ids)} AND dead_at IS NOT NULL`,
      );
      return affected;
    },
    purge: (db, ids) =>
      db.transaction(async (tx) => {
        const those = `${among('id', ids)} AND dead_at IS NOT NULL`;
        const { rows } = await tx.run(`SELECT DISTINCT lane FROM ${outbox} WHERE ${those}`);
        if (rows.length === 0) return 0;
        const told = rows.map((row) => Number(row['lane']));
        await tx.run(`UPDATE ${lanes} SET fence = fence + 1 WHERE ${among('lane', told)}`);
        const { affected } = await tx.run(`${deleted} WHERE ${those}`);
        return affected;
      }),
  };
}
