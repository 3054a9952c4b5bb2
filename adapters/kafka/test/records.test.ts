import { wireHeaders } from '@waybill/core/adapter';
import { expect, test } from 'vitest';
import { readRecord } from '../src/records.ts';

test.each([
  ['3', 3],
  ['0', 1],
  ['many', 1],
  [undefined, 1],
])('attempt %s on a message is attempt %i', (text, attempt) => {
  const headers = text === undefined ? {} : { [wireHeaders.attempt]: text };
  const record = { offset: 7, timestamp: 0, key: null, value: null, headers };
  expect(readRecord(record, 0).attempt).toBe(attempt);
});
