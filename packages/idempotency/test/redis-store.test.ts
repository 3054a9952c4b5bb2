import { Redis } from 'ioredis';
import { startForTest } from '../../../conformance-tests/src/brokers/start.ts';
import { redisStore } from '../src/redis.ts';
import { defineIdempotencyStoreSuite } from '../src/suite.ts';
import { openIn } from './places.ts';

// A container of its own, because it is killed.
defineIdempotencyStoreSuite('redis', async () => {
  const broker = await startForTest('redis');
  const clients: Redis[] = [];
  const client = (): Redis => {
    const made = new Redis(broker.url);
    // Without a listener ioredis prints each failure to reconnect.
    made.on('error', () => {});
    clients.push(made);
    return made;
  };
  const asking = client();
  return {
    open: () => redisStore(client(), { timeout: '3s' }),
    otherProcess: openIn('redis', broker.url),
    outage: { stop: () => broker.kill(), start: () => broker.restart() },
    entries: () => asking.dbsize(),
    close: async () => {
      for (const one of clients) one.disconnect();
      await broker.stop();
    },
  };
});
