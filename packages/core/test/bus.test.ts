import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Adapter, AdapterContext, Connection, Receiver } from '../src/adapter.ts';
import { connect } from '../src/connect.ts';
import { ConnectionError } from '../src/errors.ts';
import { memory } from '../src/memory/index.ts';
import type { StandardSchema } from '../src/schema.ts';
import { topic } from '../src/topic.ts';
import type { Bus, BusOptions } from '../src/types.ts';

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
      const changed = change(connection, context);
      return new Proxy(connection, {
        get(target, name) {
          if (name in changed) return changed[name as keyof Connection];
          const value: unknown = Reflect.get(target, name);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
  const bus = await connect(adapter, { logger: false, ...options });
  buses.push(bus);
  return bus;
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
  await vi.waitFor(() => expect(asks).toBeGreaterThan(0));
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
      return Object.assign(Object.create(receiver) as Receiver, {
        receive,
        settle: receiver.settle.bind(receiver),
        close: receiver.close.bind(receiver),
      });
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
