import { describe, expect, test } from 'vitest';
import { ConfigError } from '../src/errors.ts';
import { type Claim, memoryStore } from '../src/idempotency.ts';
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
