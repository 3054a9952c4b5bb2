import { again, indexName, type SqlDatabase } from '@waybill/sql';
import { inOrder, type Versions } from './sql-store.ts';
import { type Answer, type ClaimTable, readable, type Wanted } from './table.ts';

export const postgresVersions: Versions = (table, { table: name = 'waybill_idempotency' }) => [
  [
    `CREATE TABLE IF NOT EXISTS ${table} (
  id bytea PRIMARY KEY,
  scope text NOT NULL,
  message text NOT NULL,
  token text,
  done boolean NOT NULL,
  ends_at timestamptz NOT NULL
)`,
    `CREATE INDEX IF NOT EXISTS ${indexName('postgres', name, 'ends_at')} ON ${table} (ends_at)`,
  ],
];

/** Texts of a list are one array each, so that the statement is the same for any number of them. */
export function postgresTable(database: SqlDatabase, table: string): ClaimTable {
  const ms = (column: string): string => `${column} * interval '1 millisecond'`;
  const claim = `
    WITH wanted AS (
      SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::float8[])
        AS w (id, scope, message, token, lease)
    ), won AS (
      INSERT INTO ${table} AS t (id, scope, message, token, done, ends_at)
      SELECT id, scope, message, token, false, clock_timestamp() + ${ms('lease')} FROM wanted
      ON CONFLICT (id) DO UPDATE SET token = excluded.token, done = false, ends_at = excluded.ends_at
        WHERE t.ends_at <= clock_timestamp() OR (t.token = excluded.token AND NOT t.done)
      RETURNING id
    )
    SELECT id, NULL AS done FROM won
    UNION ALL
    SELECT id, done FROM ${table} WHERE id = ANY ($1::bytea[]) AND ends_at > clock_timestamp()`;
  const held = `
    WITH held AS MATERIALIZED (
      SELECT t.id, h.ms FROM unnest($1::bytea[], $2::text[], $3::float8[]) AS h (id, token, ms)
      JOIN ${table} AS t ON t.id = h.id AND t.token = h.token AND NOT t.done ORDER BY t.id FOR UPDATE OF t
    )`;
  const update = (set: string): string => `${held}
    UPDATE ${table} AS t SET ${set}ends_at = clock_timestamp() + ${ms('held.ms')} FROM held WHERE t.id = held.id
    RETURNING t.id`;
  const mark = update('done = true, ');
  const renew = update('');
  const release = `${held} DELETE FROM ${table} AS t USING held WHERE t.id = held.id`;
  // An unfinished claim may be its holder's still, a moment after its lease, as long as nobody wants it.
  const clean = `
    DELETE FROM ${table} WHERE id IN (
      SELECT id FROM ${table} WHERE ends_at < now() AND (done OR ends_at < now() - interval '1 minute')
      ORDER BY ends_at LIMIT $1 FOR UPDATE SKIP LOCKED)`;

  const ask = (text: string, lists: readonly (readonly unknown[])[]) =>
    // The driver turns arrays into PostgreSQL's; no other one has them.
    again('postgres', () => database.run(text, lists as never));
  const about = async (text: string, items: readonly Wanted[], length: (item: Wanted) => number) => {
    const sorted = inOrder(items);
    const { rows } = await ask(text, [
      sorted.map(({ id }) => id),
      sorted.map(({ token }) => token),
      sorted.map(length),
    ]);
    const found = new Set(rows.map((row) => nameOf(row['id'])));
    return items.map(({ name }) => found.has(name));
  };

  return {
    async claim(wanted) {
      const sorted = inOrder(wanted);
      const { rows } = await ask(claim, [
        sorted.map(({ id }) => id),
        sorted.map((one) => readable(one.claim.scope, 400)),
        sorted.map((one) => readable(one.claim.key, 200)),
        sorted.map(({ token }) => token),
        sorted.map((one) => one.claim.lease),
      ]);
      const answers = new Map<string, Answer>();
      for (const { id, done } of rows) {
        const name = nameOf(id);
        // A row that ends while the statement runs can be seen twice.
        if (answers.get(name) !== 'won')
          answers.set(name, done === null ? 'won' : done === true ? 'duplicate' : 'busy');
      }
      // What somebody else put down meanwhile is not seen yet: whether it is done shows the next time.
      return wanted.map(({ name }) => answers.get(name) ?? 'busy');
    },
    mark: (items) => about(mark, items, (item) => item.claim.window),
    renew: (items) => about(renew, items, (item) => item.claim.lease),
    async release(items) {
      await about(release, items, () => 0);
    },
    async clean(most) {
      return (await database.run(clean, [most])).affected;
    },
  };
}

function nameOf(id: unknown): string {
  return Buffer.from(id as Uint8Array).toString('latin1');
}
