/** What the three processes do. */
import { randomUUID } from 'node:crypto';
import { subscribe } from 'node:diagnostics_channel';
import { setTimeout as wait } from 'node:timers/promises';
import { type Bus, type ConnectionError, type Inbox, type PublishEvent, topic, WaybillError } from '@waybill/core';
import type { SqlValue } from '@waybill/sql';
import type { Random } from './random.ts';
import { accounts, type DatabaseKind, type Shop } from './shop.ts';

export type Role = 'service' | 'relay' | 'consumer';

/**
 * What the processes count. What one that is killed had still to tell is missing, so these are figures for the report;
 * nothing is judged by them.
 */
export type Count =
  | 'committed'
  | 'rolledBack'
  | 'interrupted'
  | 'sent'
  | 'sendFailed'
  | 'ran'
  | 'failed'
  | 'duplicate'
  | 'busy'
  | 'inboxAway';

export interface Workplace {
  readonly shop: Shop;
  readonly database: DatabaseKind;
  readonly random: Random;
  readonly connect: () => Promise<Bus>;
  readonly tell: (count: Count, by?: number) => void;
  /** Everything is there that the process needs for its work. */
  readonly ready: () => void;
  /** To end in good order. */
  readonly stopping: AbortSignal;
}

interface Booking {
  readonly account: string;
  readonly amount: number;
  readonly seq: number;
}

export const bookings = topic<Booking>('bookings', { ordered: true, key: ({ account }) => account });
export const group = 'ledger';

/** Milliseconds: short, so that a round need not wait long for what a dead process held. */
const lease = 2_000;
/** A kill counts as an attempt, and no message may be given up on because of them. */
const attempts = 10_000;

/** What was thrown on purpose, to have a transaction rolled back. */
class OnPurpose extends Error {}

export const programs: Readonly<Record<Role, (workplace: Workplace) => Promise<void>>> = { service, relay, consumer };

async function service(at: Workplace): Promise<void> {
  const pressure = { high: false };
  // One writer at a time has a file of SQLite.
  const workers = Array.from({ length: at.database === 'sqlite' ? 1 : 4 }, () => book(at, pressure));
  at.ready();
  await Promise.all([...workers, watch(at, pressure)]);
}

/** Writes orders and their events until the end. */
async function book(at: Workplace, pressure: { readonly high: boolean }): Promise<void> {
  const { random, tell, stopping } = at;
  while (!stopping.aborted) {
    if (!pressure.high) {
      try {
        tell('committed', await transact(at));
      } catch (error) {
        if (error instanceof OnPurpose) tell('rolledBack');
        else if (passes(error)) tell('interrupted');
        else throw error;
      }
    }
    await wait(random.between(10, 60));
  }
}

/** Several rows of one account, whose lock decides the order; a long transaction lets those of others overtake it. */
async function transact({ shop, random, database }: Workplace): Promise<number> {
  const account = random.pick(accounts);
  const orders = Array.from({ length: random.between(1, 4) }, () => ({
    id: randomUUID(),
    amount: random.between(-50, 100),
  }));
  const together = random.chance(0.5);
  const slow = random.chance(0.15) ? random.between(50, database === 'sqlite' ? 100 : 400) : 0;
  const undone = random.chance(0.15);
  await shop.transaction(async (tx) => {
    await shop.run('UPDATE accounts SET seq = seq + ? WHERE id = ?', [orders.length, account], tx);
    const [row] = await shop.run('SELECT seq FROM accounts WHERE id = ?', [account], tx);
    const before = Number(row?.['seq']) - orders.length;
    const events = orders.map(({ id, amount }, i) => ({ id, data: { account, amount, seq: before + i + 1 } }));
    for (const { id, data } of events) {
      const values: readonly SqlValue[] = [id, account, data.amount, data.seq];
      await shop.run('INSERT INTO orders (id, account, amount, seq) VALUES (?, ?, ?, ?)', values, tx);
      if (!together) await shop.outbox.publish(tx, bookings, data, { id });
    }
    if (together) {
      for (const result of await shop.outbox.publishBatch(tx, bookings, events)) if (!result.ok) throw result.error;
    }
    if (slow > 0) await wait(slow);
    if (undone) throw new OnPurpose();
  });
  return orders.length;
}

/** Rests while the others, who are down for half of the time, have too much to catch up with. */
async function watch({ shop, stopping }: Workplace, pressure: { high: boolean }): Promise<void> {
  while (!stopping.aborted) {
    try {
      const [row] = await shop.run(
        'SELECT (SELECT count(*) FROM orders) AS written, (SELECT count(*) FROM ledger) AS handled',
      );
      pressure.high = Number(row?.['written']) - Number(row?.['handled']) > 500;
    } catch (error) {
      if (!passes(error)) throw error;
    }
    await wait(250, undefined, { signal: stopping }).catch(() => {});
  }
}

async function relay({ shop, connect, tell, ready, stopping }: Workplace): Promise<void> {
  const bus = await connect();
  subscribe('waybill:publish', (event) => {
    tell((event as PublishEvent).error === undefined ? 'sent' : 'sendFailed');
  });
  const running = await persistently(() =>
    shop.outbox.relay(bus, {
      lease,
      pollInterval: 200,
      // So few that it reads many pages, between which transactions commit.
      maxInFlight: 40,
      maxAttempts: attempts,
      retryDelay: { initial: 100, max: 1_000 },
      // So that a failed check can say what became of each event.
      keepSent: '1d',
    }),
  );
  ready();
  await Promise.race([running.closed, aborted(stopping)]);
  await running.close();
  await bus.close();
}

async function consumer({ shop, connect, random, tell, ready, stopping }: Workplace): Promise<void> {
  const bus = await connect();
  const options = {
    group,
    inbox: counted(shop.inbox, tell),
    concurrency: Math.min(8, shop.inbox.maxConcurrency ?? 8),
    lease: Math.max(lease, bus.capabilities.lease.min),
    retry: { attempts, delay: 20 },
  };
  const subscription = await persistently(() =>
    bus.subscribe(bookings, options, async ({ id, position, attempt, data: { account, amount, seq } }, tx) => {
      await shop.run('UPDATE balances SET balance = balance + ? WHERE account = ?', [amount, account], tx);
      // So that kills fall between the two, too.
      await wait(random.between(0, 4));
      const stored = `${position ?? 'at the broker'}, attempt ${attempt} in process ${process.pid}`;
      const values: readonly SqlValue[] = [id, account, amount, seq, stored];
      await shop.run('INSERT INTO ledger (event, account, amount, seq, stored) VALUES (?, ?, ?, ?, ?)', values, tx);
      if (random.chance(0.02)) throw new OnPurpose('rolled back on purpose');
    }),
  );
  ready();
  await Promise.race([subscription.closed, aborted(stopping)]);
  await bus.close();
}

/** The inbox, with an ear at what it answers. */
function counted(inbox: Inbox<unknown>, tell: Workplace['tell']): Inbox<unknown> {
  return {
    ...inbox,
    async run(claim, work) {
      try {
        const outcome = await inbox.run(claim, work);
        tell(outcome);
        return outcome;
      } catch (error) {
        tell('inboxAway');
        throw error;
      }
    },
  };
}

/** Begins again while database or broker is away. */
async function persistently<T>(step: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await step();
    } catch (error) {
      if (!passes(error)) throw error;
    }
    await wait(100);
  }
}

function passes(error: unknown): boolean {
  if (!WaybillError.is(error)) return false;
  return error.code === 'CONNECT_TIMEOUT' || (error.code === 'CONNECTION' && (error as ConnectionError).retryable);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
