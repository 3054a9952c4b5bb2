import { systemClock, WaybillError } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { isMissing, requestFailure, ServerError } from '../src/errors.ts';
import { firstUnsettled, Losses } from '../src/receiver-parts.ts';

describe('a group counts as deleted', () => {
  test.each([
    "NOGROUP No such key 'orders' or consumer group 'billing' in XREADGROUP with GROUP option",
    'UNBLOCKED the stream key no longer exists',
  ])('after "%s"', (text) => {
    expect(isMissing(new ServerError(text))).toBe(true);
  });

  // With topology 'verify' the subscription would fail for good.
  test('not because its server has become a replica', () => {
    const error = new ServerError(
      'UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)',
    );
    expect(isMissing(error)).toBe(false);
    expect(WaybillError.is(requestFailure(error, 'orders'), 'CONNECTION')).toBe(true);
  });
});

test('a group that is made again begins before all that is unsettled, whichever stream counts', () => {
  expect(firstUnsettled('9-0', [])).toBe('9-0');
  const unsettled = [
    { stream: 1, id: '7-1' },
    { stream: 1, id: '8-0' },
    { stream: 2, id: '1-0' },
  ];
  expect(firstUnsettled('9-0', unsettled)).toBe('7-0');
});

test('a loss is told once, and no flood of them', () => {
  let now = 0;
  const losses = new Losses({ ...systemClock, monotonic: () => now });
  expect(losses.sentence(0, '', 'the stream')).toBeUndefined();
  expect(losses.sentence(3, '5-0', 'the stream')).toMatch(/lost 3 messages .*5-0$/);
  expect(losses.sentence(4, '6-0', 'the stream')).toBeUndefined();
  now = 60_000;
  expect(losses.sentence(3, '5-0', 'the stream')).toBeUndefined();
  expect(losses.sentence(4, '6-0', 'the stream')).toMatch(/lost 4/);
});
