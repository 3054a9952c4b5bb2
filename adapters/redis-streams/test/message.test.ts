import type { OutgoingMessage } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { deadLetterFields, type Entry, type Fields, fromEntry, toDeadLetter, toFields } from '../src/message.ts';

const outgoing: OutgoingMessage = {
  topic: { name: 'orders', ordered: false, lanes: undefined, options: undefined },
  id: 'o-1',
  key: 'k',
  type: 'order.placed',
  contentType: 'application/json',
  body: new Uint8Array([0, 255, 13, 10]),
  headers: { trace: 'é', body: 'of the same name' },
  publishedAt: 1_700_000_000_123,
  deliverAt: undefined,
  expiresAt: 1_700_000_060_000,
  options: undefined,
};

/** An entry as it comes from the server. */
function arrived(fields: Fields, id = '1700000000000-0'): Entry {
  return { id, fields: fields.map((one) => Buffer.from(one)) };
}

describe('a message', () => {
  test('arrives as it was published', () => {
    const { native: _, ...content } = fromEntry(arrived(toFields(outgoing)), '');
    expect(content).toEqual({
      id: 'o-1',
      key: 'k',
      type: 'order.placed',
      contentType: 'application/json',
      body: new Uint8Array([0, 255, 13, 10]),
      headers: { trace: 'é', body: 'of the same name' },
      publishedAt: 1_700_000_000_123,
      expiresAt: 1_700_000_060_000,
      attempt: 1,
      position: '1700000000000-0',
    });
  });

  test('with nothing but a body has two fields more than that at least', () => {
    const { id, contentType, body, publishedAt, topic } = outgoing;
    const bare = { id, contentType, body, publishedAt, topic, headers: {} };
    const absent = { key: undefined, type: undefined, deliverAt: undefined, expiresAt: undefined, options: undefined };
    const fields = toFields({ ...bare, ...absent }).map(String);
    expect(fields.filter((_, at) => at % 2 === 0)).toEqual([
      'body',
      'waybill-id',
      'waybill-content-type',
      'waybill-published-at',
    ]);
  });

  test('of anybody gets sensible values (SUB-09)', () => {
    const content = fromEntry(arrived(['body', 'text', 'x-a', '1', 'content-type', 'text/plain']), '');
    expect(content).toMatchObject({
      id: undefined,
      key: undefined,
      contentType: 'text/plain',
      headers: { 'x-a': '1', 'content-type': 'text/plain' },
      attempt: 1,
      // The server's own time.
      publishedAt: 1_700_000_000_000,
      position: '1700000000000-0',
    });
  });

  test('without a body is its fields', () => {
    const content = fromEntry(arrived(['orderId', 'o-1', 'total', '3']), '2/');
    expect(JSON.parse(new TextDecoder().decode(content.body))).toEqual({ orderId: 'o-1', total: '3' });
    expect(content).toMatchObject({ contentType: 'application/json', position: '2/1700000000000-0' });
  });

  test('with a broken field of ours is no worse for it', () => {
    const fields = ['body', '', 'waybill-attempt', '0', 'waybill-published-at', 'soon', 'waybill-expires-at', '-1'];
    expect(fromEntry(arrived(fields), '')).toMatchObject({
      attempt: 1,
      publishedAt: 1_700_000_000_000,
      expiresAt: undefined,
      headers: {},
    });
  });

  test('that was tried before keeps its first place', () => {
    const fields = ['body', '', 'waybill-attempt', '3', 'waybill-position', '1600000000000-7'];
    expect(fromEntry(arrived(fields), '')).toMatchObject({ attempt: 3, position: '1600000000000-7' });
  });
});

test('a dead letter tells why, and can be read back (DLQ-01)', () => {
  const details = {
    entry: 'e-1',
    reason: 'exhausted',
    errorName: 'Error',
    errorMessage: 'no',
    attempts: 3,
    at: 1_700_000_001_000,
    topic: 'orders',
    group: 'g',
  } as const;
  const record = toDeadLetter(arrived([...toFields(outgoing), ...deadLetterFields(details)]));
  expect(record.details).toEqual(details);
  expect(record).toMatchObject({ id: 'o-1', key: 'k', headers: outgoing.headers });
});

test('a dead letter of somebody else has the name of its entry', () => {
  expect(toDeadLetter(arrived(['body', 'x'])).details.entry).toBe('1700000000000-0');
});
