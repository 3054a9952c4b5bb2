import { describe, expect, test, vi } from 'vitest';
import { connect } from '../src/connect.ts';
import { ConfigError } from '../src/errors.ts';
import { type Claim, type IdempotencyStore, memoryStore } from '../src/idempotency.ts';
import type { Message } from '../src/types.ts';
import { FakeClock } from './fake-clock.ts';

const claim = (given: Partial<Claim> = {}): Claim => ({ scope: 's', key: 'k', lease: 1_000, window: 5_000, ...given });
const works = async (): Promise<boolean> => true;
const fails = async (): Promise<boolean> => false;

describe('memoryStore', () => {
  test('IDEM-01 runs the work once within the window', async () => {
    const clock = new FakeClock();
    const store = memoryStore({ clock });
    expect(await store.run(claim(), works)).toBe('ran');
    await clock.advance(4_999);
    expect(await store.run(claim(), () => Promise.reject(new Error('called')))).toBe('duplicate');
    await clock.advance(1);
    expect(await store.run(claim(), works)).toBe('ran');
  });

  test('IDEM-02 a failure leaves the key free', async () => {
    const store = memoryStore();
    expect(await store.run(claim(), fails)).toBe('failed');
    expect(await store.run(claim(), works)).toBe('ran');
  });

  test('IDEM-03 scopes are apart, also where scope and key run into each other', async () => {
    const store = memoryStore();
    expect(await store.run(claim({ scope: 'ab', key: 'c' }), works)).toBe('ran');
    expect(await store.run(claim({ scope: 'a', key: 'bc' }), works)).toBe('ran');
  });

  test('IDEM-04 a key is busy for as long as its work runs, also beyond the lease', async () => {
    const clock = new FakeClock();
    const store = memoryStore({ clock });
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const first = store.run(claim(), () => promise);
    await clock.advance(10_000);
    expect(await store.run(claim(), works)).toBe('busy');
    resolve(false);
    expect(await first).toBe('failed');
    expect(await store.run(claim(), works)).toBe('ran');
  });

  test('a work that rejects against its promise leaves the key free', async () => {
    const store = memoryStore();
    await expect(store.run(claim(), () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
    expect(await store.run(claim(), works)).toBe('ran');
  });

  test('windows of different length end each in its time, and nothing holds the process', async () => {
    const clock = new FakeClock();
    const store = memoryStore({ clock });
    await store.run(claim({ key: 'long', window: 9_000 }), works);
    await store.run(claim({ key: 'short', window: 1_000 }), works);
    expect(clock.timers).toBe(0);
    await clock.advance(2_000);
    expect(await store.run(claim({ key: 'long' }), works)).toBe('duplicate');
    expect(await store.run(claim({ key: 'short' }), works)).toBe('ran');
  });

  test('above maxEntries the outcome that would end first is forgotten', async () => {
    const store = memoryStore({ maxEntries: 2, clock: new FakeClock() });
    await store.run(claim({ key: 'a', window: 3_000 }), works);
    await store.run(claim({ key: 'b', window: 1_000 }), works);
    await store.run(claim({ key: 'c', window: 2_000 }), works);
    expect(await store.run(claim({ key: 'a' }), works)).toBe('duplicate');
    expect(await store.run(claim({ key: 'c' }), works)).toBe('duplicate');
    expect(await store.run(claim({ key: 'b' }), works)).toBe('ran');
  });

  test('options that cannot be are refused by name', () => {
    expect(() => memoryStore({ maxEntries: 0 })).toThrow(ConfigError);
    expect(() => memoryStore({ size: 3 } as object)).toThrow('size: unknown option');
  });
});

describe('a subscription with a store', () => {
  const retry = { attempts: 2, delay: 10 };

  test('IDEM-02 a retry in place lets go of the claim', async () => {
    await using bus = await connect('memory:', { logger: false });
    const attempts: number[] = [];
    const options = { broadcast: true, idempotency: memoryStore(), retry } as const;
    const subscription = await bus.subscribe('t', options, async (message: Message) => {
      attempts.push(message.attempt);
      if (message.attempt === 1) await message.retry({ after: 10 });
    });
    await bus.publish('t', 1, { id: 'a' });
    await vi.waitFor(() => expect(subscription.stats()).toMatchObject({ acked: 1, retried: 1, inFlight: 0 }), {
      timeout: 10_000,
    });
    expect(attempts).toEqual([1, 2]);
  });

  test('IDEM-02 a retry in place comes again, though the store fails to hear of it', async () => {
    await using bus = await connect('memory:', { logger: false });
    const store: IdempotencyStore = {
      async run(_, work) {
        if (!(await work({}))) throw new Error('the store went away');
        return 'ran';
      },
    };
    const attempts: number[] = [];
    const options = { broadcast: true, idempotency: store, retry } as const;
    const subscription = await bus.subscribe('t', options, async (message: Message) => {
      attempts.push(message.attempt);
      if (attempts.length === 1) await message.retry({ after: 10 });
    });
    await bus.publish('t', 1, { id: 'a' });
    await vi.waitFor(() => expect(subscription.stats()).toMatchObject({ acked: 1, inFlight: 0 }), { timeout: 5_000 });
    // It counts as a store that is away, so no attempt was used.
    expect(attempts).toEqual([1, 1]);
  });

  test('IDEM-06 a mark that fails after ack() has the message come again after a while', async () => {
    await using bus = await connect('memory:', { logger: false });
    const store: IdempotencyStore = {
      async run(_, work) {
        await work({});
        throw new Error('the disk is full');
      },
    };
    const handled = vi.fn((message: Message) => message.ack().catch(() => {}));
    const subscription = await bus.subscribe('t', { group: 'g', idempotency: store }, handled);
    await bus.publish('t', 1);
    const started = performance.now();
    await vi.waitFor(() => expect(handled.mock.calls.length).toBeGreaterThan(1), { timeout: 5_000, interval: 10 });
    expect(performance.now() - started).toBeGreaterThan(1_000);
    expect(subscription.stats().acked).toBe(0);
  });

  test.each([
    ['a promise', async () => 'same'],
    ['a number', () => 7],
  ])('IDEM-07 a key that is %s fails the attempt, and makes no duplicates', async (_, key) => {
    await using bus = await connect('memory:', { logger: false });
    const handled = vi.fn();
    const idempotency = { store: memoryStore(), key: key as never };
    const subscription = await bus.subscribe('t', { group: 'g', idempotency, retry: { attempts: 1 } }, handled);
    for (const data of [1, 2]) await bus.publish('t', data);
    await vi.waitFor(() => expect(subscription.stats()).toMatchObject({ deadLettered: 2, duplicates: 0 }), {
      timeout: 10_000,
    });
    expect(handled).not.toHaveBeenCalled();
    const [letter] = await bus.deadLetters('t', 'g').peek();
    expect(letter?.error?.message).toMatch(/idempotency\.key gave .* not a text/);
  });
});
