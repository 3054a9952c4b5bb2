import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: import.meta.dirname,
    name: 'conformance',
    include: ['test/*.test.ts'],
    // Most of what a test does is waiting for a broker.
    maxConcurrency: 8,
    teardownTimeout: 60_000,
  },
});
