import type { OutgoingMessage } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  deadLetterCopy,
  fromMessage,
  limits,
  type PubsubMessage,
  redriveCopy,
  retryCopy,
  sizeOf,
  toDeadLetter,
  toMessage,
} from '../src/message.ts';

const outgoing: OutgoingMessage = {
  topic: { name: 'orders', ordered: false, lanes: undefined, options: undefined },
  id: 'o-1',
  key: 'k',
  type: 'order.placed',
  contentType: 'application/json',
  body: new TextEncoder().encode('{}'),
  headers: { trace: 'é', 'goog-user': 'me', empty: '' },
  publishedAt: 1_700_000_000_123,
  deliverAt: undefined,
  expiresAt: 1_700_000_060_000,
  options: undefined,
};

const details = {
  entry: 'e-1',
  reason: 'exhausted',
  errorName: 'Error',
  errorMessage: '👋'.repeat(512),
  attempts: 3,
  at: 1_700_000_001_000,
  topic: 'orders',
  group: 'g',
} as const;

/** A message as it comes from the broker. */
const arrived = (message: PubsubMessage): PubsubMessage => ({
  ...message,
  messageId: '77',
  publishTime: { seconds: 1_700_000_000, nanos: 500_000_000 },
});

/** The service's limits, which the emulator does not heed. */
function expectWithinLimits({ attributes }: PubsubMessage): void {
  const entries = Object.entries(attributes ?? {});
  expect(entries.length).toBeLessThanOrEqual(100);
  for (const [name, value] of entries) {
    expect(name).not.toMatch(/^goog|^$/i);
    expect(Buffer.byteLength(name)).toBeLessThanOrEqual(256);
    expect(Buffer.byteLength(value)).toBeLessThanOrEqual(1_024);
  }
}

describe('a message', () => {
  test('arrives as it was sent', () => {
    const content = fromMessage(arrived(toMessage(outgoing)));
    expect(content).toMatchObject({
      id: 'o-1',
      key: 'k',
      type: 'order.placed',
      contentType: 'application/json',
      headers: outgoing.headers,
      publishedAt: outgoing.publishedAt,
      expiresAt: outgoing.expiresAt,
      attempt: 1,
      position: '1700000000500:77',
    });
    expect([...content.body]).toEqual([...outgoing.body]);
  });

  test('keeps a header that is no name for a field', () => {
    const headers = Object.fromEntries([['__proto__', 'x']]);
    const message = toMessage({ ...outgoing, headers });
    expect(Object.keys(message.attributes ?? {})).toContain('waybill-header-__proto__');
    expect(Object.entries(fromMessage(arrived(message)).headers)).toEqual([['__proto__', 'x']]);
  });

  test('has its key as the ordering key on an ordered topic, and only there', () => {
    const ordered = { ...outgoing, topic: { ...outgoing.topic, ordered: true } };
    expect(toMessage(ordered)).toMatchObject({ orderingKey: 'k' });
    expect(toMessage(ordered).attributes).not.toHaveProperty('waybill-key');
    expect(toMessage(outgoing).orderingKey).toBeUndefined();
    expect(fromMessage(arrived(toMessage(ordered))).key).toBe('k');
  });

  test('of a stranger has sensible values', () => {
    const content = fromMessage(
      arrived({ data: Buffer.from('x'), attributes: { 'content-type': 'text/plain', a: 'b' } }),
    );
    expect(content).toMatchObject({
      id: undefined,
      key: undefined,
      contentType: 'text/plain',
      headers: { a: 'b' },
      publishedAt: 1_700_000_000_500,
      attempt: 1,
    });
  });

  test('with headers of any size and text keeps to the limits of Pub/Sub and arrives whole', () => {
    const character = fc.constantFrom('a', 'é', '語', '👋', '"', '\n');
    const value = fc
      .tuple(fc.string({ unit: character, maxLength: 40 }), fc.integer({ min: 0, max: 100 }))
      .map(([text, times]) => {
        let long = text.repeat(times);
        while (Buffer.byteLength(long) > 4_096) long = [...long].slice(0, long.length / 4).join('');
        return long;
      });
    const header = fc.string({ unit: fc.constantFrom(...'googl_e-x.1~'), minLength: 1, maxLength: 100 });
    fc.assert(
      fc.property(fc.dictionary(header, value, { maxKeys: 8 }), (headers) => {
        const message = toMessage({ ...outgoing, headers });
        expectWithinLimits(message);
        expect(fromMessage(arrived(message)).headers).toEqual(headers);
        expect(fromMessage(arrived(deadLetterCopy(arrived(message), details))).headers).toEqual(headers);
      }),
    );
  });

  test('with as many headers as there may be still becomes a dead letter within the limits', () => {
    const headers = Object.fromEntries(
      Array.from({ length: 64 }, (_, n) => [`header-${n}`, n < 4 ? '語'.repeat(1_300) : '']),
    );
    const letter = deadLetterCopy(arrived(toMessage({ ...outgoing, deliverAt: 1, headers })), details);
    expectWithinLimits(letter);
    expect(fromMessage(arrived(letter)).headers).toEqual(headers);
    expect(toDeadLetter(arrived(letter), {}).details).toEqual(details);
  });
});

describe('a copy', () => {
  const message = arrived(toMessage({ ...outgoing, deliverAt: 5 }));

  test('for a retry says its attempt and its time', () => {
    expect(fromMessage(arrived(retryCopy(message, 2, 1_234)))).toMatchObject({
      id: 'o-1',
      key: 'k',
      attempt: 2,
      deliverAt: 1_234,
    });
    expect(fromMessage(arrived(retryCopy(message, 3, undefined)))).toMatchObject({ attempt: 3, deliverAt: undefined });
  });

  test('of a message without id keeps its position', () => {
    const foreign = arrived({ data: Buffer.from('x'), attributes: {}, orderingKey: 'k' });
    const again = { ...arrived(retryCopy(foreign, 2, undefined)), messageId: '99' };
    expect(fromMessage(again)).toMatchObject({
      id: undefined,
      key: 'k',
      position: '1700000000500:77',
      publishedAt: 1_700_000_000_500,
    });
  });

  test('for a redrive begins anew, for one group where it has to be said', () => {
    const letter = arrived(deadLetterCopy(arrived(retryCopy(message, 3, undefined)), details));
    const again = redriveCopy(letter, 'g');
    expect(fromMessage(arrived(again))).toMatchObject({
      attempt: 1,
      expiresAt: undefined,
      deliverAt: undefined,
      destination: 'g',
    });
    expect(Object.keys(again.attributes ?? {}).filter((name) => name.includes('waybill-dl-'))).toEqual([]);
    expect(fromMessage(arrived(redriveCopy(letter, undefined))).destination).toBeUndefined();
  });

  test('of a foreign message at every limit is cut, but not its body (DLQ-06)', () => {
    const attributes = Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`a-${n}`, 'x'.repeat(n)]));
    const data = Buffer.alloc(9_980_000, 1);
    const letter = deadLetterCopy(arrived({ data, attributes }), details);
    expectWithinLimits(letter);
    expect(letter.data).toBe(data);
    expect(sizeOf(letter)).toBeLessThanOrEqual(limits.requestBytes);
    expect(toDeadLetter(arrived(letter), {}).details).toMatchObject({ entry: 'e-1', reason: 'exhausted', attempts: 3 });
  });
});
