import assert from 'node:assert/strict';
import { consumer, type Subscription, topic } from '@waybill/core';
import { named, type Stop, until } from './stop.ts';

/** A consumer of its own module: it does nothing until a bus subscribes it. */
const audited: unknown[] = [];
const audit = consumer(named('audited'), { group: 'audit', concurrency: 2 }, ({ data }) => {
  audited.push(data);
});

export const consuming: readonly Stop[] = [
  {
    what: 'a consumer declared apart from the bus',
    show: async (bus) => {
      await bus.provision([audit]);
      await bus.publish(audit.topic, 'before anybody reads');
      await bus.subscribe(audit);
      await until('it is there', () => audited.length === 1);
    },
  },
  {
    what: 'every group gets every message',
    show: async (bus) => {
      const name = named('groups');
      const seen: Record<string, unknown[]> = { billing: [], shipping: [] };
      for (const group of Object.keys(seen)) {
        await bus.subscribe(name, { group }, ({ data }) => {
          seen[group]?.push(data);
        });
      }
      await bus.publish(name, 'hello');
      await until('both have it', () => Object.values(seen).every((data) => data.length === 1));
    },
  },
  {
    what: 'a broadcast: every subscription gets every message',
    show: async (bus) => {
      const name = named('broadcast');
      const seen: unknown[][] = [[], []];
      const listeners: Subscription[] = [];
      for (const mine of seen) {
        listeners.push(await bus.subscribe(name, { broadcast: true }, ({ data }) => void mine.push(data)));
      }
      await bus.publish(name, 'hello');
      await until('both have it', () => seen.every((data) => data.length === 1));
      for (const listener of listeners) await listener.close();
    },
  },
  {
    what: 'handlers of batches',
    show: async (bus) => {
      const name = named('batches');
      const sizes: number[] = [];
      const batch = { size: 10, wait: '200ms' } as const;
      const group = await bus.subscribeBatch(name, { group: 'billing', batch, concurrency: 1 }, (messages) => {
        sizes.push(messages.length);
      });
      await bus.publishBatch(
        name,
        Array.from({ length: 25 }, (_, data) => ({ data })),
      );
      await until('all are acked', () => group.stats().acked === 25);
      assert.ok(Math.max(...sizes) > 1 && Math.max(...sizes) <= 10, `batches of ${sizes}`);
    },
  },
  {
    what: 'messages as a stream',
    show: async (bus) => {
      const name = named('stream');
      await using stream = await bus.messages(name, { group: 'billing' });
      await bus.publishBatch(name, [{ data: 1 }, { data: 2 }, { data: 3 }]);
      let sum = 0;
      for await (const message of stream) {
        sum += Number(message.data);
        await message.ack();
        if (sum === 6) break;
      }
      assert.equal(stream.stats().acked, 3);
    },
  },
  {
    what: 'pause and resume',
    show: async (bus) => {
      const name = named('paused');
      const seen: unknown[] = [];
      const group = await bus.subscribe(name, { group: 'billing' }, ({ data }) => void seen.push(data));
      await group.pause();
      await bus.publish(name, 'hello');
      const { waiting, inFlight } = await bus.lag(name, 'billing');
      assert.ok(waiting + inFlight <= 1);
      assert.deepEqual([group.state, seen], ['paused', []]);
      await group.resume();
      await until('it is there', () => seen.length === 1);
    },
  },
  {
    what: 'order by key',
    show: async (bus) => {
      const Steps = topic<{ order: string; step: number }>(named('ordered'), {
        ordered: true,
        key: ({ order }) => order,
      });
      const seen = new Map<string, number[]>();
      let failed = false;
      const retry = { attempts: 3, delay: '100ms' } as const;
      const group = await bus.subscribe(Steps, { group: 'billing', retry }, ({ data: { order, step } }) => {
        // A failing message holds back its own key, and no other.
        if (order === 'o-1' && step === 2 && !failed) {
          failed = true;
          throw new Error('once');
        }
        seen.set(order, [...(seen.get(order) ?? []), step]);
      });
      for (const step of [1, 2, 3, 4]) {
        for (const order of ['o-1', 'o-2']) await bus.publish(Steps, { order, step });
      }
      await until('all are acked', () => group.stats().acked === 8);
      assert.deepEqual(
        [seen.get('o-1'), seen.get('o-2')],
        [
          [1, 2, 3, 4],
          [1, 2, 3, 4],
        ],
      );
    },
  },
];
