import { expect, test } from 'vitest';
import { duration } from '../src/duration.ts';

test.each([
  [0, 0],
  [1.5, 1.5],
  ['250ms', 250],
  ['30s', 30_000],
  ['15m', 900_000],
  ['24h', 86_400_000],
  ['7d', 604_800_000],
  ['1.5h', 5_400_000],
  ['1500', 1_500],
])('%s is %d ms', (value, ms) => {
  expect(duration(value)).toBe(ms);
});

test.each([
  -1,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  '',
  's',
  '-1s',
  '1 s',
  '1w',
  '1s ',
  '1e3',
  'PT1S',
  '1.s',
  null,
  {},
])('%j is none, and the option is named', (value) => {
  expect(() => duration(value as string, 'lease')).toThrow(expect.objectContaining({ code: 'CONFIG', field: 'lease' }));
});
