import { type Bus, connect, topic } from '@waybill/core';
import {
  type AdapterContext,
  type Clock,
  type Connection,
  type Logger,
  silent,
  systemClock,
} from '@waybill/core/adapter';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { sqs } from '../src/index.ts';
import { FakeAws } from './fake-aws.ts';

let aws: FakeAws;
let buses: Bus[];
let connections: Connection[];

beforeEach(async () => {
  aws = await FakeAws.start();
  buses = [];
  connections = [];
});

afterEach(async () => {
  aws.refuse = () => undefined;
  await Promise.all(buses.map((bus) => bus.close({ timeout: 500 })));
  await Promise.all(connections.map((connection) => connection.close()));
  await aws.stop();
});

async function open(logger: Logger | false = false): Promise<Bus> {
  const bus = await connect(`${aws.url}&pollWait=1s`, { adapters: [sqs], logger });
  buses.push(bus);
  return bus;
}

/** The adapter alone, with a clock of the test's. */
async function openAdapter(clock: Clock): Promise<Connection> {
  const context: AdapterContext = {
    clientName: 'test',
    names: {},
    namePrefix: '',
    topology: 'create',
    connectTimeout: 5_000,
    clock,
    logger: silent,
    signal: new AbortController().signal,
    events: { interrupted: () => {}, restored: () => {} },
  };
  const connection = await sqs.fromUrl(`${aws.url}&pollWait=1s`).connect(context);
  connections.push(connection);
  return connection;
}

const nothing = (): void => {};
const ignored = {
  assigned: nothing,
  revoking: async () => {},
  lost: nothing,
  interrupted: nothing,
  restored: nothing,
  positionLost: nothing,
  failed: nothing,
};
const plainTopic = { name: 'orders', ordered: false, lanes: undefined, options: undefined };
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('AWS', () => {
  test('still knows the name of a queue that was just deleted: the member does not spin', async () => {
    const bus = await open();
    const seen: unknown[] = [];
    const subscription = await bus.subscribe('orders', { group: 'g' }, ({ data }) => void seen.push(data));
    aws.refuse = (action, name) =>
      action === 'ReceiveMessage' && name === 'waybill-v1-group_x_orders_x_g' ? 'QueueDoesNotExist' : undefined;
    await vi.waitFor(() => expect(aws.count('GetQueueUrl')).toBeGreaterThan(0), { timeout: 3_000 });
    const before = aws.count('ReceiveMessage');
    await wait(2_000);
    expect(aws.count('ReceiveMessage') - before).toBeLessThan(20);
    expect(subscription.state).toBe('recovering');
    aws.refuse = () => undefined;
    await bus.publish('orders', 'later');
    await vi.waitFor(() => expect(seen).toEqual(['later']), { timeout: 12_000 });
  }, 20_000);

  test('lets nobody make a queue again that was just deleted: the subscription says so', async () => {
    const bus = await open();
    const subscription = await bus.subscribe('orders', { group: 'g' }, () => {});
    aws.refuse = (action) => (action === 'CreateQueue' ? 'QueueDeletedRecently' : undefined);
    aws.deleteQueue('waybill-v1-group_x_orders_x_g');
    await vi.waitFor(() => expect(subscription.state).toBe('recovering'), { timeout: 5_000 });
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(subscription.state).toBe('running'), { timeout: 10_000 });
  }, 20_000);

  test('refuses expired credentials for as long as it is asked: the subscription says so', async () => {
    const bus = await open();
    const subscription = await bus.subscribe('orders', { group: 'g' }, () => {});
    aws.refuse = (action) => (action === 'ReceiveMessage' ? 'ExpiredTokenException' : undefined);
    await vi.waitFor(() => expect(subscription.state).toBe('recovering'), { timeout: 5_000 });
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(subscription.state).toBe('running'), { timeout: 8_000 });
  }, 15_000);

  test('refuses what is signed by a clock that is wrong, and tells the time: connecting goes on', async () => {
    aws.ahead = 3_600_000;
    const bus = await open();
    await bus.publish('orders', 'x');
  });

  test('throttles single messages of a batch: they are published later', async () => {
    const bus = await open();
    await bus.publish('orders', 'first');
    aws.failEntries = (action) => (action === 'PublishBatch' ? 'ThrottledException' : undefined);
    setTimeout(() => {
      aws.failEntries = () => undefined;
    }, 300);
    await bus.publish('orders', 'second');
  });
});

describe('delayed publishes', () => {
  test('are forwarded by members after their queue was deleted', async () => {
    const [member, publisher] = [await open(), await open()];
    const seen: unknown[] = [];
    await member.subscribe('orders', { group: 'g' }, ({ data }) => void seen.push(data));
    aws.deleteQueue('waybill-v1-delay');
    await wait(1_500); // the forwarder of the member has noticed
    await publisher.publish('orders', 'delayed', { delay: 2_000 });
    await publisher.close({ timeout: 100 });
    await vi.waitFor(() => expect(seen).toEqual(['delayed']), { timeout: 8_000 });
  }, 20_000);

  test('that find no queue make it again, and say nothing of the topic', async () => {
    const warned: string[] = [];
    const bus = await open({ ...silent, warn: (text) => void warned.push(text) });
    await bus.subscribe('orders', { group: 'g' }, () => {});
    await bus.publish('orders', 'first', { delay: 60_000 });
    aws.deleteQueue('waybill-v1-delay');
    await bus.publish('orders', 'second', { delay: 60_000 });
    expect(aws.size('waybill-v1-delay')).toBe(1);
    expect(warned).toEqual([]);
  });

  test('that the topic refuses are told about once', async () => {
    const warned: string[] = [];
    const bus = await open({ ...silent, warn: (text) => void warned.push(text) });
    await bus.subscribe('orders', { group: 'g' }, () => {});
    aws.refuse = (action) => (action === 'PublishBatch' ? 'AuthorizationError' : undefined);
    for (const delay of [100, 200, 300]) await bus.publish('orders', 'x', { delay });
    await vi.waitFor(() => expect(aws.count('PublishBatch')).toBe(3), { timeout: 3_000 });
    expect(warned).toEqual(['sqs: delayed messages for topic "orders" cannot be forwarded, tried again']);
  });

  test('wait for a topic that is deleted and made again', async () => {
    const bus = await open();
    await bus.publish('orders', 'x', { delay: 1_000 });
    aws.deleteTopic('waybill-v1-topic_x_orders');
    await vi.waitFor(() => expect(aws.count('PublishBatch')).toBe(1), { timeout: 3_000 });
    await wait(300);
    expect(aws.size('waybill-v1-delay')).toBe(1);
    await bus.provision([{ topic: 'orders', groups: ['g'] }]);
    await vi.waitFor(() => expect(aws.size('waybill-v1-group_x_orders_x_g')).toBe(1), { timeout: 13_000 });
    await vi.waitFor(() => expect(aws.size('waybill-v1-delay')).toBe(0));
  }, 20_000);

  test('are not forwarded by a process that was stopped for so long that others have them', async () => {
    let jump = 0;
    const clock: Clock = { ...systemClock, monotonic: () => performance.now() + jump, now: () => Date.now() + jump };
    const connection = await openAdapter(clock);
    await connection.provision([{ topic: plainTopic, groups: [] }], 'create');
    const message = {
      topic: plainTopic,
      id: '1',
      key: undefined,
      type: undefined,
      contentType: 'text/plain',
      body: Buffer.from('x'),
      headers: {},
      publishedAt: Date.now(),
      deliverAt: Date.now() + 1_900,
      expiresAt: undefined,
      options: undefined,
    };
    expect((await connection.publish([message]))[0]?.status).toBe('stored');
    await wait(1_400); // it was received after one second
    jump = 60_000;
    await wait(1_500);
    expect(aws.count('PublishBatch')).toBe(0);
  }, 15_000);
});

describe('dead letters of an ordered topic', () => {
  test('are all shown, however many have the same key', async () => {
    const bus = await open();
    const ordered = topic<number>('steps', { ordered: true, key: () => 'k' });
    const messages = 15;
    let calls = 0;
    await bus.subscribe(ordered, { group: 'g' }, async (message) => {
      calls++;
      await message.reject();
    });
    await bus.publishBatch(
      ordered,
      Array.from({ length: messages }, (_, data) => ({ data, key: 'k' })),
    );
    await vi.waitFor(() => expect(calls).toBe(messages), { timeout: 5_000 });
    await vi.waitFor(() => expect(aws.size('waybill-v1-dead_x_steps_x_g.fifo')).toBe(messages));
    const entries = await bus.deadLetters(ordered, 'g').peek();
    expect(entries.map(({ data, key }) => [data, key])).toEqual(entries.map((_, data) => [data, 'k']));
    expect(entries).toHaveLength(messages);
  }, 15_000);
});

describe('the look after groups', () => {
  test('goes on with the others where one cannot be looked after', async () => {
    // A minute is half a second.
    const clock: Clock = {
      ...systemClock,
      setTimeout: (run, ms) => systemClock.setTimeout(run, ms > 20_000 ? ms / 120 : ms),
    };
    const connection = await openAdapter(clock);
    const group = (name: string, temporary: boolean) => ({ topic: plainTopic, name, temporary });
    for (const one of [group('g', false), group('b', true)]) {
      const groups = [{ name: one.name, temporary: one.temporary, startAt: 'latest', options: undefined }] as const;
      await connection.provision([{ topic: plainTopic, groups }], 'create');
      const source = { group: one, lease: 30_000, prefetch: 1, prefetchBytes: 1_000_000, options: undefined };
      await connection.openReceiver(source, ignored);
    }
    aws.refuse = (action) => (action === 'ListSubscriptionsByTopic' ? 'AuthorizationError' : undefined);
    const before = aws.count('TagQueue');
    await vi.waitFor(() => expect(aws.count('TagQueue')).toBeGreaterThan(before), { timeout: 5_000 });
  }, 10_000);
});
