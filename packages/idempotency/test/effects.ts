import type { MysqlTx } from '@waybill/sql/mysql';
import type { PgTx } from '@waybill/sql/postgres';
import type { SqliteTx } from '@waybill/sql/sqlite';

/** What a handler writes, with whatever transaction it is given. */
export async function insertEffect(tx: unknown, word: string): Promise<void> {
  const statement = `INSERT INTO effects (word) VALUES ('${word}')`;
  if (typeof tx === 'object' && tx !== null && 'exec' in tx) (tx as SqliteTx).exec(statement);
  else await (tx as Pick<PgTx & MysqlTx, 'query'>).query(statement);
}
