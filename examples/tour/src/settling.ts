import assert from 'node:assert/strict';
import { type ConsumeMiddleware, memoryStore, PermanentError, RetryError } from '@waybill/core';
import { named, type Stop, until } from './stop.ts';

const quickly = { attempts: 3, delay: '100ms' } as const;

export const settling: readonly Stop[] = [
  {
    what: 'a handler that throws is retried, with its attempt number',
    show: async (bus) => {
      const name = named('retried');
      const attempts: number[] = [];
      const group = await bus.subscribe(name, { group: 'billing', retry: quickly }, ({ attempt }) => {
        attempts.push(attempt);
        if (attempt < 3) throw new Error(`attempt ${attempt}`);
      });
      await bus.publish(name, 'hello');
      await until('it is acked', () => group.stats().acked === 1);
      assert.deepEqual([attempts, group.stats().retried], [[1, 2, 3], 2]);
    },
  },
  {
    what: 'ack, retry and reject by hand, RetryError and PermanentError',
    show: async (bus) => {
      const name = named('by-hand');
      const group = await bus.subscribe(name, { group: 'billing', retry: quickly }, async (message) => {
        switch (message.data) {
          case 'ack':
            await message.ack();
            throw new Error('too late to matter');
          case 'retry':
            if (message.attempt === 1) await message.retry({ after: '50ms' });
            break;
          case 'retry error':
            if (message.attempt === 1) throw new RetryError({ after: '50ms' });
            break;
          case 'reject':
            await message.reject('not for us');
            break;
          default:
            throw new PermanentError('never');
        }
      });
      const data = ['ack', 'retry', 'retry error', 'reject', 'permanent'];
      await bus.publishBatch(
        name,
        data.map((one) => ({ data: one })),
      );
      await until('all are settled', () => group.stats().acked === 3 && group.stats().deadLettered === 2);
      assert.equal(group.stats().retried, 2);
    },
  },
  {
    what: 'dead letters: count, peek, redrive, purge',
    show: async (bus) => {
      const name = named('dead');
      let works = false;
      const seen: unknown[] = [];
      const retry = { attempts: 2, delay: '50ms' } as const;
      const group = await bus.subscribe(name, { group: 'billing', retry }, ({ data }) => {
        if (!works) throw new Error('out of order');
        seen.push(data);
      });
      await bus.publishBatch(
        name,
        [1, 2, 3].map((data) => ({ data, id: `m-${data}` })),
      );
      await until('they are dead letters', () => group.stats().deadLettered === 3);
      const letters = bus.deadLetters(name, 'billing');
      await until('they are counted', async () => (await letters.count()).value === 3);
      const [first] = await letters.peek({ limit: 1 });
      assert.deepEqual([first?.reason, first?.attempts, first?.error?.message], ['exhausted', 2, 'out of order']);
      works = true;
      assert.equal(await letters.purge({ where: ({ data }) => data === 1 }), 1);
      const [second] = await letters.peek({ where: ({ data }) => data === 2 });
      assert.equal(await letters.redrive({ ids: [second?.entry ?? ''] }), 1);
      assert.equal(await letters.redrive('all'), 1);
      await until('they were handled', () => seen.length === 2);
      assert.deepEqual(seen.toSorted(), [2, 3]);
    },
  },
  {
    what: 'a time-out of an attempt, and more time for it',
    show: async (bus) => {
      const name = named('slow');
      const options = { group: 'billing', timeout: '300ms', retry: { attempts: 2, delay: '50ms' } } as const;
      const group = await bus.subscribe(name, options, async (message) => {
        if (message.attempt === 1) {
          // Nobody waits for a handler whose signal has been aborted.
          await new Promise((resolve) => message.signal.addEventListener('abort', resolve));
          return;
        }
        message.extend('10s');
        await new Promise((resolve) => setTimeout(resolve, 600));
      });
      await bus.publish(name, 'hello');
      await until('it is acked', () => group.stats().acked === 1);
      assert.equal(group.stats().retried, 1);
    },
  },
  {
    what: 'what is given up can be dropped',
    show: async (bus) => {
      const name = named('dropped');
      const options = { group: 'billing', whenExhausted: 'drop', retry: { attempts: 1 } } as const;
      const group = await bus.subscribe(name, options, () => {
        throw new Error('never');
      });
      await bus.publish(name, 'hello');
      await until('it is dropped', () => group.stats().dropped === 1);
    },
  },
  {
    what: 'a message that comes twice is handled once',
    show: async (bus) => {
      const name = named('twice');
      let handled = 0;
      const group = await bus.subscribe(name, { group: 'billing', idempotency: memoryStore() }, () => {
        handled++;
      });
      for (const data of ['one', 'two']) await bus.publish(name, data, { id: 'same' });
      await until('both have come', () => group.stats().duplicates === 1);
      assert.equal(handled, 1);
    },
  },
  {
    what: 'middleware around every attempt',
    show: async (bus) => {
      const name = named('around');
      const told: string[] = [];
      const tell: ConsumeMiddleware = async (delivery, next) => {
        if (delivery.kind === 'single') told.push(`attempt ${delivery.message.attempt}`);
        await next();
        told.push('done');
      };
      await bus.subscribe(name, { group: 'billing', retry: quickly, middleware: [tell] }, ({ attempt }) => {
        if (attempt === 1) throw new Error('once');
      });
      await bus.publish(name, 'hello');
      await until('it is done', () => told.length === 3);
      assert.deepEqual(told, ['attempt 1', 'attempt 2', 'done']);
    },
  },
];
