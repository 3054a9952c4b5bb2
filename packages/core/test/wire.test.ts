import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DeadLetterDetails,
  deadLetterHeaders,
  headerPrefix,
  integer,
  laneOf,
  murmur2,
  readDeadLetterHeaders,
  splitHeaders,
  wireHeaders,
} from '../src/wire.ts';

test('all of our headers have the prefix, each a name of its own', () => {
  const names = Object.values(wireHeaders);
  expect(new Set(names).size).toBe(names.length);
  for (const name of names) expect(name.startsWith(headerPrefix)).toBe(true);
});

describe('a dead letter’s details', () => {
  const details: DeadLetterDetails = {
    entry: 'e-1',
    reason: 'exhausted',
    errorName: 'TypeError',
    errorMessage: 'Ünïcödé',
    attempts: 8,
    at: 1_893_456_000_000,
    topic: 'orders',
    group: 'billing',
  };

  test('are read back as they were written', () => {
    expect(readDeadLetterHeaders(deadLetterHeaders(details), 'other')).toEqual(details);
    const bare = { ...details, errorName: undefined, errorMessage: undefined };
    expect(readDeadLetterHeaders(deadLetterHeaders(bare), 'other')).toEqual(bare);
  });

  test('are sensible on what somebody else has put there', () => {
    expect(readDeadLetterHeaders({}, 'e-2')).toEqual({
      entry: 'e-2',
      reason: 'rejected',
      errorName: undefined,
      errorMessage: undefined,
      attempts: 0,
      at: 0,
      topic: '',
      group: '',
    });
  });
});

test.each([
  ['0', 0],
  ['253402300799999', 253_402_300_799_999],
  ['-1', undefined],
  ['1.5', undefined],
  ['', undefined],
  ['9'.repeat(16), undefined],
  [undefined, undefined],
])('integer(%j) is %j', (text, expected) => {
  expect(integer(text)).toBe(expected);
});

test('the user’s headers and ours are told apart', () => {
  expect(splitHeaders({ a: '1', 'waybill-id': 'x', 'x-waybill-y': '2' })).toEqual({
    user: { a: '1', 'x-waybill-y': '2' },
    own: { 'waybill-id': 'x' },
  });
});

describe('murmur2', () => {
  // The values of the test of Kafka's own Java client (UtilsTest.testMurmur2).
  test.each([
    ['21', -973_932_308],
    ['foobar', -790_332_482],
    ['a-little-bit-long-string', -985_981_536],
    ['a-little-bit-longer-string', -1_486_304_829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58_897_971],
    ['abc', 479_470_107],
  ])('of %s is %d, as in Java', (text, hash) => {
    expect(murmur2(new TextEncoder().encode(text))).toBe(hash);
  });

  test('puts every key into one of the lanes', () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 1, max: 64 }), (key, lanes) => {
        const lane = laneOf(key, lanes);
        expect(Number.isInteger(lane) && lane >= 0 && lane < lanes).toBe(true);
      }),
    );
  });
});
