import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: import.meta.dirname,
    name: 'conformance',
    include: ['test/*.test.ts'],
    // Most of what a test does is waiting for a broker; one that is slow is asked for less at once.
    maxConcurrency: Number(process.env['WAYBILL_SIDE_BY_SIDE'] || 8),
    teardownTimeout: 60_000,
  },
});
