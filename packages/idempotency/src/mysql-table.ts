import { again, type SqlDatabase, type SqlValue } from '@waybill/sql';
import { inOrder, type Versions } from './sql-store.ts';
import { type Answer, type ClaimTable, readable, type Wanted } from './table.ts';

export const mysqlVersions: Versions = (table) => [
  [
    `CREATE TABLE IF NOT EXISTS ${table} (
  id binary(32) NOT NULL PRIMARY KEY,
  scope varchar(400) NOT NULL,
  message varchar(200) NOT NULL,
  token varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  done tinyint NOT NULL,
  ends_at datetime(6) NOT NULL,
  KEY ends_at (ends_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`,
  ],
];

/** UTC, because sessions differ in their time zones. */
export const mysqlNow = 'UTC_TIMESTAMP(6)';
/** Of a number of milliseconds, which may have a fraction. */
export const mysqlEnd = (ms: number): string => `${mysqlNow} + INTERVAL ${Math.round(ms * 1_000)} MICROSECOND`;

export function mysqlTable(database: SqlDatabase, table: string): ClaimTable {
  // Where a list names much of the table a server may read all of it instead, and lock, and wait for, rows of others.
  const byId = `${table} FORCE INDEX (PRIMARY)`;
  const run = (text: string, values: readonly SqlValue[] = []) => again('mysql', () => database.run(text, values));
  const list = (items: readonly unknown[]): string => items.map(() => '?').join(', ');
  /** Tokens are of one claim each: two lists pick the pairs. */
  const held = (items: readonly Wanted[]) => ({
    where: `id IN (${list(items)}) AND token IN (${list(items)}) AND done = `,
    values: [...items.map(({ id }) => id), ...items.map(({ token }) => token)],
  });

  /** Sets what is still held, and says which that was. */
  const update = async (items: readonly Wanted[], length: (item: Wanted) => number, done: 0 | 1) => {
    const found = new Set<string>();
    // A statement takes one length.
    for (const [ms, group] of Map.groupBy(inOrder(items), length)) {
      const { where, values } = held(group);
      const { affected } = await run(
        `UPDATE ${byId} SET done = ${done}, ends_at = ${mysqlEnd(ms)} WHERE ${where}0`,
        values,
      );
      if (affected === group.length) for (const { name } of group) found.add(name);
      else if (affected > 0) {
        const { rows } = await run(`SELECT id FROM ${table} WHERE ${where}${done}`, values);
        for (const { id } of rows) found.add(nameOf(id));
      }
    }
    return items.map(({ name }) => found.has(name));
  };

  return {
    async claim(wanted) {
      const sorted = inOrder(wanted);
      const rowsOf = sorted.map(({ claim }) => `(?, ?, ?, ?, 0, ${mysqlEnd(claim.lease)})`).join(', ');
      const values = sorted.flatMap(({ id, claim, token }) => [
        id,
        readable(claim.scope, 400),
        readable(claim.key, 200),
        token,
      ]);
      // Set from left to right: what comes after the token sees whether it became ours, or was.
      await run(
        `INSERT INTO ${table} (id, scope, message, token, done, ends_at) VALUES ${rowsOf}
         ON DUPLICATE KEY UPDATE token = IF(ends_at <= ${mysqlNow}, VALUES(token), token),
           done = IF(ends_at <= ${mysqlNow}, 0, done),
           ends_at = IF(token = VALUES(token) AND done = 0, VALUES(ends_at), ends_at)`,
        values,
      );
      const { rows } = await run(
        `SELECT id, token, done FROM ${table} WHERE id IN (${list(sorted)})`,
        sorted.map(({ id }) => id),
      );
      const seen = new Map(rows.map((row) => [nameOf(row['id']), row]));
      return wanted.map(({ name, token }): Answer => {
        const row = seen.get(name);
        if (Number(row?.['done']) === 1) return 'duplicate';
        return row?.['token'] === token ? 'won' : 'busy';
      });
    },
    mark: (items) => update(items, (item) => item.claim.window, 1),
    renew: (items) => update(items, (item) => item.claim.lease, 0),
    async release(items) {
      const { where, values } = held(inOrder(items));
      // Without an alias: that would be looked for in a default database.
      await run(`DELETE ${table} FROM ${byId} WHERE ${where}0`, values);
    },
    async clean(most) {
      // An unfinished claim may be its holder's still, a moment after its lease, as long as nobody wants it.
      const ended = `ends_at < ${mysqlNow} AND (done = 1 OR ends_at < ${mysqlNow} - INTERVAL 1 MINUTE)`;
      // Not what an inbox is at: waiting for it would keep a connection that its handler may need. In one statement, since
      // an inbox may come between two; and joined straight, or the rows may be locked before any is chosen.
      const { affected } = await run(
        `DELETE ${table} FROM (
           SELECT id FROM ${table} FORCE INDEX (ends_at) WHERE ${ended} ORDER BY ends_at LIMIT ${most} FOR UPDATE SKIP LOCKED
         ) AS gone STRAIGHT_JOIN ${byId} ON ${table}.id = gone.id`,
      );
      return affected;
    },
  };
}

function nameOf(id: unknown): string {
  return Buffer.from(id as Uint8Array).toString('latin1');
}
