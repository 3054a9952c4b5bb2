import type { RawRow } from './row.ts';
import type { OutboxBacklog } from './types.ts';

/** What the counts of a dialect say, in the columns `pending`, `retrying`, `dead` and `age`, which is NULL for none. */
export function backlogOf(row: RawRow = {}): OutboxBacklog {
  return {
    pending: Number(row['pending'] ?? 0),
    retrying: Number(row['retrying'] ?? 0),
    dead: Number(row['dead'] ?? 0),
    oldest: Math.max(0, Number(row['age'] ?? 0)),
  };
}
