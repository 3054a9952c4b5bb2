import assert from 'node:assert/strict';
import { WaybillError } from '@waybill/core';
import { named, type Stop, until } from './stop.ts';

export const operating: readonly Stop[] = [
  {
    what: 'lag and health',
    show: async (bus) => {
      const name = named('lag');
      await bus.provision([{ topic: name, groups: ['billing'] }]);
      await bus.publishBatch(name, [{ data: 1 }, { data: 2 }, { data: 3 }]);
      await until('three wait', async () => (await bus.lag(name, 'billing')).waiting === 3);
      const group = await bus.subscribe(name, { group: 'billing' }, () => {});
      await until('none waits', async () => (await bus.lag(name, 'billing')).waiting === 0);
      const { status, subscriptions } = await bus.health();
      assert.equal(status, 'up');
      assert.ok(subscriptions.some(({ topic, state }) => topic === name && state === 'running'));
      await group.close();
      assert.equal(group.state, 'closed');
    },
  },
  {
    what: 'seek, and groups that start in the past, where the broker keeps a log',
    show: async (bus) => {
      const name = named('seek');
      const { log } = bus.capabilities;
      if (!log.supported) {
        const refused = bus.seek(name, 'billing', 'earliest');
        await assert.rejects(
          refused,
          (error) => WaybillError.is(error, 'UNSUPPORTED') && error.message.includes(log.reason),
        );
        return;
      }
      const seen: unknown[] = [];
      const group = await bus.subscribe(name, { group: 'billing' }, ({ data }) => void seen.push(data));
      await bus.publish(name, 'hello');
      await until('it is acked', () => group.stats().acked === 1);
      await bus.seek(name, 'billing', 'earliest');
      await until('it has come again', () => seen.length === 2);
      const late: unknown[] = [];
      const options = { group: 'late', startNewGroupAt: 'earliest' } as const;
      await bus.subscribe(name, options, ({ data }) => void late.push(data));
      await until('it has come to the new group', () => late.length === 1);
    },
  },
  {
    what: 'a group can be removed',
    show: async (bus) => {
      const name = named('removed');
      await bus.provision([{ topic: name, groups: ['billing'] }]);
      await bus.removeGroup(name, 'billing');
      await assert.rejects(bus.lag(name, 'billing'), (error) => WaybillError.is(error, 'CONFIG'));
    },
  },
  {
    what: 'a mistake is named, with the field',
    show: async (bus) => {
      const wrong = bus.subscribe(named('wrong'), { group: 'billing', concurrency: 0 }, () => {});
      await assert.rejects(wrong, /concurrency/);
    },
  },
];
