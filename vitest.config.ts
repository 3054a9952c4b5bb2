import { defineConfig } from 'vitest/config';

// Unit tests of every package. The contract has a runner of its own: `npm run conformance`.
export default defineConfig({
  test: {
    include: [
      'packages/*/test/**/*.test.ts',
      'adapters/*/test/**/*.test.ts',
      'conformance-tests/test/{brokers,idle-watch}.test.ts',
    ],
    // They wait for databases and brokers more than they work; timers stay honest.
    maxWorkers: 4,
    // Disks that flush slowly and containers that start cold are no failures; what hangs is one still.
    testTimeout: 30_000,
    hookTimeout: 120_000,
  },
});
