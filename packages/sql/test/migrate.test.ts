import { randomUUID } from 'node:crypto';
import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { migrate, type Schema, schemaSql } from '../src/migrate.ts';
import { mysqlDatabase } from '../src/mysql.ts';
import { pgDatabase } from '../src/postgres.ts';
import type { SqlDatabase } from '../src/sql.ts';
import { sqliteDatabase } from '../src/sqlite.ts';
import { mariadb, postgres, temporaryFile } from './databases.ts';

interface Place {
  readonly database: SqlDatabase;
  readonly url: string;
  stop(): Promise<void>;
}

const places: Readonly<Record<string, () => Promise<Place>>> = {
  postgres: async () => {
    const broker = await postgres();
    const pool = new pg.Pool({ connectionString: broker.url });
    return { database: pgDatabase(pool), url: broker.url, stop: () => pool.end().then(() => broker.stop()) };
  },
  mysql: async () => {
    const broker = await mariadb();
    const pool = createPool(broker.url);
    return { database: mysqlDatabase(pool), url: broker.url, stop: () => pool.end().then(() => broker.stop()) };
  },
  sqlite: async () => {
    const file = temporaryFile();
    const database = sqliteDatabase(file.path);
    return {
      database,
      url: file.path,
      stop: async () => {
        database.close();
        file.remove();
      },
    };
  },
};

describe.each(Object.entries(places))('migrations on %s', (dialect, start) => {
  let place: Place;
  beforeAll(async () => {
    place = await start();
  }, 120_000);
  afterAll(() => place?.stop());

  const plan = (versions: number): Schema => {
    const name = `t_${randomUUID().slice(0, 8)}`;
    const add = (version: number) => [`CREATE TABLE IF NOT EXISTS ${name}_${version} (id integer PRIMARY KEY)`];
    return { name, versions: Array.from({ length: versions }, (_, at) => add(at + 1)) };
  };

  it('run once, whoever asks, and go on from where they were', async () => {
    const schema = plan(2);
    const first = { ...schema, versions: schema.versions.slice(0, 1) };
    expect(await migrate(place.database, first)).toEqual({ from: 0, to: 1 });
    expect(await migrate(place.database, first)).toEqual({ from: 1, to: 1 });
    const raced = await Promise.all(Array.from({ length: 5 }, () => migrate(place.database, schema)));
    expect(raced.filter(({ from }) => from === 1)).toHaveLength(1);
    await place.database.run(`SELECT * FROM ${schema.name}_2`);
  });

  it('refuse what a newer version has made', async () => {
    const schema = plan(2);
    await migrate(place.database, schema);
    const older = { ...schema, versions: schema.versions.slice(0, 1) };
    await expect(migrate(place.database, older)).rejects.toMatchObject({ code: 'CONFIG', field: 'schema' });
  });

  it('recognise what was made by hand', async () => {
    const schema = plan(2);
    for (const statement of schemaSql(dialect as 'postgres', schema).split(/;\n/)) {
      if (statement.trim() !== '') await place.database.run(statement);
    }
    expect(await migrate(place.database, schema)).toEqual({ from: 2, to: 2 });
  });

  it.runIf(dialect === 'postgres')('make the schema that is named', async () => {
    const schema = `s "${randomUUID().slice(0, 8)}" '$waybill$; $$ --`;
    const quoted = `"${schema.replaceAll('"', '""')}"`;
    const wanted = { name: 'x', schema, versions: [[`CREATE TABLE IF NOT EXISTS ${quoted}.x (id int)`]] };
    expect(await migrate(place.database, wanted)).toEqual({ from: 0, to: 1 });
    expect(await migrate(place.database, wanted)).toEqual({ from: 1, to: 1 });
    await place.database.run(`DROP SCHEMA ${quoted} CASCADE`);
  });

  it.runIf(dialect === 'postgres')('may be raced whatever the isolation of transactions is', async () => {
    const broker = await postgres();
    const options = '-c default_transaction_isolation=serializable';
    const pools = Array.from({ length: 4 }, () => new pg.Pool({ connectionString: broker.url, options, max: 1 }));
    try {
      const schema = { ...plan(1), schema: `raced_${randomUUID().slice(0, 8)}` };
      const raced = await Promise.all(pools.map((pool) => migrate(pgDatabase(pool), schema)));
      expect(raced.filter(({ from }) => from === 0)).toHaveLength(1);
    } finally {
      await Promise.all(pools.map((pool) => pool.end()));
      await broker.stop();
    }
  });

  it.runIf(dialect !== 'sqlite')('say who could do it when the role may not', async () => {
    const role = `r_${randomUUID().slice(0, 8)}`;
    const { database } = place;
    const url = Object.assign(new URL(place.url), { username: role, password: 'secret' }).href;
    if (dialect === 'postgres') {
      await database.run('CREATE SCHEMA IF NOT EXISTS closed');
      await database.run(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'`);
    } else {
      await database.run(`CREATE USER ${role} IDENTIFIED BY 'secret'`);
      await database.run(`GRANT SELECT ON *.* TO ${role}`);
    }
    const pool = dialect === 'postgres' ? new pg.Pool({ connectionString: url }) : createPool(url);
    try {
      const limited = dialect === 'postgres' ? pgDatabase(pool as pg.Pool) : mysqlDatabase(pool as never);
      const schema = dialect === 'postgres' ? { ...plan(1), schema: 'closed' } : plan(1);
      await expect(migrate(limited, schema)).rejects.toMatchObject({
        code: 'CONFIG',
        message: expect.stringContaining('schema()'),
      });
    } finally {
      await pool.end();
      await database.run(`DROP ${dialect === 'postgres' ? 'ROLE' : 'USER'} ${role}`);
    }
  });
});
