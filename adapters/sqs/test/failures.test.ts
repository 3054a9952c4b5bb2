import { type Bus, connect, topic } from '@waybill/core';
import {
  type AdapterContext,
  type Clock,
  type Connection,
  type Delivery,
  type Logger,
  type OutgoingMessage,
  type Receiver,
  type ReceiverEvents,
  type Source,
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
async function openAdapter(clock: Clock, logger: Logger = silent): Promise<Connection> {
  const context: AdapterContext = {
    clientName: 'test',
    names: {},
    namePrefix: '',
    topology: 'create',
    connectTimeout: 5_000,
    clock,
    logger,
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
const delayed = (deliverAt: number): OutgoingMessage => ({
  topic: plainTopic,
  id: '1',
  key: undefined,
  type: undefined,
  contentType: 'text/plain',
  body: Buffer.from('x'),
  headers: {},
  publishedAt: Date.now(),
  deliverAt,
  expiresAt: undefined,
  options: undefined,
});
const place = { topic: plainTopic, name: 'g', temporary: false };
const source = { group: place, lease: 30_000, prefetch: 10, prefetchBytes: 1_000_000, options: undefined };
const queue = 'waybill-v1-group_x_orders_x_g';
const broadcast = (name: string) => ({ topic: plainTopic, name, temporary: true });
/** A minute of sleep is a tenth of a second. */
const hasty: Clock = {
  ...systemClock,
  setTimeout: (run, ms) => systemClock.setTimeout(run, ms > 20_000 ? ms / 600 : ms),
};

async function join(connection: Connection, one: Partial<Source> = {}, events: ReceiverEvents = ignored) {
  const { group } = { ...source, ...one };
  const groups = [{ name: group.name, temporary: group.temporary, startAt: 'latest', options: undefined }] as const;
  await connection.provision([{ topic: plainTopic, groups }], 'create');
  return connection.openReceiver({ ...source, ...one }, events);
}

/** What comes, however often it is asked for. */
async function next(receiver: Receiver, max = 10): Promise<readonly Delivery[]> {
  for (;;) {
    const deliveries = await receiver.receive(max, new AbortController().signal);
    if (deliveries.length > 0) return deliveries;
  }
}

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
  });

  test('lets nobody make a queue again that was just deleted: the subscription says so', async () => {
    const bus = await open();
    const subscription = await bus.subscribe('orders', { group: 'g' }, () => {});
    aws.refuse = (action) => (action === 'CreateQueue' ? 'QueueDeletedRecently' : undefined);
    aws.deleteQueue('waybill-v1-group_x_orders_x_g');
    await vi.waitFor(() => expect(subscription.state).toBe('recovering'), { timeout: 5_000 });
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(subscription.state).toBe('running'), { timeout: 10_000 });
  });

  test('refuses expired credentials for as long as it is asked: the subscription says so', async () => {
    const bus = await open();
    const subscription = await bus.subscribe('orders', { group: 'g' }, () => {});
    aws.refuse = (action) => (action === 'ReceiveMessage' ? 'ExpiredTokenException' : undefined);
    await vi.waitFor(() => expect(subscription.state).toBe('recovering'), { timeout: 5_000 });
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(subscription.state).toBe('running'), { timeout: 8_000 });
  });

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
  });

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
    for (let tries = 1; tries <= 3; tries++) {
      await bus.publish('orders', 'x', { delay: 100 });
      await vi.waitFor(() => expect(aws.count('PublishBatch')).toBeGreaterThanOrEqual(tries), { timeout: 5_000 });
    }
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
    await vi.waitFor(() => expect(aws.size('waybill-v1-delay')).toBe(0), { timeout: 10_000 });
  });

  test('wait ten minutes from when their topic was found missing, not from their time', async () => {
    let wall = -660_500;
    let jump = 0;
    const warned: string[] = [];
    const clock = { ...systemClock, now: () => Date.now() + wall, monotonic: () => performance.now() + jump };
    const connection = await openAdapter(clock, { ...silent, warn: (text) => void warned.push(text) });
    await connection.provision([{ topic: plainTopic, groups: [] }], 'create');
    aws.deleteTopic('waybill-v1-topic_x_orders');
    aws.refuse = (action) => (action === 'ReceiveMessage' ? 'ThrottlingException' : undefined);
    await connection.publish([delayed(Date.now() - 660_000)]); // eleven minutes ago, and nobody ran since
    wall = 0;
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(aws.count('PublishBatch')).toBe(1), { timeout: 3_000 });
    await wait(200);
    expect(aws.size('waybill-v1-delay')).toBe(1);
    for (const tries of [2, 3]) {
      await wait(200); // the answer is read
      jump += 310_000;
      await connection.publish([delayed(Date.now() + 100)]);
      await vi.waitFor(() => expect(aws.count('PublishBatch')).toBe(tries), { timeout: 3_000 });
    }
    await vi.waitFor(() => expect(aws.size('waybill-v1-delay')).toBe(2), { timeout: 1_000 });
    expect(warned.filter((text) => text.includes('dropped'))).toHaveLength(1);
  });

  test('are not forwarded by a process that was stopped for so long that others have them', async () => {
    let jump = 0;
    const clock: Clock = { ...systemClock, monotonic: () => performance.now() + jump, now: () => Date.now() + jump };
    const connection = await openAdapter(clock);
    await connection.provision([{ topic: plainTopic, groups: [] }], 'create');
    expect((await connection.publish([delayed(Date.now() + 1_900)]))[0]?.status).toBe('stored');
    await vi.waitFor(() => expect(aws.received('waybill-v1-delay')).toBe(1), { timeout: 5_000, interval: 1 });
    await wait(200); // the answer is read
    jump = 60_000;
    await wait(1_500);
    expect(aws.count('PublishBatch')).toBe(0);
  });
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
    await vi.waitFor(() => expect(aws.size('waybill-v1-dead_x_steps_x_g.fifo')).toBe(messages), { timeout: 10_000 });
    const entries = await bus.deadLetters(ordered, 'g').peek();
    expect(entries.map(({ data, key }) => [data, key])).toEqual(entries.map((_, data) => [data, 'k']));
    expect(entries).toHaveLength(messages);
  });
});

describe('a walk over dead letters', () => {
  test('that stood still for longer than it hides them shows none, because others may have them', async () => {
    let jump = 0;
    const connection = await openAdapter({ ...systemClock, monotonic: () => performance.now() + jump });
    await join(connection);
    const dead = 'waybill-v1-dead_x_orders_x_g';
    aws.put(dead, 'first');
    aws.put(dead, 'second');
    for (const [stoodStill, shown] of [
      [60_000, 0],
      [0, 1],
    ] as const) {
      const scan = await connection.openDeadLetters(place);
      expect((await scan.next(1)).length).toBe(1);
      const before = aws.count('ChangeMessageVisibilityBatch');
      jump += stoodStill;
      await scan.close();
      expect(aws.count('ChangeMessageVisibilityBatch') - before).toBe(shown);
      aws.put(dead, 'third');
    }
  });
});

describe('the look after groups', () => {
  test('goes on with the others where one cannot be looked after', async () => {
    const connection = await openAdapter(hasty);
    await join(connection);
    await join(connection, { group: broadcast('b') });
    aws.refuse = (action) => (action === 'ListSubscriptionsByTopic' ? 'AuthorizationError' : undefined);
    const before = aws.count('TagQueue');
    await vi.waitFor(() => expect(aws.count('TagQueue')).toBeGreaterThan(before), { timeout: 5_000 });
  });

  test('goes on with the others while one cannot be made again', async () => {
    const connection = await openAdapter(hasty);
    await join(connection);
    await join(connection, { group: broadcast('b') });
    aws.refuse = (action) => (action === 'Subscribe' ? 'ThrottlingException' : undefined);
    aws.unsubscribe('waybill-v1-topic_x_orders', queue);
    await vi.waitFor(() => expect(aws.count('Subscribe')).toBeGreaterThan(2), { timeout: 5_000 });
    const before = aws.count('TagQueue');
    await vi.waitFor(() => expect(aws.count('TagQueue')).toBeGreaterThan(before + 3), { timeout: 2_000 });
    aws.refuse = () => undefined;
    await vi.waitFor(() => expect(aws.isSubscribed('waybill-v1-topic_x_orders', queue)).toBe(true), { timeout: 5_000 });
  });
});

describe('broadcasts', () => {
  test('whose process is gone are removed, and no others, whatever the clocks say (SUB-07)', async () => {
    const elevenMinutes = 660_000;
    const at = (offset: number): Clock => ({ ...hasty, now: () => Date.now() + offset });
    const [watcher, slow, fast] = await Promise.all(
      [0, -elevenMinutes, elevenMinutes].map((offset) => openAdapter(at(offset))),
    );
    if (watcher === undefined || slow === undefined || fast === undefined) throw new Error('three were opened');
    await join(watcher);
    await join(slow, { group: broadcast('living') });
    await join(fast, { group: broadcast('dead') });
    const topicName = 'waybill-v1-topic_x_orders';
    expect(aws.isSubscribed(topicName, 'waybill-v1-cast_x_orders_x_dead')).toBe(true);
    await fast.close(); // its receiver is not: that is how a process dies
    await vi.waitFor(() => expect(aws.hasQueue('waybill-v1-cast_x_orders_x_dead')).toBe(false), { timeout: 8_000 });
    await vi.waitFor(() => expect(aws.isSubscribed(topicName, 'waybill-v1-cast_x_orders_x_dead')).toBe(false), {
      timeout: 10_000,
    });
    expect(aws.hasQueue('waybill-v1-cast_x_orders_x_living')).toBe(true);
    expect(aws.isSubscribed(topicName, 'waybill-v1-cast_x_orders_x_living')).toBe(true);
  });
});

describe("somebody else's message at the limit", () => {
  for (const [name, size, calls] of [
    ['is retried and dead-lettered, with cut headers (DLQ-06)', 1_048_576 - 300, 2],
    ['is dead-lettered, though its copies have no room for an attempt (DLQ-06)', 1_048_576, 4],
  ] as const) {
    test(name, async () => {
      const bus = await open();
      const seen: number[] = [];
      const retry = { attempts: 2, delay: 50 };
      const subscription = await bus.subscribe('orders', { group: 'g', lease: '2s', retry }, (message) => {
        seen.push(message.body.byteLength);
        throw new Error('x'.repeat(1_000));
      });
      const header = size < 1_048_576 ? { big: 'y'.repeat(250) } : undefined;
      aws.put(queue, 'x'.repeat(size), header);
      await vi.waitFor(() => expect(aws.size('waybill-v1-dead_x_orders_x_g')).toBe(1), { timeout: 12_000 });
      await subscription.close();
      expect(seen).toEqual(Array.from({ length: calls }, () => size));
      const [letter] = await bus.deadLetters('orders', 'g').peek();
      expect(letter?.body.byteLength).toBe(size);
      await bus.deadLetters('orders', 'g').redrive('all');
      expect(aws.size('waybill-v1-dead_x_orders_x_g')).toBe(0);
      expect(aws.size(queue)).toBe(1);
      expect(aws.faults).toEqual([]);
    });
  }
});

describe('a receiver', () => {
  test('counts a lease from before it was stopped: what came meanwhile may be with others (GUAR-02)', async () => {
    let jump = 0;
    const clock = { ...systemClock, monotonic: () => performance.now() + jump };
    const receiver = await join(await openAdapter(clock), { lease: 2_000 });
    const first = next(receiver);
    await vi.waitFor(() => expect(aws.count('ReceiveMessage')).toBeGreaterThan(1), { timeout: 10_000 });
    jump = 4_000;
    aws.put(queue, 'x');
    expect((await first).map(({ deliveries }) => deliveries)).toEqual([2]);
    await receiver.close();
  });

  test('gives back at half time what nobody asks for, also of what came early', async () => {
    const receiver = await join(await openAdapter(systemClock), { lease: 4_000 });
    const now = Date.now();
    // As many as it holds: no poll is out that would bring it back to them.
    for (let n = 0; n < 10; n++) aws.put(queue, String(n), { 'waybill-deliver-at': String(now + 900) });
    expect(await next(receiver, 1)).toHaveLength(1);
    const before = aws.count('ChangeMessageVisibilityBatch');
    await vi.waitFor(() => expect(aws.count('ChangeMessageVisibilityBatch')).toBeGreaterThan(before), {
      timeout: 3_000,
    });
    await receiver.close();
  });

  test('that is closed while a message is sent on deletes the original first', async () => {
    const connection = await openAdapter(systemClock);
    const receiver = await join(connection);
    const held = Promise.withResolvers<void>();
    aws.hold = (action) => (action === 'SendMessageBatch' ? held.promise : undefined);
    const finish = new AbortController();
    const received = receiver.receive(10, finish.signal);
    aws.put(queue, 'x', { 'waybill-deliver-at': String(Date.now() + 60_000) });
    await vi.waitFor(() => expect(aws.count('SendMessageBatch')).toBe(1), { timeout: 3_000 });
    finish.abort();
    await received;
    await receiver.close();
    const closed = connection.close();
    await wait(1_500); // the polls are back
    held.resolve();
    await closed;
    expect(aws.size(queue)).toBe(1);
  });

  test('takes an ack for done whose answer a renewal has overtaken', async () => {
    const receiver = await join(await openAdapter(systemClock), { lease: 2_000 });
    aws.put(queue, 'x');
    const [delivery] = await next(receiver);
    if (delivery === undefined) throw new Error('nothing came');
    const held = Promise.withResolvers<void>();
    aws.hold = (action) => (action === 'DeleteMessageBatch' ? held.promise : undefined);
    const settled = receiver.settle([{ verb: 'ack', delivery }]);
    await vi.waitFor(() => expect(aws.size(queue)).toBe(0), { timeout: 10_000 });
    expect(await receiver.extend?.([delivery])).toEqual([undefined]);
    await wait(1_100);
    held.resolve();
    expect(await settled).toEqual(['applied']);
    await receiver.close();
  });
});
