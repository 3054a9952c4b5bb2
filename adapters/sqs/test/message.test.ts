import type { Message } from '@aws-sdk/client-sqs';
import type { OutgoingMessage } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { capabilitiesOf } from '../src/capabilities.ts';
import {
  deadLetterCopy,
  fromMessage,
  hopCopy,
  redriveCopy,
  retryCopy,
  toDeadLetter,
  toWire,
  type Wire,
} from '../src/message.ts';
import { resolveOptions } from '../src/options.ts';
import { maxTopicBytes } from '../src/publisher.ts';

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
function arrived({ body, attributes }: Pick<Wire, 'body' | 'attributes'>): Message {
  return {
    MessageId: 'sqs-id',
    ReceiptHandle: 'handle',
    Body: body,
    MessageAttributes: attributes,
    Attributes: { SentTimestamp: '1700000000500', ApproximateReceiveCount: '1' },
  };
}

/** What AWS says of an attribute and of a body; no emulator says all of it. */
function expectAllowed({ body, attributes, bytes }: Wire): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is not allowed
  const illegal = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;
  expect(body.length).toBeGreaterThan(0);
  expect(illegal.test(body)).toBe(false);
  expect(body.isWellFormed()).toBe(true);
  const names = Object.keys(attributes);
  expect(names.length).toBeLessThanOrEqual(10);
  let sum = Buffer.byteLength(body);
  for (const name of names) {
    expect(name).toMatch(/^(?!aws\.|amazon\.)[A-Za-z0-9_-](\.?[A-Za-z0-9_-])*$/i);
    const { DataType = '', StringValue, BinaryValue } = attributes[name] ?? {};
    const value = StringValue ?? '';
    if (BinaryValue === undefined) expect(value.length).toBeGreaterThan(0);
    expect(illegal.test(value)).toBe(false);
    expect(value.isWellFormed()).toBe(true);
    sum +=
      Buffer.byteLength(name) + Buffer.byteLength(DataType) + (BinaryValue?.byteLength ?? Buffer.byteLength(value));
  }
  expect(bytes).toBe(sum);
}

const token = fc.string({ unit: fc.constantFrom(..."!#$%&'*+-.^_`|~09azx"), minLength: 1, maxLength: 100 });
const headerName = token.filter((one) => !one.startsWith('waybill-') && one !== '__proto__');
const text = fc.string({ unit: 'binary', maxLength: 40 }).filter((one) => one.isWellFormed());

describe('a message', () => {
  test('is text with attributes that other programs can read', () => {
    const wire = toWire(outgoing);
    expect(wire.body).toBe('{}');
    expect(wire.attributes).toMatchObject({
      'waybill-id': { DataType: 'String', StringValue: 'o-1' },
      'waybill-key': { StringValue: 'k' },
      'waybill-type': { StringValue: 'order.placed' },
      'waybill-content-type': { StringValue: 'application/json' },
      trace: { StringValue: 'é' },
    });
    expect(JSON.parse(wire.attributes['waybill-headers']?.StringValue ?? '')).toEqual({
      'waybill-published-at': '1700000000123',
      'waybill-expires-at': '1700000060000',
    });
  });

  test('arrives as it was published, within what AWS allows (PUB-02)', () => {
    const message = fc.record({
      id: text.filter((one) => one !== ''),
      key: fc.option(
        text.filter((one) => one !== ''),
        { nil: undefined },
      ),
      type: fc.option(
        text.filter((one) => one !== ''),
        { nil: undefined },
      ),
      body: fc.oneof(
        fc.uint8Array({ maxLength: 100 }),
        text.map((one) => new TextEncoder().encode(one)),
      ),
      headers: fc.dictionary(headerName, text, { maxKeys: 64, noNullPrototype: true }),
    });
    fc.assert(
      fc.property(message, (given) => {
        const wire = toWire({ ...outgoing, ...given });
        expectAllowed(wire);
        const read = fromMessage(arrived(wire));
        expect(read).toMatchObject({
          id: given.id,
          key: given.key,
          type: given.type,
          contentType: outgoing.contentType,
          publishedAt: outgoing.publishedAt,
          expiresAt: outgoing.expiresAt,
          attempt: 1,
        });
        expect(read.headers).toEqual(given.headers);
        expect(Buffer.from(read.body).equals(given.body)).toBe(true);
        // And so does every copy of it.
        for (const copy of [retryCopy(arrived(wire), 2, 5), deadLetterCopy(arrived(wire), details, 1024 * 1024)]) {
          expectAllowed(copy);
          expect(fromMessage(arrived(copy)).headers).toEqual(given.headers);
        }
      }),
      { numRuns: 300 },
    );
  }, 30_000);

  test('of the largest size has room for the fullest headers, also in its dead letter (PUB-03)', () => {
    const { maxMessageBytes } = capabilitiesOf(resolveOptions({ region: 'eu-west-1' }));
    const body = new Uint8Array(maxMessageBytes);
    for (const filling of ['v', '"', '\u0001', 'ü']) {
      const size = Math.floor(240 / Buffer.byteLength(filling));
      const headers = Object.fromEntries(Array.from({ length: 64 }, (_, n) => [`header-${n}`, filling.repeat(size)]));
      const full = { id: 'i'.repeat(128), key: filling.repeat(100), type: 't'.repeat(128), headers };
      const wire = toWire({ ...outgoing, ...full, body });
      expectAllowed(wire);
      expect(wire.bytes).toBeLessThanOrEqual(maxTopicBytes);
      const error = { ...details, errorMessage: filling.repeat(1_024), topic: 't'.repeat(100), group: 'g'.repeat(100) };
      const dead = deadLetterCopy(arrived(wire), error, maxTopicBytes);
      expect(toDeadLetter(arrived(dead)).details.errorMessage).toBe(error.errorMessage);
    }
  });

  test('of somebody else has sensible values (SUB-09)', () => {
    const attributes = {
      Trace: { DataType: 'String', StringValue: 'abc' },
      total: { DataType: 'Number', StringValue: '3' },
      contentType: { DataType: 'String', StringValue: 'text/plain' },
    };
    expect(fromMessage(arrived({ body: 'hello', attributes }))).toMatchObject({
      id: undefined,
      key: undefined,
      contentType: 'text/plain',
      headers: { Trace: 'abc', total: '3' },
      publishedAt: 1_700_000_000_500,
      position: 'sqs-id',
      attempt: 1,
    });
  });

  test('of somebody else keeps its types, id and time in copies, also with ten attributes', () => {
    const attributes = Object.fromEntries(
      Array.from({ length: 10 }, (_, n) => [
        `a${n}`,
        n % 2 === 0
          ? { DataType: 'Number.int', StringValue: String(n) }
          : { DataType: 'Binary', BinaryValue: new Uint8Array([n]) },
      ]),
    );
    const retry = retryCopy(arrived({ body: 'x', attributes }), 2, undefined);
    expectAllowed(retry);
    const later = { ...arrived(retry), MessageId: 'another', Attributes: { SentTimestamp: '1800000000000' } };
    expect(fromMessage(later)).toMatchObject({ position: 'sqs-id', publishedAt: 1_700_000_000_500, attempt: 2 });
    expect(Object.keys(fromMessage(later).headers)).toHaveLength(10);
    const again = redriveCopy(later);
    expect(again.attributes['a1']).toEqual({ DataType: 'Binary', BinaryValue: new Uint8Array([1]) });
  });

  test('of somebody else has its message group for a key, also in copies; ours has the key that it was given', () => {
    const inGroup = (message: Message, MessageGroupId: string): Message => ({
      ...message,
      Attributes: { ...message.Attributes, MessageGroupId },
    });
    const foreign = inGroup(arrived({ body: 'x', attributes: {} }), 'customer-1');
    expect(fromMessage(foreign).key).toBe('customer-1');
    expect(fromMessage(inGroup(arrived(retryCopy(foreign, 2, undefined)), 'another')).key).toBe('customer-1');
    const ours = inGroup(arrived(toWire({ ...outgoing, key: undefined })), outgoing.id);
    expect(fromMessage(ours).key).toBeUndefined();
    expect(fromMessage(inGroup(arrived(retryCopy(ours, 2, undefined)), 'another')).key).toBeUndefined();
  });

  test('that cannot be told from ours is still read', () => {
    for (const junk of ['{', '[]', '{"a":1,"b":["x"],"c":[1,2]}', 'null']) {
      const attributes = { 'waybill-headers': { DataType: 'String', StringValue: junk } };
      expect(fromMessage(arrived({ body: 'x', attributes })).headers).toEqual({});
    }
  });
});

describe('a copy', () => {
  test('of a retry carries attempt and time, and a hop changes nothing', () => {
    const retry = arrived(retryCopy(arrived(toWire(outgoing)), 3, 1_700_000_009_000));
    expect(fromMessage(retry)).toMatchObject({
      attempt: 3,
      deliverAt: 1_700_000_009_000,
      id: 'o-1',
      headers: { trace: 'é' },
    });
    expect(hopCopy(retry)).toMatchObject({ body: retry.Body, attributes: retry.MessageAttributes });
  });

  test('for the dead letters tells why, and a redrive forgets it (DLQ-04)', () => {
    const dead = arrived(deadLetterCopy(arrived(retryCopy(arrived(toWire(outgoing)), 3, 5)), details, 1024 * 1024));
    expect(toDeadLetter(dead)).toMatchObject({ id: 'o-1', details, expiresAt: outgoing.expiresAt });
    const again = fromMessage(arrived(redriveCopy(dead)));
    expect(again).toMatchObject({
      id: 'o-1',
      attempt: 1,
      expiresAt: undefined,
      deliverAt: undefined,
      headers: { trace: 'é' },
    });
    expect(toDeadLetter(arrived(redriveCopy(dead))).details.errorMessage).toBeUndefined();
  });

  test('that would be too large is cut in what is not the message (DLQ-06)', () => {
    const body = 'x'.repeat(10_000);
    const attributes = { big: { DataType: 'String', StringValue: 'y'.repeat(500) } };
    const fits = deadLetterCopy(arrived({ body, attributes }), details, 11_300);
    expect(fits.body).toBe(body);
    expect(fits.bytes).toBeLessThanOrEqual(11_300);
    expect(toDeadLetter(arrived(fits)).details).toMatchObject({
      entry: 'e-1',
      reason: 'exhausted',
      errorMessage: undefined,
    });
    const bare = deadLetterCopy(arrived({ body, attributes }), details, 10_000);
    expect(bare).toEqual({ body, attributes: {}, bytes: 10_000 });
  });

  test('that SQS itself moved there was not settled a thousand times', () => {
    const moved = toDeadLetter(arrived(toWire(outgoing)));
    expect(moved.details).toMatchObject({ reason: 'crashed', entry: 'sqs-id', at: 1_700_000_000_500 });
  });
});
