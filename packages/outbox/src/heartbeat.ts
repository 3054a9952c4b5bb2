import type { RawRow } from './row.ts';
import type { Heartbeat } from './statements.ts';

/** What a dialect answers to a heartbeat: a row for each lane, and one without a lane that counts the relays. */
export function heartbeatOf(rows: readonly RawRow[]): Heartbeat {
  const lanes = rows.filter((row) => row['lane'] !== null);
  const counts = rows.find((row) => row['lane'] === null);
  return {
    lanes: lanes.map((row) => ({ lane: Number(row['lane']), fence: Number(row['fence']) })),
    living: Math.max(1, Number(counts?.['living'] ?? 1)),
    earlier: Number(counts?.['earlier'] ?? 0),
  };
}
