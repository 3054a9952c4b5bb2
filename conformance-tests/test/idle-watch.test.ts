import { setTimeout as wait } from 'node:timers/promises';
import { connect } from '@waybill/core';
import { expect, test, vi } from 'vitest';
import { IdleWatch } from '../src/idle-watch.ts';

test('sees a stand-still of the process, in its time alone', async () => {
  await using bus = await connect('memory:', { logger: false });
  const stop = new AbortController();
  const watch = await IdleWatch.start(bus, 'watch', stop.signal);
  const from = performance.now();
  while (performance.now() < from + 500) {
    // Nothing else runs.
  }
  const to = performance.now();
  await vi.waitFor(() => expect(watch.wasIdle(from, to)).toBe(false));
  expect(watch.wasIdle(from - 1_000, from - 500)).toBe(true);
  stop.abort();
});

test('sees a publish that takes long, also while it does', async () => {
  const stop = new AbortController();
  const held = Promise.withResolvers<void>();
  await using bus = await connect('memory:', {
    logger: false,
    middleware: {
      publish: [
        async (_message, next) => {
          if (slow) await held.promise;
          return next();
        },
      ],
    },
  });
  let slow = false;
  const watch = await IdleWatch.start(bus, 'watch', stop.signal);
  slow = true;
  const from = performance.now();
  await wait(400);
  expect(watch.wasIdle(from, performance.now())).toBe(false);
  stop.abort();
  held.resolve();
});
