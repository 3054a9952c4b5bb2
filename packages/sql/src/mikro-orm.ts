import type { EntityManager } from '@mikro-orm/core';
import { ConfigError, checkOptions, WaybillError } from '@waybill/core/adapter';
import { commitKysely, type KyselyTx, kyselyRunner, spoilKysely } from './kysely.ts';
import { endedByHandler, type LibraryOptions, maxConnectionsOf, notOpen, sharedBy, transactionsOf } from './library.ts';
import type { SqlClient, SqlRunner, SqlTransactions } from './sql.ts';

export interface MikroOrmOptions extends LibraryOptions {}

/**
 * Transactions of MikroORM 7 on PostgreSQL: the `EntityManager` that `em.transactional` hands over, or one after
 * `em.begin()`. With a `MikroORM` or an `EntityManager` it also begins them, for inboxes; each handler has a fork of its
 * own, and what it has changed there is flushed before the commit.
 *
 * @throws ConfigError for what is neither
 */
export function mikroOrmAdapter(): SqlClient<EntityManager>;
export function mikroOrmAdapter<Em extends EntityManager>(
  source: { readonly em: Em } | Em,
  options?: MikroOrmOptions,
): SqlTransactions<Em>;
export function mikroOrmAdapter<Em extends EntityManager>(
  source?: { readonly em: Em } | Em,
  options: MikroOrmOptions = {},
): SqlClient<EntityManager> | SqlTransactions<Em> {
  if (source === undefined) return { name: 'mikro-orm', runner };
  const em = 'em' in source ? source.em : source;
  if (typeof em?.fork !== 'function') throw new ConfigError('em', 'is neither a MikroORM nor an EntityManager');
  checkOptions(options, ['maxConnections'], '');
  const begun = new WeakMap<Em, KyselyTx>();
  const { driverOptions, pool } = em.config.getAll() as Settings;
  return sharedBy(em, {
    name: 'mikro-orm',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, driverOptions?.max ?? pool?.max),
    runner,
    transaction: transactionsOf<Em>({
      runner,
      async begin(inside) {
        let handed: Em | undefined;
        try {
          await em.fork().transactional(async (tx) => {
            handed = tx as Em;
            const context = contextOf(tx);
            if (context !== undefined) begun.set(handed, context);
            await inside(handed);
          });
        } finally {
          const context = handed && begun.get(handed);
          if (context !== undefined) {
            // Without it, what the handler does later would go to the pool and commit by itself.
            handed?.setTransactionContext(context);
            await freeBroken(context);
          }
        }
      },
      async commit(tx) {
        const context = contextOf(tx);
        if (context === undefined || context !== begun.get(tx)) throw endedByHandler();
        await tx.flush();
        return (await commitKysely(context)).committed;
      },
      spoil(tx) {
        const context = begun.get(tx);
        if (context !== undefined) spoilKysely(context);
      },
    }),
  });
}

interface Settings {
  readonly driverOptions?: { readonly max?: unknown };
  readonly pool?: { readonly max?: unknown };
}

function runner(em: EntityManager): SqlRunner {
  if (typeof em?.getTransactionContext !== 'function') throw notOpen('is not an EntityManager of MikroORM');
  const context = contextOf(em);
  if (context === undefined) throw notOpen('is an EntityManager outside of a transaction');
  if (typeof context.withoutPlugins !== 'function')
    throw new ConfigError('tx', 'is not of MikroORM 7 with its SQL drivers');
  return kyselyRunner(context);
}

function contextOf(em: EntityManager): KyselyTx | undefined {
  return em.getTransactionContext<KyselyTx>();
}

/** A controlled transaction of Kysely. */
interface Controlled extends KyselyTx {
  readonly isCommitted: boolean;
  readonly isRolledBack: boolean;
  getExecutor(): {
    provideConnection<T>(use: (connection: { executeQuery: () => Promise<unknown> }) => T): Promise<T>;
  };
  rollback(): { execute(): Promise<void> };
}

/**
 * The Kysely of MikroORM 7.2 never releases a connection that broke, because its rollback fails: the pool would become
 * smaller each time. Newer versions of Kysely do.
 */
async function freeBroken(context: KyselyTx): Promise<void> {
  const transaction = context as Controlled;
  if (transaction.isCommitted || transaction.isRolledBack) return;
  const alive = await kyselyRunner(transaction)
    .run('SELECT 1')
    .catch((error: unknown) => error);
  if (!WaybillError.is(alive, 'CONNECTION')) return;
  await transaction.getExecutor().provideConnection((connection) => {
    connection.executeQuery = async () => ({ rows: [] });
  });
  await transaction.rollback().execute();
}
