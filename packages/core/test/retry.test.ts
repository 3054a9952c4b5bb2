import { describe, expect, test } from 'vitest';
import { backOff, compileRetry } from '../src/retry.ts';
import type { RetryPolicy } from '../src/types.ts';

const most = { random: () => 1 };
const delays = (policy: RetryPolicy, count: number): number[] => {
  const { delayAfter } = compileRetry(policy, most);
  return Array.from({ length: count }, (_, i) => delayAfter(i + 1, undefined));
};

describe('a retry policy', () => {
  test('by default is eight attempts, from 1 s on, tripled, up to 15 min', () => {
    expect(compileRetry().attempts).toBe(8);
    expect(delays({}, 8)).toEqual([1_000, 3_000, 9_000, 27_000, 81_000, 243_000, 729_000, 900_000]);
    expect(compileRetry().longest).toBe(729_000);
  });

  test('spreads its delays over the upper half', () => {
    expect(compileRetry({}, { random: () => 0 }).delayAfter(1, undefined)).toBe(500);
    expect(compileRetry({}, { random: () => 0.5 }).delayAfter(1, undefined)).toBe(750);
    const steady = compileRetry({ delay: { initial: '1s', jitter: false } }, { random: () => 0 });
    expect(steady.delayAfter(2, undefined)).toBe(3_000);
  });

  test('takes each field alone', () => {
    expect(delays({ delay: { factor: 1 } }, 3)).toEqual([1_000, 1_000, 1_000]);
    expect(delays({ delay: { max: '2s' } }, 3)).toEqual([1_000, 2_000, 2_000]);
    expect(delays({ delay: { max: '500ms' } }, 2)).toEqual([500, 500]);
    expect(delays({ delay: { initial: '20m' } }, 2)).toEqual([1_200_000, 1_200_000]);
    expect(delays({ delay: { initial: 0 } }, 2)).toEqual([0, 0]);
  });

  test('may be one delay, without jitter', () => {
    expect(compileRetry({ delay: '5s' }, { random: () => 0 }).delayAfter(3, undefined)).toBe(5_000);
    expect(compileRetry({ delay: '5s' }).longest).toBe(5_000);
    expect(compileRetry({ delay: '5s', attempts: 1 }).longest).toBe(0);
  });

  test('may be a list, whose last is repeated', () => {
    expect(delays({ delay: [0, '1s', '10s'] }, 5)).toEqual([0, 1_000, 10_000, 10_000, 10_000]);
    expect(compileRetry({ delay: [0, '1s', '10s'], attempts: 3 }).longest).toBe(1_000);
  });

  test('may be a function of the attempt and its error', () => {
    const { delayAfter, longest } = compileRetry({
      delay: (attempt, error) => (error === 'slow' ? '1m' : attempt * 10),
    });
    expect([delayAfter(1, 'slow'), delayAfter(2, 'x')]).toEqual([60_000, 20]);
    expect(longest).toBe(0);
  });

  test('whose function fails waits as by default, and says so', () => {
    const faults: unknown[] = [];
    const options = { ...most, onFault: (error: unknown) => faults.push(error) };
    const thrown = new Error('out of order');
    const throwing = compileRetry(
      {
        delay: () => {
          throw thrown;
        },
      },
      options,
    );
    expect(throwing.delayAfter(2, undefined)).toBe(3_000);
    const wrong = compileRetry({ delay: () => Number.NaN }, options);
    expect(wrong.delayAfter(1, undefined)).toBe(1_000);
    expect(faults).toEqual([thrown, expect.objectContaining({ field: 'retry.delay' })]);
  });

  test('may go on for ever', () => {
    const { attempts, longest, delayAfter } = compileRetry({ attempts: Number.POSITIVE_INFINITY }, most);
    expect([attempts, longest, delayAfter(10_000, undefined)]).toEqual([Number.POSITIVE_INFINITY, 900_000, 900_000]);
  });

  test.each([
    [{ attempts: 0 }, 'retry.attempts'],
    [{ attempts: 1.5 }, 'retry.attempts'],
    [{ attempts: '3' }, 'retry.attempts'],
    [{ retries: 3 }, 'retry.retries'],
    [{ delay: 'soon' }, 'retry.delay'],
    [{ delay: -1 }, 'retry.delay'],
    [{ delay: true }, 'retry.delay'],
    [{ delay: [] }, 'retry.delay'],
    [{ delay: ['1s', 'x'] }, 'retry.delay[1]'],
    [{ delay: { initial: 'x' } }, 'retry.delay.initial'],
    [{ delay: { max: -1 } }, 'retry.delay.max'],
    [{ delay: { initial: '2s', max: '1s' } }, 'retry.delay.max'],
    [{ delay: { factor: 0.5 } }, 'retry.delay.factor'],
    [{ delay: { jitter: 1 } }, 'retry.delay.jitter'],
    [{ delay: { inital: 1 } }, 'retry.delay.inital'],
    [8, 'retry'],
  ])('%j is refused by name', (policy, field) => {
    expect(() => compileRetry(policy as RetryPolicy)).toThrow(expect.objectContaining({ code: 'CONFIG', field }));
  });
});

test('the back-off doubles up to its bound, and spreads over the upper half', () => {
  const bounds = { initial: 100, max: 1_000 };
  expect([1, 2, 3, 4, 5, 100].map((attempt) => backOff(attempt, bounds, () => 1))).toEqual([
    100, 200, 400, 800, 1_000, 1_000,
  ]);
  expect(backOff(1, bounds, () => 0)).toBe(50);
  expect(backOff(5_000, bounds, () => 0)).toBe(500);
});

describe('the waits in sum', () => {
  const total = (policy: Parameters<typeof compileRetry>[0]): number => compileRetry(policy).total;

  test('count one fewer than the attempts', () => {
    expect(total({})).toBe(1_093_000);
    expect(total({ attempts: 1, delay: '1s' })).toBe(0);
    expect(total({ attempts: 5, delay: '20m' })).toBe(4 * 1_200_000);
    expect(total({ attempts: 5, delay: [0, '1s', '10s'] })).toBe(21_000);
    expect(total({ attempts: 4, delay: { initial: '1s', factor: 1 } })).toBe(3_000);
    expect(total({ attempts: 20, delay: { initial: '1s', factor: 2, max: '4s' } })).toBe(3_000 + 17 * 4_000);
    expect(total({ attempts: 9, delay: () => '1h' })).toBe(0);
    expect(total({ attempts: 2_000, delay: { initial: 0, factor: 3 } })).toBe(0);
  });

  test('may have no end', () => {
    expect(total({ attempts: Number.POSITIVE_INFINITY })).toBe(Number.POSITIVE_INFINITY);
    expect(total({ attempts: Number.POSITIVE_INFINITY, delay: 0 })).toBe(0);
  });
});
