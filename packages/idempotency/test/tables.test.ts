import { randomUUID } from 'node:crypto';
import type { Inbox } from '@waybill/core';
import { mysqlDatabase } from '@waybill/sql/mysql';
import { pgDatabase } from '@waybill/sql/postgres';
import { sqliteDatabase } from '@waybill/sql/sqlite';
import { createPool } from 'mysql2/promise';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { brokerFor } from '../../../conformance-tests/src/harness/broker-for.ts';
import { mysqlInbox, mysqlStore } from '../src/mysql.ts';
import { mysqlTable } from '../src/mysql-table.ts';
import { postgresInbox, postgresStore } from '../src/postgres.ts';
import { postgresTable } from '../src/postgres-table.ts';
import { sqliteStore } from '../src/sqlite.ts';
import { sqliteTable } from '../src/sqlite-table.ts';
import { type ClaimTable, claimId, type Wanted } from '../src/table.ts';
import { temporaryFile } from './places.ts';

interface Place {
  readonly table: ClaimTable;
  readonly inbox?: Inbox<never>;
  stop(): Promise<unknown>;
}

const places: Readonly<Record<string, () => Promise<Place>>> = {
  postgres: async () => {
    const broker = await brokerFor('postgres');
    const pool = new pg.Pool({ connectionString: broker.url });
    await postgresStore(pool).migrate();
    return {
      table: postgresTable(pgDatabase(pool), 'waybill_idempotency'),
      inbox: postgresInbox(pool) as never,
      stop: () => pool.end().then(() => broker.stop()),
    };
  },
  mysql: async () => {
    const broker = await brokerFor('mariadb');
    const pool = createPool(broker.url);
    await mysqlStore(pool).migrate();
    return {
      table: mysqlTable(mysqlDatabase(pool), 'waybill_idempotency'),
      inbox: mysqlInbox(pool) as never,
      stop: () => pool.end().then(() => broker.stop()),
    };
  },
  sqlite: async () => {
    const file = temporaryFile();
    await sqliteStore(file.path).migrate();
    return {
      table: sqliteTable(sqliteDatabase(file.path), '"waybill_idempotency"'),
      stop: async () => file.remove(),
    };
  },
};

/** What only a lost answer brings about. */
describe.each(Object.entries(places))('table of claims: %s', (_name, start) => {
  let place: Place;
  beforeAll(async () => {
    place = await start();
  }, 120_000);
  afterAll(() => place?.stop());

  const wanted = (key: string, token: string): Wanted => {
    const claim = { scope: 'tables', key, lease: 60_000, window: 60_000 };
    const id = claimId(claim);
    return { claim, id, name: id.toString('latin1'), token };
  };

  it('a claim that is asked for again is the same', async () => {
    const key = randomUUID();
    const mine = wanted(key, `${key}.a`);
    expect(await place.table.claim([mine])).toEqual(['won']);
    expect(await place.table.claim([wanted(key, `${key}.b`)])).toEqual(['busy']);
    expect(await place.table.claim([mine])).toEqual(['won']);
    expect(await place.table.renew([mine])).toEqual([true]);
  });

  it('one that arrives after the mark does not undo it', async () => {
    const key = randomUUID();
    const mine = wanted(key, `${key}.a`);
    await place.table.claim([mine]);
    expect(await place.table.mark([mine])).toEqual([true]);
    expect(await place.table.claim([mine])).toEqual(['duplicate']);
    expect(await place.table.mark([mine])).toEqual([false]);
    expect(await place.table.renew([mine])).toEqual([false]);
    await place.table.release([mine]);
    expect(await place.table.claim([wanted(key, `${key}.b`)])).toEqual(['duplicate']);
  });

  it('cleaning does not wait for what an inbox is at', async ({ skip }) => {
    if (place.inbox === undefined) return skip('a file has one writer at a time');
    const ended = { scope: 'tables', key: randomUUID(), lease: 60_000, window: 1 };
    const { inbox } = place;
    // So many that a server may read the whole table rather than look each up; MariaDB from a thousand on.
    const more = Array.from({ length: 1_200 }, () => ({ ...ended, key: randomUUID() }));
    const outcomes = await Promise.all([ended, ...more].map((one) => inbox.run(one, async () => true)));
    expect(new Set(outcomes)).toEqual(new Set(['ran']));
    await vi.waitFor(
      async () => {
        const outcome = await inbox.run({ ...ended, window: 60_000 }, async () => {
          await place.table.clean?.(8_000);
          return true;
        });
        expect(outcome).toBe('ran');
      },
      { timeout: 10_000 },
    );
    expect(await inbox.run(ended, async () => true)).toBe('duplicate');
  });

  it('answers stand in the order of the question', async () => {
    const keys = Array.from({ length: 6 }, () => randomUUID());
    const [a, b, c, d, e, f] = keys.map((key) => wanted(key, `${key}.a`)) as [
      Wanted,
      Wanted,
      Wanted,
      Wanted,
      Wanted,
      Wanted,
    ];
    expect(await place.table.claim([a, b, c])).toEqual(['won', 'won', 'won']);
    expect(await place.table.mark([c, a])).toEqual([true, true]);
    const others = [d, c, b, a, e].map(({ claim }) => wanted(claim.key, `${claim.key}.b`));
    expect(await place.table.claim(others)).toEqual(['won', 'duplicate', 'busy', 'duplicate', 'won']);
    expect(await place.table.renew([f, b, d])).toEqual([false, true, false]);
  });
});
