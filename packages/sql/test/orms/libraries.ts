import { EntitySchema as MikroEntity } from '@mikro-orm/core';
import { type EntityManager as MikroManager, MikroORM } from '@mikro-orm/postgresql';
import { PrismaPg } from '@prisma/adapter-pg';
import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { integer, pgTable, text } from 'drizzle-orm/pg-core';
import knexOf, { type Knex } from 'knex';
import { Kysely, sql as kyselySql, PostgresDialect, type Transaction } from 'kysely';
import pg from 'pg';
import { DataSource, type EntityManager, EntitySchema } from 'typeorm';
import { drizzleAdapter } from '../../src/drizzle.ts';
import { knexAdapter } from '../../src/knex.ts';
import { kyselyAdapter } from '../../src/kysely.ts';
import { mikroOrmAdapter } from '../../src/mikro-orm.ts';
import { prismaAdapter } from '../../src/prisma.ts';
import type { SqlClient, SqlTransactions } from '../../src/sql.ts';
import { typeormAdapter } from '../../src/typeorm.ts';
import { type PrismaClient, prismaClient } from './prisma.ts';

/** A library with a pool of its own. */
export interface Library<Tx = unknown> {
  readonly client: SqlClient<Tx>;
  readonly transactions: SqlTransactions<Tx>;
  /** The transactions, made once more. */
  again(): SqlTransactions<Tx>;
  /** As its users begin one. */
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Writes an order, with the means of the library. */
  order(tx: Tx, id: string): Promise<unknown>;
  /** Any statement, with the means of the library. */
  query(tx: Tx, statement: string): Promise<unknown>;
  /** How its users end a transaction themselves, where they can. */
  readonly ends?: {
    commit(tx: Tx): Promise<unknown>;
    rollback(tx: Tx): Promise<unknown>;
  };
  /** What has no transaction open. */
  outside(): unknown[];
  close(): Promise<unknown>;
}

export type OpenLibrary = (url: string, connections: number) => Promise<Library>;

export const libraries: Readonly<Record<string, OpenLibrary>> = {
  kysely: async (url, connections): Promise<Library<Transaction<{ orders: { id: string; total: number } }>>> => {
    const pool = new pg.Pool({ connectionString: url, max: connections });
    const db = new Kysely<{ orders: { id: string; total: number } }>({ dialect: new PostgresDialect({ pool }) });
    return {
      client: kyselyAdapter() as SqlClient<unknown>,
      transactions: kyselyAdapter(db, { pool }),
      again: () => kyselyAdapter(db, { pool }),
      transaction: (work) => db.transaction().execute(work),
      order: (tx, id) => tx.insertInto('orders').values({ id, total: 1 }).execute(),
      query: (tx, statement) => kyselySql.raw(statement).execute(tx),
      outside: () => [db, pool],
      close: () => db.destroy(),
    };
  },

  drizzle: async (url, connections) => {
    const pool = new pg.Pool({ connectionString: url, max: connections });
    const orders = pgTable('orders', { id: text().primaryKey(), total: integer().notNull() });
    const db = drizzle({ client: pool });
    type Tx = Parameters<Parameters<typeof db.transaction>[0]>[0];
    const library: Library<Tx> = {
      client: drizzleAdapter(),
      transactions: drizzleAdapter(db),
      again: () => drizzleAdapter(db),
      transaction: (work) => db.transaction(work),
      order: (tx, id) => tx.insert(orders).values({ id, total: 1 }),
      query: (tx, statement) => tx.execute(sql.raw(statement)),
      outside: () => [db, pool],
      close: () => pool.end(),
    };
    return library;
  },

  knex: async (url, connections): Promise<Library<Knex.Transaction>> => {
    const knex = knexOf({ client: 'pg', connection: url, pool: { min: 0, max: connections } });
    return {
      client: knexAdapter(),
      transactions: knexAdapter(knex),
      again: () => knexAdapter(knex),
      transaction: (work) => knex.transaction(work),
      order: (tx, id) => tx('orders').insert({ id, total: 1 }),
      query: async (tx, statement) => tx.raw(statement),
      ends: { commit: async (tx) => tx.commit(), rollback: async (tx) => tx.rollback() },
      outside: () => [knex],
      close: () => knex.destroy(),
    };
  },

  prisma: async (url, connections) => {
    const Client = await prismaClient();
    const prisma = new Client({ adapter: new PrismaPg({ connectionString: url, max: connections }) });
    const library: Library<Parameters<Parameters<PrismaClient['$transaction']>[0]>[0]> = {
      client: prismaAdapter(),
      transactions: prismaAdapter(prisma, { maxConnections: connections }),
      again: () => prismaAdapter(prisma, { maxConnections: connections }),
      transaction: (work) => prisma.$transaction(work),
      order: (tx, id) => tx.order.create({ data: { id, total: 1 } }),
      query: (tx, statement) => tx.$executeRawUnsafe(statement),
      outside: () => [prisma],
      close: () => prisma.$disconnect(),
    };
    return library;
  },

  typeorm: async (url, connections): Promise<Library<EntityManager>> => {
    const Order = new EntitySchema<{ id: string; total: number }>({
      name: 'orders',
      columns: { id: { type: 'text', primary: true }, total: { type: 'integer' } },
    });
    const dataSource = new DataSource({ type: 'postgres', url, entities: [Order], poolSize: connections });
    await dataSource.initialize();
    return {
      client: typeormAdapter(),
      transactions: typeormAdapter(dataSource),
      again: () => typeormAdapter(dataSource),
      transaction: (work) => dataSource.transaction(work),
      order: (tx, id) => tx.insert(Order, { id, total: 1 }),
      query: (tx, statement) => tx.query(statement),
      ends: {
        commit: async (tx) => tx.queryRunner?.commitTransaction(),
        rollback: async (tx) => tx.queryRunner?.rollbackTransaction(),
      },
      outside: () => [dataSource.manager, dataSource.createQueryRunner().manager, dataSource],
      close: () => dataSource.destroy(),
    };
  },

  'mikro-orm': async (url, connections): Promise<Library<MikroManager>> => {
    const Order = new MikroEntity<{ id: string; total: number }>({
      name: 'Order',
      tableName: 'orders',
      properties: { id: { type: 'string', primary: true }, total: { type: 'number' } },
    });
    const orm = await MikroORM.init({
      clientUrl: url,
      entities: [Order],
      pool: { max: connections },
      logger: () => {},
    });
    return {
      client: mikroOrmAdapter() as SqlClient<MikroManager>,
      transactions: mikroOrmAdapter(orm),
      again: () => mikroOrmAdapter(orm),
      transaction: (work) => orm.em.fork().transactional(work),
      // Flushed by the commit.
      order: async (tx, id) => {
        tx.persist(tx.create(Order, { id, total: 1 }));
        await tx.flush();
      },
      query: (tx, statement) => tx.execute(statement),
      ends: { commit: (tx) => tx.commit(), rollback: (tx) => tx.rollback() },
      outside: () => [orm.em, orm.em.fork()],
      close: () => orm.close(),
    };
  },
};
