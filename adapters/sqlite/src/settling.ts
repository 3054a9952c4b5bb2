import type { Settlement, SettleResult } from '@waybill/core/adapter';
import { freeKey } from './backlog.ts';
import type { Database } from './database.ts';
import { contentColumns, state } from './schema.ts';

/** Which handing-out of which copy a delivery is. */
export interface Handle {
  readonly number: number;
  readonly token: number;
  readonly key: string | undefined;
}

export interface SettleIn {
  readonly group: number;
  readonly topic: number;
  readonly ordered: boolean;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

/** A date that no clock reaches, for delays without end. */
const never = 8.64e15;

/** Whoever settles must still have it: the copy is out, and this is its latest handing-out (GUAR-02). */
const ours = `number = ? AND token = ? AND state = ${state.out}`;

const giveBack = `UPDATE copies SET state = ?, until = ?, attempt = ?, alone = ?, deliveries = 0, token = token + 1
  WHERE ${ours}`;
const abandon = `UPDATE copies SET state = iif(alone, ${state.alone}, ${state.ready}), until = NULL, token = token + 1
  WHERE ${ours}`;
const bury = `INSERT OR REPLACE INTO dead_letters (grp, entry, place, stored_at, details, ${contentColumns})
  SELECT ?, ?, c.place, m.stored_at, ?, ${contentColumns.replaceAll(/(\w+)/g, 'm.$1')}
  FROM copies c JOIN messages m ON m.place = c.place WHERE c.number = ? AND c.token = ? AND c.state = ${state.out}`;
const remove = `DELETE FROM copies WHERE ${ours}`;
const extend = `UPDATE copies SET until = ? WHERE ${ours}`;

/** Settles a batch. Part of a transaction. */
export function settle(
  database: Database,
  place: SettleIn,
  batch: readonly Settlement[],
  handleOf: (settlement: Settlement) => Handle,
): SettleResult[] {
  return batch.map((settlement) => (settleOne(database, place, settlement, handleOf(settlement)) ? 'applied' : 'lost'));
}

function settleOne(database: Database, place: SettleIn, settlement: Settlement, handle: Handle): boolean {
  const { number, token } = handle;
  switch (settlement.verb) {
    case 'ack':
      return leave(database, place, handle);
    case 'giveBack': {
      const { after, attempt } = settlement;
      const alone = settlement.alone === true;
      const at = after > 0 ? state.delayed : alone ? state.alone : state.ready;
      const until = after > 0 ? Math.min(never, Math.ceil(place.now + after)) : null;
      database.touched.add(place.topic);
      return database.run(giveBack, at, until, attempt, alone ? 1 : 0, number, token) === 1;
    }
    case 'deadLetter': {
      const { details } = settlement;
      const text = JSON.stringify(details);
      if (database.run(bury, place.group, details.entry, text, number, token) === 0) return false;
      return leave(database, place, handle);
    }
    case 'abandon':
      database.touched.add(place.topic);
      return database.run(abandon, number, token) === 1;
  }
}

/** The copy is done with: the next of its key may come. */
function leave(database: Database, { group, topic, ordered }: SettleIn, { number, token, key }: Handle): boolean {
  if (database.run(remove, number, token) === 0) return false;
  if (ordered && key !== undefined && freeKey(database, group, key)) database.touched.add(topic);
  return true;
}

/** Renews leases. Part of a transaction. */
export function renew(database: Database, handles: readonly Handle[], until: number): boolean[] {
  return handles.map(({ number, token }) => database.run(extend, until, number, token) === 1);
}
