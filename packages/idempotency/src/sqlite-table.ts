import { indexName, type SqlDatabase, type SqlRunner } from '@waybill/sql';
import type { Versions } from './sql-store.ts';
import { type Answer, type ClaimTable, readable, type Wanted } from './table.ts';

export const sqliteVersions: Versions = (table, { table: name = 'waybill_idempotency' }) => [
  [
    `CREATE TABLE IF NOT EXISTS ${table} (
  id blob NOT NULL PRIMARY KEY,
  scope text NOT NULL,
  message text NOT NULL,
  token text,
  done integer NOT NULL,
  ends_at real NOT NULL
) WITHOUT ROWID`,
    `CREATE INDEX IF NOT EXISTS ${indexName('sqlite', name, 'ends_at')} ON ${table} (ends_at)`,
  ],
];

/** Milliseconds since the epoch. */
export const sqliteNow = "(unixepoch('subsec') * 1000)";

export function sqliteTable(database: SqlDatabase, table: string): ClaimTable {
  const claim = `INSERT INTO ${table} AS t (id, scope, message, token, done, ends_at)
    VALUES (?, ?, ?, ?, 0, ${sqliteNow} + ?)
    ON CONFLICT (id) DO UPDATE SET token = excluded.token, done = 0, ends_at = excluded.ends_at
      WHERE t.ends_at <= ${sqliteNow} OR (t.token = excluded.token AND t.done = 0)
    RETURNING 1`;
  const look = `SELECT done FROM ${table} WHERE id = ?`;
  const update = (done: 0 | 1): string =>
    `UPDATE ${table} SET done = ${done}, ends_at = ${sqliteNow} + ? WHERE id = ? AND token = ? AND done = 0`;
  const mark = update(1);
  const renew = update(0);
  const release = `DELETE FROM ${table} WHERE id = ? AND token = ? AND done = 0`;
  // An unfinished claim may be its holder's still, a moment after its lease, as long as nobody wants it.
  const clean = `DELETE FROM ${table} WHERE id IN (
    SELECT id FROM ${table} WHERE ends_at < ${sqliteNow} AND (done = 1 OR ends_at < ${sqliteNow} - 60000)
    ORDER BY ends_at LIMIT ?)`;

  /** One commit for all of them: each is a flush of the disk. */
  const each = <R>(items: readonly Wanted[], step: (tx: SqlRunner, item: Wanted) => Promise<R>): Promise<R[]> =>
    database.transaction(async (tx) => {
      const results: R[] = [];
      for (const item of items) results.push(await step(tx, item));
      return results;
    });

  return {
    claim: (wanted) =>
      each(wanted, async (tx, { id, claim: { scope, key, lease }, token }): Promise<Answer> => {
        const { rows } = await tx.run(claim, [id, readable(scope, 400), readable(key, 200), token, lease]);
        if (rows.length > 0) return 'won';
        const seen = await tx.run(look, [id]);
        return seen.rows[0]?.['done'] === 1 ? 'duplicate' : 'busy';
      }),
    mark: (held) =>
      each(
        held,
        async (tx, { id, claim: { window }, token }) => (await tx.run(mark, [window, id, token])).affected === 1,
      ),
    renew: (held) =>
      each(
        held,
        async (tx, { id, claim: { lease }, token }) => (await tx.run(renew, [lease, id, token])).affected === 1,
      ),
    async release(held) {
      await each(held, (tx, { id, token }) => tx.run(release, [id, token]));
    },
    async clean(most) {
      return (await database.run(clean, [most])).affected;
    },
  };
}
