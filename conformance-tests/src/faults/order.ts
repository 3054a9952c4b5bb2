import type { Delivery } from '@waybill/core';
import { sleep, systemClock } from '@waybill/core/adapter';
import { type Fault, republish, showsThrough } from './plant.ts';

/** Stands between a key and what makes it another key for the broker. */
const mark = '\u0001';

const ignoreKeys: Fault = {
  name: 'ignores keys',
  wrong: 'messages with one key go to different lanes, so two members handle them at once',
  caughtBy: ['ORD-01'],
  plant: () => {
    let count = 0;
    return {
      connection: (inner) => ({
        publish: (batch) =>
          inner.publish(
            batch.map((message) =>
              message.topic.ordered && message.key !== undefined
                ? { ...message, key: `${message.key}${mark}${count++}` }
                : message,
            ),
          ),
      }),
      receiver: (inner) =>
        showsThrough(inner, (delivery) => ({ ...delivery, key: delivery.key?.split(mark)[0] ?? delivery.key })),
    };
  },
};

const oneAtATime: Fault = {
  name: 'hands out one at a time',
  wrong: 'a member gets the next message only when it has settled the one before',
  caughtBy: ['ORD-01', 'SUB-05'],
  plant: () => ({
    receiver: (inner) => {
      const inHand = new Set<Delivery>();
      let settled = (): void => {};
      return {
        async receive(_max, finish) {
          if (inHand.size > 0) {
            await new Promise<void>((done) => {
              settled = done;
              finish.addEventListener('abort', () => done(), { once: true });
            });
            if (inHand.size > 0) return [];
          }
          const deliveries = await inner.receive(1, finish);
          for (const delivery of deliveries) inHand.add(delivery);
          return deliveries;
        },
        async settle(batch) {
          const results = await inner.settle(batch);
          for (const one of batch) inHand.delete(one.delivery);
          settled();
          return results;
        },
      };
    },
  }),
};

const redeliverLast: Fault = {
  name: 'redelivers at the tail',
  wrong: 'what a dead member held comes after the later messages of its key',
  caughtBy: ['ORD-03'],
  plant: () => {
    const moved = new Set<string>();
    return {
      receiver: (inner, { source, connection }) => ({
        async receive(max, finish) {
          const deliveries = await inner.receive(max, finish);
          const kept: Delivery[] = [];
          for (const delivery of deliveries) {
            const id = delivery.id ?? '';
            if ((delivery.deliveries ?? 1) === 1 || moved.has(id) || !source.group.topic.ordered) {
              kept.push(delivery);
              continue;
            }
            moved.add(id);
            await connection.publish([republish(source, delivery, systemClock.now())]);
            await inner.settle([{ verb: 'ack', delivery }]);
          }
          return kept;
        },
      }),
    };
  },
};

/** Milliseconds after which a message counts as slow. */
const slow = 300;

const slowBlocks: Fault = {
  name: 'lets a failing key block',
  wrong: 'a message that is not done for long keeps the other keys from being handed out',
  caughtBy: ['ORD-02'],
  plant: () => ({
    receiver: (inner) => {
      const since = new Map<string, number>();
      const blocked = (): boolean => [...since.values()].some((at) => systemClock.monotonic() - at > slow);
      return {
        async receive(_max, finish) {
          if (blocked()) await sleep(systemClock, slow, finish);
          // One at a time, so that little is in hand already when the block begins.
          const deliveries = await inner.receive(1, finish);
          for (const { id = '' } of deliveries) if (!since.has(id)) since.set(id, systemClock.monotonic());
          return deliveries;
        },
        async settle(batch) {
          for (const { verb, delivery } of batch) {
            if (verb === 'ack' || verb === 'deadLetter') since.delete(delivery.id ?? '');
          }
          return inner.settle(batch);
        },
      };
    },
  }),
};

const forgetOrder: Fault = {
  name: 'forgets that a topic is ordered',
  wrong: 'the broker does not say what a topic was declared as, so a wrong declaration goes unnoticed',
  caughtBy: ['ORD-05'],
  plant: () => ({
    connection: (inner) => ({
      async describeTopic(name) {
        return (await inner.describeTopic(name)) && { ordered: undefined, lanes: undefined };
      },
      async provision(items, mode) {
        for (const item of items) {
          const info = await inner.describeTopic(item.topic.name);
          if (info?.ordered !== undefined && info.ordered !== item.topic.ordered) return [];
          if (item.topic.lanes !== undefined && info?.lanes !== undefined && info.lanes !== item.topic.lanes) return [];
        }
        return inner.provision(items, mode);
      },
    }),
  }),
};

/** Mistakes in order. */
export const orderFaults: readonly Fault[] = [ignoreKeys, oneAtATime, redeliverLast, slowBlocks, forgetOrder];
