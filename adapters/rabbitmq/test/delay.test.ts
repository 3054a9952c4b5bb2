import fc from 'fast-check';
import { expect, test } from 'vitest';
import { delayLevels, delayRoute, delayUnit, maxDelay } from '../src/delay.ts';
import { addressOf } from '../src/names.ts';

/** Follows a message through the levels as their bindings do; what it waited, in milliseconds. */
function waited(level: number, routingKey: string): number {
  const words = routingKey.split('.');
  let ms = 0;
  for (let at = level; at >= 0; at--) {
    const bit = words[delayLevels - 1 - at];
    if (bit === '1') ms += delayUnit * 2 ** at;
    else expect(bit).toBe('0');
  }
  return ms;
}

test('a delay is never early, and late by less than the shortest level', () => {
  fc.assert(
    fc.property(fc.double({ min: 0.001, max: maxDelay, noNaN: true }), (ms) => {
      const { level, routingKey } = delayRoute(ms, addressOf('topic', 'orders'));
      const time = waited(level, routingKey);
      expect(time).toBeGreaterThanOrEqual(ms);
      expect(time - ms).toBeLessThan(delayUnit);
    }),
    { numRuns: 1_000 },
  );
});

test('the longest delay is more than 30 days, and takes all levels', () => {
  expect(maxDelay).toBeGreaterThan(30 * 86_400_000);
  const { level, routingKey } = delayRoute(maxDelay, 'x');
  expect(level).toBe(delayLevels - 1);
  expect(waited(level, routingKey)).toBe(maxDelay);
});

test('enters at the highest level it needs, so that short delays take few steps', () => {
  expect(delayRoute(100, 'x').level).toBe(0);
  expect(delayRoute(101, 'x').level).toBe(1);
  expect(delayRoute(3_200, 'x').level).toBe(5);
});

test('the routing key ends in the address and fits', () => {
  const address = addressOf('queue', 'q'.repeat(255));
  const { routingKey } = delayRoute(5_000, address);
  expect(routingKey.endsWith(`.${address}`)).toBe(true);
  expect(routingKey.split('.')).toHaveLength(delayLevels + 1);
  expect(Buffer.byteLength(routingKey)).toBeLessThanOrEqual(255);
});

test('a topic and a queue of one name have different addresses', () => {
  expect(addressOf('topic', 'a')).not.toBe(addressOf('queue', 'a'));
});
