import { type Bus, connect } from '@waybill/core';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { sqs } from '../src/index.ts';
import { FakeAws } from './fake-aws.ts';

let aws: FakeAws;
let buses: Bus[];

beforeEach(async () => {
  aws = await FakeAws.start();
  buses = [];
});

afterEach(async () => {
  await Promise.all(buses.map((bus) => bus.close({ timeout: 500 })));
  await aws.stop();
});

async function open(): Promise<Bus> {
  const bus = await connect(`${aws.url}&pollWait=1s`, { adapters: [sqs], logger: false });
  buses.push(bus);
  return bus;
}

/** Counts what the SDK sends, as anybody can who wants to know. */
function count(bus: Bus): Map<string, number> {
  const counts = new Map<string, number>();
  const { sqs: queues, sns: topics } = bus.native('sqs' as never) as { sqs: Stack; sns: Stack };
  for (const client of [queues, topics]) {
    client.middlewareStack.add(
      (next, { commandName = '' }) =>
        (args) => {
          counts.set(commandName, (counts.get(commandName) ?? 0) + 1);
          return next(args);
        },
      { step: 'initialize', name: 'count' },
    );
  }
  return counts;
}

interface Stack {
  readonly middlewareStack: {
    add(
      middleware: (
        next: (args: unknown) => Promise<unknown>,
        context: { commandName?: string },
      ) => (args: unknown) => Promise<unknown>,
      options: { step: 'initialize'; name: string },
    ): void;
  };
}

describe('requests', () => {
  test('per message are a few tenths under load, for all that happens to it', async () => {
    const bus = await open();
    const messages = 2_000;
    const seen = new Set<unknown>();
    await bus.subscribe('orders', { group: 'g', concurrency: 100 }, ({ data }) => void seen.add(data));
    const counts = count(bus);
    const results = await bus.publishBatch(
      'orders',
      Array.from({ length: messages }, (_, data) => ({ data })),
    );
    expect(results.every(({ ok }) => ok)).toBe(true);
    await vi.waitFor(() => expect(seen.size).toBe(messages), { timeout: 20_000, interval: 20 });
    await bus.idle();
    const per = (name: string): number => (counts.get(`${name}Command`) ?? 0) / messages;
    expect(per('PublishBatch')).toBeLessThanOrEqual(0.11);
    expect(per('ReceiveMessage')).toBeLessThanOrEqual(0.2);
    expect(per('DeleteMessageBatch')).toBeLessThanOrEqual(0.2);
    expect(per('SendMessageBatch')).toBe(0);
    expect(aws.faults).toEqual([]);
  }, 40_000);

  test('while there is nothing to do are one poll of the group and one of the delays at a time', async () => {
    const bus = await open();
    await bus.subscribe('orders', { group: 'g' }, () => {});
    const before = aws.count('ReceiveMessage');
    const started = Date.now();
    await new Promise((resolve) => setTimeout(resolve, 3_300));
    const seconds = (Date.now() - started) / 1_000;
    // pollWait is a second here; the third is the look for messages that were set apart, twice a lease of 30 s.
    expect(aws.count('ReceiveMessage') - before).toBeLessThanOrEqual(2 * Math.ceil(seconds) + 2);
    expect(aws.count('GetQueueAttributes', 'ChangeMessageVisibilityBatch', 'ListQueueTags')).toBe(0);
  }, 15_000);

  test('keep to limits that only AWS itself has: bytes and counts of batches, attributes, bodies, delays', async () => {
    const bus = await open();
    const seen: { readonly body: Uint8Array; readonly headers: object }[] = [];
    await bus.subscribe('orders', { group: 'g', retry: { attempts: 2, delay: '3h' } }, (message) => {
      seen.push(message);
      if (message.headers['fail'] !== undefined) throw new Error('later');
    });
    const headers = Object.fromEntries(Array.from({ length: 64 }, (_, n) => [`h${n}`, n % 9 === 0 ? '' : 'v\u0000']));
    const largest = new Uint8Array(bus.capabilities.maxMessageBytes);
    const data = [new Uint8Array(0), new Uint8Array([0, 1, 255]), ...Array.from({ length: 12 }, () => largest)];
    const results = await bus.publishBatch(
      'orders',
      data.map((one) => ({ data: one, headers })),
    );
    expect(results.filter(({ ok }) => !ok)).toEqual([]);
    await bus.publish('orders', 'fails', { headers: { fail: 'yes' } });
    await bus.publish('orders', 'later', { delay: '2d' });
    await vi.waitFor(() => expect(seen.length).toBe(data.length + 1), { timeout: 10_000, interval: 20 });
    expect(seen.filter(({ body }) => body.byteLength === largest.byteLength)).toHaveLength(12);
    expect(Object.keys(seen[0]?.headers ?? {})).toHaveLength(64);
    expect(aws.faults).toEqual([]);
  }, 30_000);

  test('of a member that leaves are not cut off: a poll that is out brings its messages back', async () => {
    const [bus, other] = [await open(), await open()];
    const first = await bus.subscribe('orders', { group: 'g', lease: '1h' }, () => {});
    await first.close();
    // The poll of the closed subscription is still out, and is the first to be served.
    await bus.publish('orders', 'for the other');
    const seen: unknown[] = [];
    await other.subscribe('orders', { group: 'g', lease: '1h' }, ({ data }) => void seen.push(data));
    await vi.waitFor(() => expect(seen).toEqual(['for the other']), { timeout: 5_000, interval: 20 });
  }, 15_000);
});
