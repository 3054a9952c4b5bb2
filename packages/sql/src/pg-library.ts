import type { ClientBase } from 'pg';
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
