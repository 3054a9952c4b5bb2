import { literal } from '@waybill/sql';
import { backlogOf } from '../backlog.ts';
import { heartbeatOf } from '../heartbeat.ts';
import { laneCount } from '../lanes.ts';
import { type Column, columns, largeBody } from '../row.ts';
import type { Statements, Tables } from '../statements.ts';
import { checkPartitioning, dayPartitions } from './postgres-partitions.ts';

/** PostgreSQL 14 and later. */
export function postgresStatements(tables: Tables, channel: string | undefined, partitions?: 'day'): Statements {
  const { outbox, lanes, relays, index } = tables;
  const [wake, put] = [tables.companion('wake'), tables.companion('put')];
  const days = partitions === undefined ? undefined : dayPartitions(tables);
  const ms = (column: string): string => `date_part('epoch', ${column}) * 1000`;
  const ahead = (parameter: string): string => `now() + ${parameter}::float8 * interval '1 millisecond'`;

  const read = `o.id::float8 AS id, o.lane, o.topic, o.topic_options, o.message_id, o.message_key, o.message_type,
    o.headers, o.content_type, o.broker_options, o.attempts, ${ms('o.published_at')} AS published_at,
    ${ms('o.deliver_at')} AS deliver_at, ${ms('o.expires_at')} AS expires_at`;
  const sized = `octet_length(o.body) AS size, CASE WHEN octet_length(o.body) <= ${largeBody} THEN o.body END AS body`;

  const wakeBody = `BEGIN IF NOT EXISTS (SELECT FROM ${relays} WHERE resting AND until > now()) THEN RETURN false; END IF; PERFORM pg_notify(channel, ''); RETURN true; END`;
  const names = columns.join(', ');
  const written = columns.map((column, at) => asColumn(column, `$${at + 2}`)).join(', ');
  const putBody = `BEGIN INSERT INTO ${outbox} (${names}) VALUES (${written}); RETURN $1 IS NOT NULL AND ${wake}($1); END`;
  const putTypes = columns.map((column) => types[column] ?? 'text').join(', ');
  const fillLanes = `INSERT INTO ${lanes} (lane) SELECT generate_series(0, ${laneCount - 1}) ON CONFLICT DO NOTHING`;

  return {
    migrations: [
      [
        `CREATE TABLE IF NOT EXISTS ${outbox} (
  id bigint GENERATED ALWAYS AS IDENTITY,
  lane smallint NOT NULL,
  topic text NOT NULL,
  topic_options text,
  message_id text NOT NULL,
  message_key text,
  message_type text,
  headers text,
  content_type text NOT NULL,
  body bytea NOT NULL,
  broker_options text,
  published_at timestamptz NOT NULL,
  deliver_at timestamptz,
  expires_at timestamptz,
  attempts integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz,
  last_error text,
  sent_at timestamptz,
  dead_at timestamptz,
  ${days?.tail ?? 'PRIMARY KEY (id)\n)'}`,
        ...(days === undefined ? [] : [days.makeDefault]),
        // Led by a column that is always null in it: so no other index, such as that of the id, can give the same order,
        // and no outdated statistics make the planner walk over all that was sent.
        `CREATE INDEX IF NOT EXISTS ${index('pending')} ON ${outbox} (dead_at, id, lane) WHERE sent_at IS NULL AND dead_at IS NULL`,
        `CREATE INDEX IF NOT EXISTS ${index('failed')} ON ${outbox} (topic, message_key) WHERE sent_at IS NULL AND next_attempt_at IS NOT NULL`,
        `CREATE INDEX IF NOT EXISTS ${index('dead')} ON ${outbox} (id) WHERE dead_at IS NOT NULL`,
        `CREATE TABLE IF NOT EXISTS ${lanes} (
  lane smallint PRIMARY KEY,
  owner text,
  fence bigint NOT NULL DEFAULT 0,
  until timestamptz
)`,
        fillLanes,
        `CREATE TABLE IF NOT EXISTS ${relays} (
  relay text PRIMARY KEY,
  until timestamptz NOT NULL,
  resting boolean NOT NULL DEFAULT false
)`,
        // Functions, because a session keeps the plans within them: those of a statement would be made anew each time. Their
        // bodies are one line, so that no tool takes a semicolon in them for the end of the statement.
        `CREATE OR REPLACE FUNCTION ${wake}(channel text) RETURNS boolean LANGUAGE plpgsql AS ${literal('postgres', wakeBody)}`,
        // Without names for what it takes, because those would stand for columns.
        `CREATE OR REPLACE FUNCTION ${put}(text, ${putTypes}) RETURNS boolean LANGUAGE plpgsql AS ${literal('postgres', putBody)}`,
      ],
    ],
    rowsPerInsert: 500,
    channel,
    checkPartitioning: (db) => checkPartitioning(db, outbox, days !== undefined),
    insert(rows) {
      if (rows === 1) {
        const values = columns.map((column, at) => `$${at + 1}::${types[column] ?? 'text'}`).join(', ');
        return `SELECT ${put}(${channel === undefined ? 'NULL' : `'${channel}'`}, ${values})`;
      }
      const row = (at: number): string =>
        `(${columns.map((column, i) => asColumn(column, `$${at * columns.length + i + 1}`)).join(', ')})`;
      const values = Array.from({ length: rows }, (_, at) => row(at)).join(', ');
      const insert = `INSERT INTO ${outbox} (${names}) VALUES ${values}`;
      if (channel === undefined) return insert;
      // Transactions that notify commit one after the other, so it is done only while a relay rests. As a question of its
      // own it is asked once for all rows.
      return `${insert} RETURNING (SELECT ${wake}('${channel}'))`;
    },

    async heartbeat(db, relay, lease) {
      const { rows } = await db.run(
        `WITH me AS (
          INSERT INTO ${relays} (relay, until) VALUES ($1, ${ahead('$2')})
          ON CONFLICT (relay) DO UPDATE SET until = excluded.until RETURNING relay
        ), mine AS (
          UPDATE ${lanes} SET until = ${ahead('$3')} WHERE owner = $4 RETURNING lane, fence
        )
        SELECT lane, fence::float8 AS fence, NULL AS living, NULL AS earlier FROM mine
        UNION ALL
        SELECT NULL, NULL, count(*) + 1, count(*) FILTER (WHERE relay < $5) FROM ${relays}
        WHERE until > now() AND relay <> $6`,
        [relay, lease, lease, relay, relay, relay],
      );
      return heartbeatOf(rows);
    },
    async claim(db, relay, lease, count) {
      await db.run(fillLanes);
      const { affected } = await db.run(
        `UPDATE ${lanes} SET owner = $1, fence = fence + 1, until = ${ahead('$2')} WHERE lane IN (
          SELECT lane FROM ${lanes} WHERE owner IS NULL OR until < now() ORDER BY lane LIMIT $3 FOR UPDATE SKIP LOCKED)`,
        [relay, lease, count],
      );
      return affected;
    },
    async giveBack(db, relay, given) {
      await db.run(`UPDATE ${lanes} SET owner = NULL, until = NULL WHERE owner = $1 AND lane = ANY($2::smallint[])`, [
        relay,
        arrayOf(given),
      ]);
    },
    async leave(db, relay) {
      await db.run(`DELETE FROM ${relays} WHERE relay = $1`, [relay]);
    },
    async rest(db, relay, resting) {
      await db.run(`UPDATE ${relays} SET resting = $1::boolean WHERE relay = $2`, [String(resting), relay]);
    },
    async forgetRelays(db, silence) {
      await db.run(`DELETE FROM ${relays} WHERE until < ${ahead('-$1')}`, [silence]);
    },

    async page(db, { relay, lanes: held, after, upTo, limit, idsLeftOut, topicsLeftOut, keysLeftOut }) {
      const values: (string | number)[] = [relay, arrayOf(held), after, upTo];
      let leftOut = '';
      if (idsLeftOut.length > 0) {
        values.push(arrayOf(idsLeftOut));
        leftOut += ` AND o.id <> ALL($${values.length}::bigint[])`;
      }
      if (topicsLeftOut.length > 0) {
        values.push(JSON.stringify(topicsLeftOut));
        leftOut += ` AND o.topic NOT IN (SELECT json_array_elements_text($${values.length}::json))`;
      }
      for (const [topic, key] of keysLeftOut) {
        values.push(topic, key);
        leftOut += ` AND (o.message_key IS NULL OR (o.topic, o.message_key) <> ($${values.length - 1}, $${values.length}))`;
      }
      values.push(limit);
      const { rows } = await db.run(
        // The lanes come last: joined earlier they tempt the planner to read and sort all that is pending.
        `SELECT page.*, l.fence::float8 AS fence, (SELECT max(id)::float8 FROM ${outbox}) AS newest FROM (
          SELECT ${read}, ${sized}, o.next_attempt_at IS NOT NULL AS failed FROM ${outbox} o
          WHERE o.sent_at IS NULL AND o.dead_at IS NULL AND o.lane = ANY($2::smallint[]) AND o.id > $3::float8::bigint AND o.id <= $4::float8::bigint
            AND (o.next_attempt_at IS NULL OR o.next_attempt_at <= now())
            AND (o.message_key IS NULL OR NOT EXISTS (
              SELECT FROM ${outbox} f WHERE f.sent_at IS NULL AND f.next_attempt_at IS NOT NULL
                AND f.topic = o.topic AND f.message_key = o.message_key AND f.id < o.id))${leftOut}
          ORDER BY o.dead_at, o.id LIMIT $${values.length}
        ) page LEFT JOIN ${lanes} l ON l.lane = page.lane AND l.owner = $1 ORDER BY page.id`,
        values,
      );
      return rows;
    },
    async bodies(db, ids) {
      const text = `SELECT id::float8 AS id, body FROM ${outbox} WHERE id = ANY($1::bigint[])`;
      return (await db.run(text, [arrayOf(ids)])).rows;
    },
    async markSent(db, relay, ids, keep) {
      const those = `o.id = ANY($1::bigint[]) AND o.sent_at IS NULL AND (o.next_attempt_at IS NULL
        OR EXISTS (SELECT FROM ${lanes} l WHERE l.lane = o.lane AND l.owner = $2))`;
      await db.run(
        keep
          ? `UPDATE ${outbox} o SET sent_at = now(), dead_at = NULL WHERE ${those}`
          : `DELETE FROM ${outbox} o WHERE ${those}`,
        [arrayOf(ids), relay],
      );
    },
    async markFailed(db, relay, failures) {
      await db.run(
        `UPDATE ${outbox} o SET attempts = f.attempts, last_error = f.error,
          next_attempt_at = CASE WHEN NOT f.dead THEN now() + f.after * interval '1 millisecond' WHEN f.holds THEN now() END,
          dead_at = CASE WHEN f.dead THEN now() END
        FROM json_to_recordset($1::json)
          AS f(id bigint, attempts integer, after float8, error text, dead boolean, holds boolean)
        WHERE o.id = f.id AND o.id = ANY($2::bigint[]) AND o.sent_at IS NULL AND o.dead_at IS NULL
          AND EXISTS (SELECT FROM ${lanes} l WHERE l.lane = o.lane AND l.owner = $3)`,
        // The ids once more: from JSON alone the planner expects so many that it may read whole partitions.
        [JSON.stringify(failures), arrayOf(failures.map(({ id }) => id)), relay],
      );
    },
    async sweep(db, after, age, limit, partition = outbox) {
      const { rows } = await db.run(
        `WITH page AS (
          SELECT id, sent_at, published_at FROM ${partition} WHERE id > $1::float8::bigint ORDER BY id LIMIT $2
        ), gone AS (
          DELETE FROM ${partition} WHERE id = ANY(ARRAY(SELECT id FROM page WHERE sent_at < ${ahead('-$3')}))
        )
        SELECT max(id)::float8 AS last, count(*)::float8 AS seen,
          coalesce(least(min(published_at), min(sent_at)) < ${ahead('-$4')}, false) AS old FROM page`,
        [after, limit, age, age],
      );
      const page = rows[0];
      return page?.['old'] === true && Number(page['seen']) === limit ? Number(page['last']) : undefined;
    },
    ...(days !== undefined && { maintainPartitions: days.maintain }),

    async backlog(db) {
      const { rows } = await db.run(
        `SELECT count(*)::float8 AS pending, count(next_attempt_at)::float8 AS retrying,
          (extract(epoch FROM now() - min(published_at)) * 1000)::float8 AS age,
          (SELECT count(*)::float8 FROM ${outbox} WHERE dead_at IS NOT NULL) AS dead
        FROM ${outbox} WHERE sent_at IS NULL AND dead_at IS NULL`,
      );
      return backlogOf(rows[0]);
    },
    async dead(db, after, limit) {
      const { rows } = await db.run(
        `SELECT ${read}, o.body, o.last_error, ${ms('o.dead_at')} AS dead_at FROM ${outbox} o
        WHERE o.dead_at IS NOT NULL AND o.id > $1::float8::bigint ORDER BY o.id LIMIT $2`,
        [after, limit],
      );
      return rows;
    },
    async revive(db, ids) {
      const { affected } = await db.run(
        // Due at once, and still before the later messages of its key.
        `UPDATE ${outbox} SET dead_at = NULL, attempts = 0, next_attempt_at = now()
        WHERE id = ANY($1::bigint[]) AND dead_at IS NOT NULL`,
        [arrayOf(ids)],
      );
      return affected;
    },
    async purge(db, ids) {
      const { rows } = await db.run(
        `WITH gone AS (
          DELETE FROM ${outbox} WHERE id = ANY($1::bigint[]) AND dead_at IS NOT NULL RETURNING lane
        ), told AS (
          UPDATE ${lanes} SET fence = fence + 1 WHERE lane IN (SELECT lane FROM gone)
        )
        SELECT count(*)::float8 AS count FROM gone`,
        [arrayOf(ids)],
      );
      return Number(rows[0]?.['count'] ?? 0);
    },
  };
}

/** What is not a text; times are milliseconds on their way to the table. */
const types: Partial<Record<Column, string>> = {
  lane: 'smallint',
  body: 'bytea',
  published_at: 'float8',
  deliver_at: 'float8',
  expires_at: 'float8',
};

function asColumn(column: Column, parameter: string): string {
  return types[column] === 'float8' ? `to_timestamp(${parameter}::float8 / 1000)` : parameter;
}

/** As the text of an array, so that the statement is the same however many there are. */
const arrayOf = (numbers: readonly number[]): string => `{${numbers.join(',')}}`;
