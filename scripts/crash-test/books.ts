/** What stands in the database at the end, and whether it agrees. */
import { accounts, type Shop } from './shop.ts';

export interface Order {
  readonly id: string;
  readonly account: string;
  readonly amount: number;
  readonly seq: number;
}

/** One effect of an event, in the order in which they were written. */
export interface Entry {
  readonly event: string;
  readonly account: string;
  readonly amount: number;
  readonly seq: number;
  readonly place: number;
  /** Where the broker had the message, and who handled it. */
  readonly stored: string;
}

/** A row of the outbox. */
export interface Posted {
  readonly entry: string;
  readonly sent: boolean;
  readonly dead: boolean;
  readonly attempts: number;
  readonly error: string | undefined;
}

export interface Books {
  readonly orders: readonly Order[];
  readonly ledger: readonly Entry[];
  readonly balances: ReadonlyMap<string, number>;
  /** By the event's id; more than one only if something is wrong. */
  readonly outbox: ReadonlyMap<string, readonly Posted[]>;
}

export async function readBooks(shop: Shop): Promise<Books> {
  const text = (value: unknown): string => String(value);
  const orders = await shop.run('SELECT id, account, amount, seq FROM orders ORDER BY account, seq');
  const ledger = await shop.run('SELECT event, account, amount, seq, place, stored FROM ledger ORDER BY place');
  const balances = await shop.run('SELECT account, balance FROM balances');
  const rows = await shop.run('SELECT message_id, id, sent_at, dead_at, attempts, last_error FROM waybill_outbox');
  const outbox = new Map<string, Posted[]>();
  for (const row of rows) {
    const of = outbox.get(text(row['message_id'])) ?? [];
    const sent = (row['sent_at'] ?? null) !== null;
    const dead = (row['dead_at'] ?? null) !== null;
    const error = row['last_error'] == null ? undefined : text(row['last_error']);
    of.push({ entry: text(row['id']), sent, dead, attempts: Number(row['attempts']), error });
    outbox.set(text(row['message_id']), of);
  }
  const common = (row: Readonly<Record<string, unknown>>) => ({
    account: text(row['account']),
    amount: Number(row['amount']),
    seq: Number(row['seq']),
  });
  return {
    orders: orders.map((row) => ({ id: text(row['id']), ...common(row) })),
    ledger: ledger.map((row) => ({
      event: text(row['event']),
      place: Number(row['place']),
      stored: text(row['stored']),
      ...common(row),
    })),
    balances: new Map(balances.map((row) => [text(row['account']), Number(row['balance'])])),
    outbox,
  };
}

/** A line for each thing that is wrong; none when the books agree. */
export function differencesIn({ orders, ledger, balances, outbox }: Books): string[] {
  const wrong: string[] = [];
  const entriesOf = Map.groupBy(ledger, ({ event }) => event);
  const committed = new Set(orders.map(({ id }) => id));
  const stands = (id: string): string => {
    const posted = (outbox.get(id) ?? []).map(
      ({ entry, sent, dead, attempts, error }) =>
        `${entry} ${dead ? 'dead' : sent ? 'sent' : 'pending'}, ${attempts} refusals${error === undefined ? '' : `, last: ${error}`}`,
    );
    const places = (entriesOf.get(id) ?? []).map(({ place, stored }) => `${place} (${stored})`);
    return `outbox: ${posted.join('; ') || 'no row'}; ledger: ${places.length > 0 ? `places ${places.join(', ')}` : 'no entry'}`;
  };
  const named = (id: string, { account, seq, amount }: Omit<Order, 'id'>): string =>
    `event ${id} (${account}, seq ${seq}, amount ${amount})`;

  for (const order of orders) {
    const { id } = order;
    const effects = entriesOf.get(id) ?? [];
    const rows = outbox.get(id)?.length ?? 0;
    if (rows !== 1) wrong.push(`${rows} rows in the outbox instead of 1 for ${named(id, order)}; ${stands(id)}`);
    if (effects.length === 0) wrong.push(`missing: ${named(id, order)}; ${stands(id)}`);
    if (effects.length > 1) wrong.push(`${effects.length} effects: ${named(id, order)}; ${stands(id)}`);
    for (const { account, amount, seq, place } of effects) {
      if (account !== order.account || amount !== order.amount || seq !== order.seq) {
        wrong.push(`changed on its way: ${named(id, order)} is ${account}, seq ${seq}, amount ${amount} at ${place}`);
      }
    }
  }
  for (const [id, [entry]] of entriesOf) {
    if (entry !== undefined && !committed.has(id)) {
      wrong.push(`never committed, yet handled: ${named(id, entry)}; ${stands(id)}`);
    }
  }
  for (const id of outbox.keys()) {
    if (!committed.has(id)) wrong.push(`in the outbox without an order: event ${id}; ${stands(id)}`);
  }

  const ordersOf = Map.groupBy(orders, ({ account }) => account);
  const ledgerOf = Map.groupBy(ledger, ({ account }) => account);
  for (const account of accounts) {
    const sum = (ordersOf.get(account) ?? []).reduce((total, { amount }) => total + amount, 0);
    const balance = balances.get(account);
    if (balance !== sum) wrong.push(`the balance of ${account} is ${balance}, and the sum of its rows ${sum}`);
    (ordersOf.get(account) ?? []).forEach(({ seq }, at) => {
      if (seq !== at + 1) wrong.push(`the test itself is wrong: row ${at + 1} of ${account} has seq ${seq}`);
    });
    const entries = ledgerOf.get(account) ?? [];
    for (const [at, entry] of entries.entries()) {
      const before = entries[at - 1];
      if (before === undefined || entry.seq > before.seq) continue;
      const around = entries
        .slice(Math.max(0, at - 5), at + 4)
        .map(({ seq, place, stored }) => `\n    seq ${seq}: place ${place} (${stored})`);
      wrong.push(
        `out of order: ${named(entry.event, entry)} came after seq ${before.seq}; ${stands(entry.event)}; as handled:${around.join('')}`,
      );
    }
  }
  return wrong;
}
