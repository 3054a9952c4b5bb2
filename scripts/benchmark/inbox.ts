import type { Bus } from '../../packages/core/dist/index.js';
import { postgresInbox } from '../../packages/idempotency/dist/postgres.js';
import type { PgTx } from '../../packages/outbox/dist/postgres.js';
import { byTurns, type Figure, figure, rate } from './measure.ts';
import { inTransaction, type Place } from './place.ts';

const CONCURRENCY = 16;
const ACCOUNTS = 1_000;
const TOPIC = 'benchmark.inbox';

/** A consumer whose handlers write through an inbox, to the same handlers with a transaction of their own. */
export async function inboxToTransaction(
  { pool, rounds }: Place,
  bus: Bus,
  broker: string,
  messages: number,
): Promise<Figure> {
  const inbox = postgresInbox(pool);
  await inbox.migrate();
  await pool.query('CREATE TABLE IF NOT EXISTS entries (id bigserial PRIMARY KEY, amount int, note text)');
  await pool.query('CREATE TABLE IF NOT EXISTS balances (account int PRIMARY KEY, amount bigint NOT NULL)');
  await pool.query(
    'INSERT INTO balances SELECT account, 0 FROM generate_series(0, $1::int - 1) account ON CONFLICT DO NOTHING',
    [ACCOUNTS],
  );
  let account = 0;
  const effect = async (tx: PgTx): Promise<void> => {
    await tx.query('INSERT INTO entries (amount, note) VALUES ($1, $2)', [1, 'hello']);
    await tx.query('UPDATE balances SET amount = amount + $1 WHERE account = $2', [1, account++ % ACCOUNTS]);
  };

  const consumed = async (within: 'inbox' | 'transaction'): Promise<number> => {
    const options = { group: 'benchmark', concurrency: CONCURRENCY };
    const done = Promise.withResolvers<void>();
    let handled = 0;
    const count = (): void => {
      if (++handled === messages) done.resolve();
    };
    const subscription =
      within === 'inbox'
        ? await bus.subscribe(TOPIC, { ...options, inbox }, async (_message, tx) => {
            await effect(tx);
            count();
          })
        : await bus.subscribe(TOPIC, options, async () => {
            await inTransaction(pool, effect);
            count();
          });
    subscription.pause();
    await Promise.all(Array.from({ length: messages }, (_, at) => bus.publish(TOPIC, { at })));
    const perSecond = await rate(messages, () => {
      subscription.resume();
      return done.promise;
    });
    await subscription.close();
    return perSecond;
  };
  const ratios = await byTurns(
    rounds,
    () => consumed('transaction'),
    () => consumed('inbox'),
  );
  await bus.removeGroup(TOPIC, 'benchmark');
  return figure(`consumer with inbox to the same transaction without, ${broker}`, ratios, { atLeast: 0.8 });
}
