import { type Clock, systemClock } from '@waybill/core/adapter';
import { expect, it, vi } from 'vitest';
import { Cleaner } from '../src/cleaner.ts';
import type { ClaimTable } from '../src/table.ts';

it('cleans one batch at a time, also while the database does not answer', async () => {
  let now = 0;
  const clock: Clock = { ...systemClock, monotonic: () => now };
  const answer = Promise.withResolvers<number>();
  const clean = vi.fn(() => answer.promise);
  const cleaner = new Cleaner({ clean } as Partial<ClaimTable> as ClaimTable, clock);
  for (now = 10_000; now < 100_000; now += 10_000) cleaner.nowAndThen();
  expect(clean).toHaveBeenCalledTimes(1);
  answer.resolve(0);
  await vi.waitFor(() => {
    now += 10_000;
    cleaner.nowAndThen();
    expect(clean).toHaveBeenCalledTimes(2);
  });
});

it('has nothing to do where the place cleans up by itself', () => {
  let now = 0;
  const cleaner = new Cleaner({} as ClaimTable, { ...systemClock, monotonic: () => now });
  now = 10_000;
  expect(() => cleaner.nowAndThen()).not.toThrow();
});
