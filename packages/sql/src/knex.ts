import { ConfigError, checkOptions } from '@waybill/core/adapter';
import type { Knex } from 'knex';
import { endedByHandler, type LibraryOptions, maxConnectionsOf, notOpen, sharedBy, transactionsOf } from './library.ts';
import { hangUp } from './pg-connections.ts';
import { commitRaw, type RawClient, rawRunner } from './pg-library.ts';
import type { SqlClient, SqlRunner, SqlTransactions } from './sql.ts';

export interface KnexOptions extends LibraryOptions {}

/**
 * Transactions of Knex on PostgreSQL. With a `Knex` it also begins them, for inboxes.
 *
 * @throws ConfigError for what is not a Knex on PostgreSQL
 */
export function knexAdapter(): SqlClient<Knex.Transaction>;
export function knexAdapter(knex: Knex, options?: KnexOptions): SqlTransactions<Knex.Transaction>;
export function knexAdapter(
  knex?: Knex,
  options: KnexOptions = {},
): SqlClient<Knex.Transaction> | SqlTransactions<Knex.Transaction> {
  if (knex === undefined) return { name: 'knex', runner };
  if (typeof knex?.transaction !== 'function') throw new ConfigError('knex', 'is not a Knex');
  if (knex.isTransaction === true) throw new ConfigError('knex', 'is a transaction; give the Knex that begins them');
  checkOptions(options, ['maxConnections'], '');
  const client = clientOf(knex, 'knex');
  return sharedBy(knex, {
    name: 'knex',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, client.pool?.max ?? client.config?.pool?.max),
    runner,
    transaction: transactionsOf<Knex.Transaction>({
      runner,
      begin: (inside) => knex.transaction(inside),
      async commit(trx) {
        const raw = await clientOf(trx, 'tx').acquireConnection();
        // A transaction that the handler has ended gave its connection back.
        if (trx.isCompleted()) throw endedByHandler();
        return commitRaw(raw);
      },
      spoil(trx) {
        const spoil = (raw: RawClient): void => {
          if (!trx.isCompleted()) hangUp(raw);
        };
        clientOf(trx, 'tx').acquireConnection().then(spoil, noop);
      },
    }),
  });
}

function runner(trx: Knex.Transaction): SqlRunner {
  if (trx?.isTransaction !== true || typeof trx.isCompleted !== 'function') {
    throw notOpen('is not a transaction of Knex');
  }
  refuseCompleted(trx);
  const client = clientOf(trx, 'tx');
  return rawRunner(async () => {
    const raw = await client.acquireConnection();
    refuseCompleted(trx);
    return raw;
  });
}

function refuseCompleted(trx: Knex.Transaction): void {
  if (trx.isCompleted()) throw notOpen('its transaction has ended');
}

/** What Knex has underneath; its types leave that open. */
interface KnexClient {
  readonly driverName?: string;
  readonly pool?: { readonly max?: unknown };
  readonly config?: { readonly pool?: { readonly max?: unknown } };
  /** In a transaction always the same one. */
  acquireConnection(): Promise<RawClient>;
}

function clientOf(knex: Knex, field: string): KnexClient {
  const client = knex.client as KnexClient;
  if (client.driverName !== 'pg') {
    throw new ConfigError(field, `is a Knex on ${client.driverName ?? 'another database'}, not on pg`);
  }
  return client;
}

function noop(): void {}
