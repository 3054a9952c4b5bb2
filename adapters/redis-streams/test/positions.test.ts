import { ConfigError, systemClock } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { isAfter, largest } from '../src/ids.ts';
import { idBefore, startOf } from '../src/topology.ts';

const clock = { ...systemClock, now: () => 1_700_000_000_000 };
const last = '18446744073709551615';

describe('a group starts', () => {
  test('at the ends', () => {
    expect(startOf('latest', clock)(0)).toBe('$');
    expect(startOf('earliest', clock)(3)).toBe('0');
  });

  test('with the first message of a time, and never in the future', () => {
    expect(startOf(new Date(1_600_000_000_000), clock)(0)).toBe(`1599999999999-${last}`);
    expect(startOf(new Date(1_800_000_000_000), clock)(0)).toBe('$');
    expect(startOf(new Date(0), clock)(0)).toBe('0');
  });

  test('with the message of a position', () => {
    expect(startOf({ position: '1600000000000-3' }, clock)(0)).toBe('1600000000000-2');
    expect(startOf({ position: '1600000000000-0' }, clock)(0)).toBe(`1599999999999-${last}`);
  });

  test('in the lane of a position there, in the others at its time', () => {
    const start = startOf({ position: '2/1600000000000-3' }, clock);
    expect(start(2)).toBe('1600000000000-2');
    expect(start(1)).toBe(`1599999999999-${last}`);
  });

  test.each(['', '12', '1-2-3', 'x/1-0', '1-', '-1-0'])('nowhere at "%s"', (position) => {
    expect(() => startOf({ position }, clock)).toThrow(ConfigError);
  });
});

test('ids are compared as numbers, however large', () => {
  expect(isAfter('10-0', '9-5')).toBe(true);
  expect(isAfter(`1-${last}`, '1-18446744073709551614')).toBe(true);
  expect(isAfter('1-1', '1-1')).toBe(false);
  expect(largest('5-1', '5-10')).toBe('5-10');
  expect(idBefore('5-1')).toBe('5-0');
  expect(idBefore('5-0')).toBe(`4-${last}`);
});
