import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { mysqlInbox } from '../dist/mysql.js';
import { postgresInbox } from '../dist/postgres.js';
import { sqliteInbox } from '../dist/sqlite.js';
import { insertEffect } from './effects.ts';

/** A process that handles one message in an inbox, slowly, and can be killed or frozen meanwhile. */
const [, , kind = '', where = '', claim = '', last = ''] = process.argv;
const tell = (said: string): void => void process.send?.(said);
const inbox =
  kind === 'postgres'
    ? postgresInbox(new pg.Pool({ connectionString: where, max: 2 }))
    : kind === 'mysql'
      ? mysqlInbox(createPool({ uri: where, connectionLimit: 2 }))
      : sqliteInbox(where);

const work = async (tx: unknown): Promise<boolean> => {
  await insertEffect(tx, 'child');
  tell('working');
  await new Promise((resolve) => setTimeout(resolve, Number(last)));
  return true;
};
(inbox.run as (which: unknown, handler: typeof work) => Promise<string>)(JSON.parse(claim), work).then(
  (outcome) => tell(`ended ${outcome}`),
  () => tell('ended in an error'),
);
