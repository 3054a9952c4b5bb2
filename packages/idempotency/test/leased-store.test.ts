import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import type { Claim } from '@waybill/core';
import { sqliteDatabase } from '@waybill/sql/sqlite';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { LeasedStore } from '../src/leased-store.ts';
import { sqliteStore } from '../src/sqlite.ts';
import { sqliteTable } from '../src/sqlite-table.ts';
import type { ClaimTable } from '../src/table.ts';
import { temporaryFile } from './places.ts';

const file = temporaryFile();
let table: ClaimTable;
beforeAll(async () => {
  await sqliteStore(file.path).migrate();
  table = sqliteTable(sqliteDatabase(file.path), '"waybill_idempotency"');
});
afterAll(() => file.remove());

const claim = (lease: number): Claim => ({ scope: 'leased', key: randomUUID(), lease, window: 60_000 });

it('does not work under a claim whose answer came after its lease', async () => {
  // The second store has to answer within it.
  const wanted = claim(2_000);
  const slow: ClaimTable = {
    ...table,
    async claim(items) {
      const answers = await table.claim(items);
      await wait(2_100);
      return answers;
    },
  };
  const never = vi.fn(async () => true);
  await expect(new LeasedStore(slow, 10_000).run(wanted, never)).rejects.toMatchObject({ code: 'CONNECTION' });
  expect(never).not.toHaveBeenCalled();
  expect(await new LeasedStore(table, 10_000).run(wanted, async () => true)).toBe('ran');
});

it('holds its claims though one renewal is never answered', async () => {
  let renewals = 0;
  const silent: ClaimTable = {
    ...table,
    // As on a connection that died without a word.
    renew: (items) => (renewals++ === 0 ? new Promise(() => {}) : table.renew(items)),
  };
  const lost = vi.fn();
  // A second is left for the renewal after the one that is not answered.
  const outcome = await new LeasedStore(silent, 10_000).run(claim(3_000), async ({ signal }) => {
    signal?.addEventListener('abort', lost);
    await wait(7_500);
    return true;
  });
  expect(outcome).toBe('ran');
  expect(lost).not.toHaveBeenCalled();
  expect(renewals).toBeGreaterThan(2);
});
