import { ConfigError, ConnectionError, checkOptions } from '@waybill/core/adapter';
import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { endedByHandler, type LibraryOptions, maxConnectionsOf, notOpen, sharedBy, transactionsOf } from './library.ts';
import { hangUp } from './pg-connections.ts';
import { commitRaw, type RawClient, rawRunner } from './pg-library.ts';
import type { SqlClient, SqlRunner, SqlTransactions } from './sql.ts';

export interface TypeormOptions extends LibraryOptions {}

/**
 * Transactions of TypeORM on PostgreSQL: the `EntityManager` that `dataSource.transaction` hands over, or the `manager`
 * of a query runner after `startTransaction`. With a `DataSource` it also begins them, for inboxes.
 *
 * @throws ConfigError for what is not a DataSource on PostgreSQL
 */
export function typeormAdapter(): SqlClient<EntityManager>;
export function typeormAdapter(dataSource: DataSource, options?: TypeormOptions): SqlTransactions<EntityManager>;
export function typeormAdapter(
  dataSource?: DataSource,
  options: TypeormOptions = {},
): SqlClient<EntityManager> | SqlTransactions<EntityManager> {
  if (dataSource === undefined) return { name: 'typeorm', runner };
  if (typeof dataSource?.transaction !== 'function' || typeof dataSource.createQueryRunner !== 'function') {
    throw new ConfigError('dataSource', 'is not a DataSource of TypeORM');
  }
  checkOptions(options, ['maxConnections'], '');
  if (dataSource.options.type !== 'postgres') {
    throw new ConfigError('dataSource', `speaks ${dataSource.options.type}, not postgres`);
  }
  const { driver, options: given } = dataSource as unknown as Insides;
  return sharedBy(dataSource, {
    name: 'typeorm',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, driver.master?.options?.max ?? given.extra?.max ?? given.poolSize),
    runner,
    transaction: transactionsOf<EntityManager>({
      runner,
      begin: (inside) => dataSource.transaction(inside),
      async commit(manager) {
        const raw = await connectionOf(manager);
        if (raw !== undefined) return commitRaw(raw);
        throw isLost(manager.queryRunner) ? lost() : endedByHandler();
      },
      spoil(manager) {
        const spoil = (raw: RawClient | undefined): void => {
          if (raw !== undefined) hangUp(raw);
        };
        connectionOf(manager).then(spoil, noop);
      },
    }),
  });
}

interface Insides {
  readonly driver: { readonly master?: { readonly options?: { readonly max?: unknown } } };
  readonly options: { readonly extra?: { readonly max?: unknown }; readonly poolSize?: unknown };
}

function runner(manager: EntityManager): SqlRunner {
  if (typeof manager?.transaction !== 'function') throw notOpen('is not an EntityManager of TypeORM');
  if (manager.queryRunner === undefined) throw notOpen('is an EntityManager outside of a transaction');
  if (isLost(manager.queryRunner)) throw lost();
  if (!isOpen(manager.queryRunner)) throw notOpen();
  return rawRunner(async () => {
    const raw = await connectionOf(manager);
    if (raw !== undefined) return raw;
    throw isLost(manager.queryRunner) ? lost() : notOpen('its transaction has ended');
  });
}

/** TypeORM lets go of a connection that broke. */
function isLost(queryRunner: QueryRunner | undefined): boolean {
  return queryRunner?.isTransactionActive === true && queryRunner.isReleased;
}

function isOpen(queryRunner: QueryRunner | undefined): queryRunner is QueryRunner {
  return queryRunner?.isTransactionActive === true && !queryRunner.isReleased;
}

/** `undefined` when the transaction has ended: then the connection may serve somebody else. */
async function connectionOf({ queryRunner }: EntityManager): Promise<RawClient | undefined> {
  if (!isOpen(queryRunner)) return undefined;
  const raw = (await queryRunner.connect()) as RawClient;
  return isOpen(queryRunner) ? raw : undefined;
}

function lost(): ConnectionError {
  return new ConnectionError('the connection broke while its transaction was open', { adapter: 'postgres' });
}

function noop(): void {}
