import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Adapter, AdapterContext, Connection, Delivery, Receiver } from '../src/adapter.ts';
import { connect } from '../src/connect.ts';
import { ConnectionError, LeaseLostError } from '../src/errors.ts';
import { type IdempotencyStore, memoryStore } from '../src/idempotency.ts';
import { memory } from '../src/memory/index.ts';
import type { StandardSchema } from '../src/schema.ts';
import { topic } from '../src/topic.ts';
import type { Bus, BusOptions, SubscribeOptions } from '../src/types.ts';
import { FakeClock, settled } from './fake-clock.ts';

const away = new ConnectionError('the broker is away', { adapter: 'memory', retryable: true });
const never = new Promise<never>(() => {});

const buses: Bus[] = [];
afterEach(async () => {
  for (const bus of buses.splice(0)) await bus.close({ timeout: 0 });
});

/** A bus on the embedded broker, with some of its calls replaced. */
async function open(
  change: (connection: Connection, context: AdapterContext) => Partial<Connection>,
  options: BusOptions = {},
): Promise<Bus> {
  const inner = memory();
  const adapter: Adapter = {
    name: inner.name,
    target: inner.target,
    connect: async (context) => {
      const connection = await inner.connect(context);
      return changed(connection, change(connection, context));
    },
  };
  const bus = await connect(adapter, { logger: false, ...options });
  buses.push(bus);
  return bus;
}

/** The same object, with some of what it has replaced. */
function changed<T extends object>(whole: T, change: Partial<T>): T {
  return new Proxy(whole, {
    get(target, name) {
      if (name in change) return change[name as keyof T];
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

async function timed<T>(work: Promise<T>): Promise<{ readonly took: number; readonly code: unknown }> {
  const started = performance.now();
  const code = await work.then(
    () => undefined,
    (error: unknown) => (error as { code?: unknown }).code,
  );
  return { took: performance.now() - started, code };
}

describe('a publish ends within its time (PUB-06)', () => {
  test('while its topic is asked for and the answer is lost; later ones ask anew', async () => {
    let lost = true;
    const bus = await open(
      (connection) => ({ describeTopic: (name) => (lost ? never : connection.describeTopic(name)) }),
      { publishTimeout: 300 },
    );
    const { took, code } = await timed(bus.publish('t', 1));
    expect(code).toBe('PUBLISH_TIMEOUT');
    expect(took).toBeLessThan(1_000);
    lost = false;
    await bus.publish('t', 2);
    await bus.subscribe('t', { group: 'g' }, () => {});
  });

  test('behind a schema that takes longer, and at once when it is cancelled', async () => {
    const schema: StandardSchema<string, string> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) => (value === 'hangs' ? never : { value: value as string }),
      },
    };
    const bus = await open(() => ({}), { publishTimeout: 400 });
    const Slow = topic('t', { schema });
    await bus.publish(Slow, 'first');
    const cancel = new AbortController();
    const hangs = timed(bus.publish(Slow, 'hangs'));
    const behind = timed(bus.publish(Slow, 'quick'));
    const cancelled = timed(bus.publish(Slow, 'quick', { signal: cancel.signal }));
    cancel.abort();
    expect((await cancelled).took).toBeLessThan(300);
    expect(await hangs).toMatchObject({ code: 'PUBLISH_TIMEOUT' });
    // Those behind it go on; nothing stands in the way of the topic for ever.
    await behind;
    await bus.publish(Slow, 'later');
  });
});

test('close does not spin while a publish still asks for its topic', async () => {
  let down = false;
  let asks = 0;
  const bus = await open(
    (connection) => ({
      describeTopic: (name) => {
        if (!down) return connection.describeTopic(name);
        asks++;
        return Promise.reject(away);
      },
      publish: (batch) => (down ? never : connection.publish(batch)),
    }),
    { publishTimeout: 5_000 },
  );
  await bus.publish('known', 1);
  down = true;
  const publishes = [timed(bus.publish('known', 2)), timed(bus.publish('new', 1))];
  await vi.waitFor(() => expect(asks).toBeGreaterThan(0), { timeout: 10_000 });
  const before = asks;
  expect((await timed(bus.close({ timeout: 200 }))).took).toBeLessThan(2_000);
  expect(asks - before).toBeLessThan(20);
  for (const publish of publishes) expect((await publish).code).toMatch(/PUBLISH_TIMEOUT|CLOSED/);
});

describe('a broker that refuses every receive', () => {
  const refusing = (refuses: () => boolean) => (connection: Connection) => ({
    openReceiver: async (...args: Parameters<Connection['openReceiver']>): Promise<Receiver> => {
      const receiver = await connection.openReceiver(...args);
      const receive: Receiver['receive'] = (...given) =>
        refuses() ? Promise.reject(new Error('refused')) : receiver.receive(...given);
      return changed(receiver, { receive });
    },
  });

  test('shows in the health for as long as it lasts, and no longer', async () => {
    let refuses = true;
    const bus = await open(refusing(() => refuses));
    const seen: unknown[] = [];
    await bus.subscribe('t', { group: 'g' }, ({ data }) => seen.push(data));
    const status = async (): Promise<string> => (await bus.health()).status;
    await vi.waitFor(async () => expect(await status()).toBe('degraded'), 5_000);
    // Longer than the first waits between two tries.
    for (let looks = 0; looks < 25; looks++) {
      await wait(100);
      expect(await status()).toBe('degraded');
    }
    refuses = false;
    await bus.publish('t', 1);
    await vi.waitFor(async () => expect([seen, await status()]).toEqual([[1], 'up']), 10_000);
  }, 20_000);

  test('does not hold up the close', async () => {
    const bus = await open(refusing(() => true));
    await bus.subscribe('t', { group: 'g' }, () => {});
    await vi.waitFor(async () => expect((await bus.health()).status).toBe('degraded'), 5_000);
    expect((await timed(bus.close())).took).toBeLessThan(1_000);
  });
});

test('ORD-01 a message that a pause catches before its handler stays before its followers', async () => {
  const gate = Promise.withResolvers<void>();
  const inner = memoryStore();
  let asked = 0;
  const store: IdempotencyStore = {
    run: async (claim, work) => {
      asked++;
      await gate.promise;
      return inner.run(claim, work);
    },
  };
  // A broker that hands out whole lanes, and what comes back at its old place, as Kafka does.
  const lane = ['1', '2'].map(
    (data): Delivery => ({
      lane: '0',
      id: data,
      key: 'k',
      type: undefined,
      contentType: 'application/json',
      body: new TextEncoder().encode(data),
      headers: {},
      publishedAt: undefined,
      expiresAt: undefined,
      attempt: 1,
      deliveries: undefined,
      position: undefined,
      native: undefined,
    }),
  );
  const receive: Receiver['receive'] = async (max, finish) => {
    const taken = lane.splice(0, max);
    if (taken.length === 0) await new Promise((resolve) => finish.addEventListener('abort', resolve));
    return taken;
  };
  const settle: Receiver['settle'] = async (batch) => {
    for (const { verb, delivery } of batch) if (verb === 'abandon') lane.unshift(delivery);
    return batch.map(() => 'applied');
  };
  const handsOutLanes = (connection: Connection): Partial<Connection> => ({
    capabilities: {
      ...connection.capabilities,
      lease: { ...connection.capabilities.lease, kind: 'lane' },
      orderedAttempts: { supported: false, reason: 'a test' },
    },
    openReceiver: async (...args) => changed(await connection.openReceiver(...args), { receive, settle }),
  });
  const bus = await open(handsOutLanes, { idempotency: store });
  const Steps = topic<number>('steps', { ordered: true, key: () => 'k' });
  const seen: number[] = [];
  const subscription = await bus.subscribe(Steps, { group: 'g' }, ({ data }) => seen.push(data));
  await vi.waitFor(() => expect([asked, subscription.stats().buffered]).toEqual([1, 1]), { timeout: 10_000 });
  await subscription.pause();
  gate.resolve();
  await vi.waitFor(() => expect(subscription.stats().inFlight).toBe(0), { timeout: 10_000 });
  await settled();
  expect(seen).toEqual([]);
  await subscription.resume();
  await vi.waitFor(() => expect(seen).toHaveLength(2), 3_000);
  expect(seen).toEqual([1, 2]);
});

test('LIFE-01 a close does not wait for a settlement that has ended after its message was lost', async () => {
  const answer = Promise.withResolvers<void>();
  let lose: (() => void) | undefined;
  const bus = await open((connection) => ({
    openReceiver: async (source, events) => {
      const receiver = await connection.openReceiver(source, events);
      const settle: Receiver['settle'] = async (batch) => {
        const lanes = batch.map(({ delivery }) => delivery.lane);
        lose = () => events.lost(lanes, new LeaseLostError('the connection was lost'));
        await answer.promise;
        return batch.map(() => 'lost');
      };
      return changed(receiver, { settle });
    },
  }));
  const subscription = await bus.subscribe('t', { group: 'g' }, () => {});
  await bus.publish('t', 1);
  await vi.waitFor(() => expect(lose).toBeDefined(), { timeout: 10_000 });
  const closing = timed(subscription.close({ timeout: '4s' }));
  await settled();
  lose?.();
  await settled();
  answer.resolve();
  expect((await closing).took).toBeLessThan(2_000);
});

describe('where a broker leaves a message with one member for so long only', () => {
  const minute = 60_000;
  const bounded = ({ capabilities }: Connection): Partial<Connection> => ({
    capabilities: {
      ...capabilities,
      lease: { ...capabilities.lease, kind: 'connection', maxHandling: 25 * minute },
      orderedAttempts: { supported: false, reason: 'a test' },
    },
  });
  const Steps = topic<number>('steps', { ordered: true, key: () => 'k', lanes: 1 });

  test.each([
    [{ retry: { attempts: 5, delay: '20m' } }, 'retry.delay'],
    [{ retry: { attempts: Number.POSITIVE_INFINITY } }, 'retry.attempts'],
    [{ timeout: '26m' }, 'timeout'],
    [{ timeout: false }, 'timeout'],
  ] as const)('%j is refused', async (options, field) => {
    const bus = await open(bounded);
    const refused = expect.objectContaining({ code: 'CONFIG', field });
    await expect(bus.subscribe(Steps, { group: 'g', ...options }, () => {})).rejects.toEqual(refused);
  });

  test('the defaults are not refused, nor are long waits that the broker keeps', async () => {
    const bus = await open(bounded);
    await bus.subscribe(Steps, { group: 'g' }, () => {});
    await bus.subscribe('t', { group: 'g', retry: { attempts: 5, delay: '20m' } }, () => {});
  });

  async function deadAfter(
    retry: SubscribeOptions['retry'],
    handler: () => unknown,
    minutes: number,
  ): Promise<unknown> {
    const clock = new FakeClock();
    const bus = await open(bounded, { clock });
    await bus.subscribe(Steps, { group: 'g', ...(retry && { retry }) }, handler);
    const published = bus.publish(Steps, 1);
    await clock.advance(1);
    await published;
    for (let i = 0; i < 2 * minutes; i++) await clock.advance(minute / 2);
    return (await bus.deadLetters(Steps, 'g').peek()).map(({ attempts, error }) => [error?.message, attempts]);
  }

  test('a retry that would come too late is a dead letter', async () => {
    const failing = (): never => {
      throw new Error('no');
    };
    expect(await deadAfter({ attempts: 9, delay: () => '10m' }, failing, 21)).toEqual([['no', 3]]);
  });

  test('a handler that does not end is stopped in time', async () => {
    const [letter] = (await deadAfter(undefined, () => never, 26)) as [[string, number]];
    expect(letter).toEqual([expect.stringContaining('the handler took longer'), 2]);
  });

  test('RETRY-02 the time of a message in a stream begins when somebody takes it', async () => {
    const clock = new FakeClock();
    const bus = await open(bounded, { clock });
    const stream = await bus.messages(Steps, { group: 'g' });
    const published = bus.publish(Steps, 1);
    await clock.advance(1);
    await published;
    for (let i = 0; i < 60; i++) await clock.advance(minute / 2);
    for await (const message of stream) {
      for (let i = 0; i < 20; i++) await clock.advance(minute / 2);
      expect(message.signal.aborted).toBe(false);
      await message.ack();
      break;
    }
    expect(stream.stats()).toMatchObject({ acked: 1, deadLettered: 0, retried: 0 });
  });

  test('what has waited too long for a handler is given back before it has one', async () => {
    const clock = new FakeClock();
    const bus = await open(bounded, { clock });
    const first = Promise.withResolvers<void>();
    const seen: number[] = [];
    const handler = ({ data }: { readonly data: number }): Promise<void> | undefined => {
      seen.push(data);
      return data === 1 ? first.promise : undefined;
    };
    const options = { group: 'g', concurrency: 1, timeout: '25m' } as const;
    const subscription = await bus.subscribe(topic<number>('slow'), options, handler);
    for (const data of [1, 2]) {
      const published = bus.publish('slow', data);
      await clock.advance(1);
      await published;
    }
    for (let i = 0; i < 40; i++) await clock.advance(minute / 2);
    expect([seen, subscription.stats().buffered]).toEqual([[1], 1]);
    first.resolve();
    await clock.advance(1_000);
    expect(seen).toEqual([1, 2]);
    expect(subscription.stats()).toMatchObject({ acked: 2, givenBack: 1 });
  });
});
