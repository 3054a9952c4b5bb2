import { ConfigError } from '@waybill/core/adapter';
import type { ClientBase, Pool } from 'pg';
import { commitAndChain, endedByHandler, libraryError } from './library.ts';
import { pgClient } from './postgres.ts';
import type { SqlRunner } from './sql.ts';

/** What libraries over `pg` hold underneath. */
export type RawClient = ClientBase;

const ofPg = pgClient();

/**
 * A runner on the client that a library keeps for a transaction.
 *
 * @param client is asked before each statement, and throws when the transaction is over
 */
export function rawRunner(client: () => RawClient | Promise<RawClient>): SqlRunner {
  return {
    async run(text, values) {
      const raw = await client();
      return ofPg.runner(raw).run(text, values);
    },
  };
}

/** Commits what the library has open on the client, and resolves with whether the server did. */
export async function commitRaw(client: RawClient): Promise<boolean> {
  if (client.getTransactionStatus?.() === 'I') throw endedByHandler();
  try {
    return (await client.query(commitAndChain)).command === 'COMMIT';
  } catch (error) {
    throw libraryError(error);
  }
}

/** Cuts the connection: the server rolls back, and no later statement gets anywhere. */
export function cut(client: object): void {
  const { connection } = client as { readonly connection?: { readonly stream?: { destroy(): void } } };
  connection?.stream?.destroy();
}

const guarded = new WeakSet<object>();

/** A client in use whose server restarts would end the process, because the library does not listen to it. */
export function outliveCuts(pool: Pool): void {
  if (typeof pool?.connect !== 'function' || !('totalCount' in pool)) {
    throw new ConfigError('pool', 'is not a Pool of pg');
  }
  if (guarded.has(pool)) return;
  guarded.add(pool);
  pool.on('error', noop);
  pool.on('acquire', (client) => {
    if (guarded.has(client)) return;
    guarded.add(client);
    client.on('error', noop);
  });
}

function noop(): void {}
