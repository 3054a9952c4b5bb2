/** The database of the crash test: what the service writes, what the consumer writes, outbox and inbox beside them. */
import { mysqlInbox } from '@waybill/idempotency/mysql';
import { postgresInbox } from '@waybill/idempotency/postgres';
import { sqliteInbox } from '@waybill/idempotency/sqlite';
import type { Outbox } from '@waybill/outbox';
import { mysqlOutbox } from '@waybill/outbox/mysql';
import { postgresOutbox } from '@waybill/outbox/postgres';
import { sqliteOutbox } from '@waybill/outbox/sqlite';
import type { Dialect, SqlDatabase, SqlRunner, SqlTransactions, SqlValue } from '@waybill/sql';
import { mysqlDatabase, mysqlTransactions } from '@waybill/sql/mysql';
import { pgDatabase, pgTransactions } from '@waybill/sql/postgres';
import { sqliteDatabase, sqliteTransactions } from '@waybill/sql/sqlite';
import { createPool } from 'mysql2/promise';
import pg from 'pg';

export type DatabaseKind = 'postgres' | 'mariadb' | 'sqlite';

export interface ShopAddress {
  readonly kind: DatabaseKind;
  /** Of SQLite a path. */
  readonly url: string;
}

type ShopInbox = ReturnType<typeof postgresInbox<unknown>>;
type Row = Readonly<Record<string, unknown>>;

export interface Shop extends AsyncDisposable {
  readonly outbox: Outbox<unknown>;
  readonly inbox: ShopInbox;
  /** One statement, by itself or in a transaction, with `?` for its values. */
  run(text: string, values?: readonly SqlValue[], tx?: unknown): Promise<readonly Row[]>;
  transaction<T>(work: (tx: unknown) => Promise<T>): Promise<T>;
}

/** So few that a key often has several messages under way, and enough that keys overtake each other. */
export const accounts: readonly string[] = Array.from({ length: 12 }, (_, at) => `account-${at + 1}`);
const connections = 10;

interface Parts {
  readonly database: SqlDatabase;
  readonly transactions: SqlTransactions<unknown>;
  readonly outbox: Outbox<unknown>;
  readonly inbox: ShopInbox;
  readonly end: () => Promise<void>;
}

export function openShop(address: ShopAddress): Shop {
  const { database, transactions, outbox, inbox, end } = partsOf(address);
  const run = async (text: string, values: readonly SqlValue[] = [], tx?: unknown): Promise<readonly Row[]> => {
    const runner: SqlRunner = tx === undefined ? database : transactions.runner(tx);
    return (await runner.run(placed(database.dialect, text), values)).rows;
  };
  return {
    outbox,
    inbox,
    run,
    transaction: (work) => transactions.transaction(work),
    [Symbol.asyncDispose]: end,
  };
}

function partsOf({ kind, url }: ShopAddress): Parts {
  if (kind === 'postgres') {
    const pool = new pg.Pool({ connectionString: url, max: connections });
    return {
      database: pgDatabase(pool),
      transactions: pgTransactions(pool) as SqlTransactions<unknown>,
      outbox: postgresOutbox(pool) as Outbox<unknown>,
      inbox: postgresInbox(pool) as ShopInbox,
      end: () => pool.end(),
    };
  }
  if (kind === 'mariadb') {
    const pool = createPool({ uri: url, connectionLimit: connections });
    return {
      database: mysqlDatabase(pool),
      transactions: mysqlTransactions(pool) as SqlTransactions<unknown>,
      outbox: mysqlOutbox(pool) as Outbox<unknown>,
      inbox: mysqlInbox(pool) as ShopInbox,
      end: () => pool.end(),
    };
  }
  const [database, transactions, outbox] = [sqliteDatabase(url), sqliteTransactions(url), sqliteOutbox(url)];
  return {
    database,
    transactions: transactions as SqlTransactions<unknown>,
    outbox: outbox as Outbox<unknown>,
    inbox: sqliteInbox(url) as ShopInbox,
    end: async () => {
      for (const each of [database, transactions, outbox]) each.close();
    },
  };
}

/** PostgreSQL numbers its placeholders. */
function placed(dialect: Dialect, text: string): string {
  let count = 0;
  return dialect === 'postgres' ? text.replaceAll('?', () => `$${++count}`) : text;
}

const placeColumn: Readonly<Record<DatabaseKind, string>> = {
  postgres: 'bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
  mariadb: 'bigint AUTO_INCREMENT PRIMARY KEY',
  sqlite: 'INTEGER PRIMARY KEY AUTOINCREMENT',
};

/**
 * Makes all tables. The ledger takes an event as often as it is given one, and `place` is the order in which an account's
 * entries were written: whoever writes one has locked the balance before. `stored` says where the broker had the message.
 */
export async function furnish(shop: Shop, kind: DatabaseKind): Promise<void> {
  if (kind === 'sqlite') await shop.run('PRAGMA journal_mode = WAL');
  await shop.run('CREATE TABLE accounts (id varchar(40) PRIMARY KEY, seq integer NOT NULL)');
  await shop.run('CREATE TABLE balances (account varchar(40) PRIMARY KEY, balance integer NOT NULL)');
  const event = 'account varchar(40) NOT NULL, amount integer NOT NULL, seq integer NOT NULL';
  await shop.run(`CREATE TABLE orders (id varchar(40) PRIMARY KEY, ${event})`);
  await shop.run(
    `CREATE TABLE ledger (place ${placeColumn[kind]}, event varchar(40) NOT NULL, ${event}, stored varchar(200) NOT NULL)`,
  );
  for (const account of accounts) {
    await shop.run('INSERT INTO accounts (id, seq) VALUES (?, 0)', [account]);
    await shop.run('INSERT INTO balances (account, balance) VALUES (?, 0)', [account]);
  }
  await shop.outbox.migrate();
  await shop.inbox.migrate();
}
