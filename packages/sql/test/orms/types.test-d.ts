/** What must compile, and what must not: read by the compiler, never run. */

import type { EntityManager as MikroManager, MikroORM } from '@mikro-orm/postgresql';
import { type Bus, topic } from '@waybill/core';
import { postgresInbox } from '@waybill/idempotency/postgres';
import { type Outbox, postgresOutbox } from '@waybill/outbox/postgres';
import type { NodePgDatabase } from 'drizzle-orm/node-postgres';
import type { Knex } from 'knex';
import type { ControlledTransaction, Kysely, Transaction } from 'kysely';
import type { Client, Pool, PoolClient } from 'pg';
import type { DataSource, EntityManager } from 'typeorm';
import { drizzleAdapter } from '../../src/drizzle.ts';
import { knexAdapter } from '../../src/knex.ts';
import { kyselyAdapter } from '../../src/kysely.ts';
import { mikroOrmAdapter } from '../../src/mikro-orm.ts';
import { prismaAdapter } from '../../src/prisma.ts';
import { typeormAdapter } from '../../src/typeorm.ts';
import type { PrismaClient } from './prisma.ts';

declare const pool: Pool;
declare const client: Client;
declare const bus: Bus;
const Orders = topic<{ orderId: string }>('orders');
const order = { orderId: 'o-1' };
const group = 'billing';

interface Tables {
  orders: { id: string; total: number };
}

declare const kysely: Kysely<Tables>;
declare const kyselyTx: Transaction<Tables>;
declare const controlled: ControlledTransaction<Tables>;
const overKysely = postgresOutbox(pool, { client: kyselyAdapter() });
const pinned: Outbox<Transaction<Tables>> = overKysely;
pinned.publish(kyselyTx, Orders, order);
overKysely.publish(kyselyTx, Orders, order);
overKysely.publish(controlled, Orders, order);
// @ts-expect-error outside of a transaction
overKysely.publish(kysely, Orders, order);
// @ts-expect-error a pool
overKysely.publish(pool, Orders, order);
// @ts-expect-error a wrong payload
overKysely.publish(kyselyTx, Orders, { orderId: 1 });
postgresOutbox(pool, { client: kyselyAdapter(kysely) }).publish(kyselyTx, Orders, order);
bus.subscribe(Orders, { group, inbox: postgresInbox(kyselyAdapter(kysely, { pool })) }, async (message, tx) => {
  await tx.insertInto('orders').values({ id: message.data.orderId, total: 1 }).execute();
  // @ts-expect-error no such table
  tx.insertInto('nowhere');
  await overKysely.publish(tx, Orders, order);
});
// @ts-expect-error not a Kysely
kyselyAdapter(pool);

declare const drizzle: NodePgDatabase<{ orders: never }> & { $client: Pool };
declare const drizzleOnClient: NodePgDatabase & { $client: Client };
declare const drizzleTx: Parameters<Parameters<typeof drizzle.transaction>[0]>[0];
const overDrizzle = postgresOutbox(pool, { client: drizzleAdapter() });
overDrizzle.publish(drizzleTx, Orders, order);
// @ts-expect-error outside of a transaction
overDrizzle.publish(drizzle, Orders, order);
bus.subscribe(Orders, { group, inbox: postgresInbox(drizzleAdapter(drizzle)) }, async (_message, tx) => {
  const typed: typeof drizzleTx = tx;
  await overDrizzle.publish(typed, Orders, order);
});
// @ts-expect-error one client cannot serve handlers side by side
drizzleAdapter(drizzleOnClient);

declare const knex: Knex;
declare const knexTx: Knex.Transaction<{ id: string }>;
const overKnex = postgresOutbox(pool, { client: knexAdapter() });
overKnex.publish(knexTx, Orders, order);
// @ts-expect-error outside of a transaction
overKnex.publish(knex, Orders, order);
bus.subscribe(Orders, { group, inbox: postgresInbox(knexAdapter(knex)) }, async (_message, tx) => {
  await tx('orders').insert({ id: 'o-1' });
  await overKnex.publish(tx, Orders, order);
});

declare const prisma: PrismaClient;
const overPrisma = postgresOutbox(pool, { client: prismaAdapter() });
prisma.$transaction((tx) => overPrisma.publish(tx, Orders, order));
// @ts-expect-error outside of a transaction
overPrisma.publish(prisma, Orders, order);
bus.subscribe(Orders, { group, inbox: postgresInbox(prismaAdapter(prisma)) }, async (_message, tx) => {
  await tx.order.create({ data: { id: 'o-1', total: 1 } });
  // @ts-expect-error not in a transaction
  await tx.$disconnect();
  await overPrisma.publish(tx, Orders, order);
});

declare const dataSource: DataSource;
declare const manager: EntityManager;
const overTypeorm = postgresOutbox(pool, { client: typeormAdapter() });
overTypeorm.publish(manager, Orders, order);
// @ts-expect-error not a manager
overTypeorm.publish(dataSource, Orders, order);
bus.subscribe(Orders, { group, inbox: postgresInbox(typeormAdapter(dataSource)) }, async (_message, tx) => {
  await tx.query('SELECT 1');
  await overTypeorm.publish(tx, Orders, order);
});

declare const orm: MikroORM;
declare const em: MikroManager;
const overMikroOrm = postgresOutbox(pool, { client: mikroOrmAdapter() });
overMikroOrm.publish(em, Orders, order);
// @ts-expect-error not an EntityManager
overMikroOrm.publish(orm, Orders, order);
postgresInbox(mikroOrmAdapter(em));
bus.subscribe(Orders, { group, inbox: postgresInbox(mikroOrmAdapter(orm)) }, async (_message, tx) => {
  // What only the driver's own manager has.
  await tx.execute('SELECT 1');
  await overMikroOrm.publish(tx, Orders, order);
});

declare const raw: PoolClient;
// @ts-expect-error another library's transaction
overKysely.publish(raw, Orders, order);
