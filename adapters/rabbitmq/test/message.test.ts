import type { OutgoingMessage } from '@waybill/core/adapter';
import type { Message, Options } from 'amqplib';
import { describe, expect, test } from 'vitest';
import { deadLetterCopy, fromMessage, redriveCopy, retryCopy, toDeadLetter, toProperties } from '../src/message.ts';

const outgoing: OutgoingMessage = {
  topic: { name: 'orders', ordered: false, lanes: undefined, options: undefined },
  id: 'o-1',
  key: 'k',
  type: 'order.placed',
  contentType: 'application/json',
  body: new TextEncoder().encode('{}'),
  headers: { trace: 'é' },
  publishedAt: 1_700_000_000_123,
  deliverAt: undefined,
  expiresAt: 1_700_000_060_000,
  options: undefined,
};

const details = {
  entry: 'e-1',
  reason: 'exhausted',
  errorName: 'Error',
  errorMessage: 'x'.repeat(1_024),
  attempts: 3,
  at: 1_700_000_001_000,
  topic: 'orders',
  group: 'g',
} as const;

/** A message as it comes out of a queue. */
function arrived(properties: Options.Publish, content = Buffer.from('{}')): Message {
  return {
    content,
    fields: { deliveryTag: 1, redelivered: false, exchange: '', routingKey: '' },
    properties: properties as unknown as Message['properties'],
  };
}

describe('a message', () => {
  test('arrives as it was published', () => {
    const { native: _, position: __, ...content } = fromMessage(arrived(toProperties(outgoing)));
    expect(content).toEqual({
      id: 'o-1',
      key: 'k',
      type: 'order.placed',
      contentType: 'application/json',
      body: new Uint8Array(Buffer.from('{}')),
      headers: { trace: 'é' },
      publishedAt: 1_700_000_000_123,
      expiresAt: 1_700_000_060_000,
      attempt: 1,
    });
  });

  test('of anybody gets sensible values', () => {
    const content = fromMessage(
      arrived({
        timestamp: 1_700_000_000,
        headers: {
          count: 3,
          flag: true,
          none: null,
          bytes: Buffer.from('ü'),
          when: { '!': 'timestamp', value: 1_700_000_000 },
          list: [1, 'a'],
          'x-death': [{ count: 1 }],
          'x-delivery-count': 2,
          CC: ['elsewhere'],
        },
      }),
    );
    expect(content).toMatchObject({
      id: undefined,
      key: undefined,
      type: undefined,
      contentType: undefined,
      attempt: 1,
    });
    expect(content.publishedAt).toBe(1_700_000_000_000);
    expect(content.headers).toEqual({
      count: '3',
      flag: 'true',
      none: '',
      bytes: 'ü',
      when: '1700000000',
      list: '[1,"a"]',
    });
  });

  test('with a broken header of ours is no worse for it', () => {
    const headers = { 'waybill-attempt': '0', 'waybill-published-at': 'soon', 'waybill-expires-at': '-1' };
    expect(fromMessage(arrived({ headers }))).toMatchObject({
      attempt: 1,
      publishedAt: undefined,
      expiresAt: undefined,
      headers: {},
    });
  });
});

describe('a copy', () => {
  const foreign = arrived({
    headers: { n: 1, CC: ['elsewhere'], 'x-death': [], 'x-first-death-queue': 'q', 'waybill-key': 'k' },
    messageId: 'm',
    correlationId: 'c',
    expiration: '1000',
    userId: 'guest',
    contentEncoding: 'gzip',
  });

  test('keeps what is the message and drops what is the broker', () => {
    expect(retryCopy(foreign, 4)).toMatchObject({
      persistent: true,
      messageId: 'm',
      correlationId: 'c',
      contentEncoding: 'gzip',
      headers: { n: 1, 'waybill-key': 'k', 'waybill-attempt': '4' },
    });
    expect(retryCopy(foreign, 4).headers).not.toHaveProperty('CC');
    expect(retryCopy(foreign, 4).headers).not.toHaveProperty('x-death');
    expect(retryCopy(foreign, 4)).not.toHaveProperty('expiration');
    expect(retryCopy(foreign, 4)).not.toHaveProperty('userId');
  });

  test('among the dead letters tells why, and can be read back (DLQ-01)', () => {
    const record = toDeadLetter(arrived(deadLetterCopy(arrived(toProperties(outgoing)), details)));
    expect(record.details).toEqual(details);
    expect(record).toMatchObject({ id: 'o-1', key: 'k', headers: { trace: 'é' } });
  });

  test('that is redriven has no past (DLQ-04)', () => {
    const dead = arrived(deadLetterCopy(arrived({ ...toProperties(outgoing) }), details));
    const again = fromMessage(arrived(redriveCopy(dead)));
    expect(again).toMatchObject({
      id: 'o-1',
      key: 'k',
      attempt: 1,
      expiresAt: undefined,
      publishedAt: 1_700_000_000_123,
    });
    expect(Object.keys(redriveCopy(dead).headers as object).filter((name) => name.startsWith('waybill-dl-'))).toEqual(
      [],
    );
  });

  test('of a message with headers at the limit still fits, with less about the death (DLQ-06)', () => {
    const full = arrived({ headers: { large: 'x'.repeat(64_800), small: 'y' } });
    const { headers } = deadLetterCopy(full, details) as { headers: Record<string, string> };
    expect(headers['waybill-dl-error-message']).toBeUndefined();
    expect(headers).toMatchObject({ small: 'y', 'waybill-dl-entry': 'e-1', 'waybill-dl-reason': 'exhausted' });
  });

  test('of a dead letter that somebody else made has an entry id that stays the same', () => {
    const [one, two] = [toDeadLetter(arrived({})), toDeadLetter(arrived({}))];
    expect(one.details.entry).toBe(two.details.entry);
    expect(one.details.entry).not.toBe('');
  });
});
