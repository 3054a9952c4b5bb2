import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { OutgoingMessage } from '../src/adapter.ts';
import { type Codec, jsonCodec } from '../src/codec.ts';
import { WaybillError } from '../src/errors.ts';
import type { StandardSchema } from '../src/schema.ts';
import { type AnyTopic, resolveTopic, topic } from '../src/topic.ts';
import type { PublishOptions } from '../src/types.ts';
import { encodeMessage } from '../src/validate.ts';
import { FakeClock } from './fake-clock.ts';

const now = Date.UTC(2030, 0, 1);
const text = (message: OutgoingMessage): string => Buffer.from(message.body).toString();

function encode(
  to: AnyTopic | string,
  data: unknown,
  options: PublishOptions = {},
  more: { ordered?: boolean; codec?: Codec; maxDelay?: number } = {},
): OutgoingMessage | Promise<OutgoingMessage> {
  const definition = resolveTopic(to);
  const { codec = jsonCodec, maxDelay = Number.POSITIVE_INFINITY } = more;
  const ordered = more.ordered ?? definition.ordered ?? false;
  const on = { name: definition.name, ordered, lanes: undefined, options: undefined };
  return encodeMessage(definition, on, data, options, { codec, clock: new FakeClock(now), adapter: 'kafka', maxDelay });
}

function encoded(...given: Parameters<typeof encode>): OutgoingMessage {
  const message = encode(...given);
  expect(message).not.toBeInstanceOf(Promise);
  return message as OutgoingMessage;
}

function refused(...given: Parameters<typeof encode>): WaybillError & { field?: string } {
  try {
    encode(...given);
  } catch (error) {
    expect(WaybillError.is(error)).toBe(true);
    return error as WaybillError;
  }
  throw new Error('nothing was thrown');
}

describe('a publish', () => {
  test('has its defaults filled in', () => {
    const message = encoded('orders', { total: 42 });
    expect(message).toMatchObject({
      topic: { name: 'orders', ordered: false },
      key: undefined,
      type: undefined,
      contentType: 'application/json',
      headers: {},
      publishedAt: now,
      deliverAt: undefined,
      expiresAt: undefined,
      options: undefined,
    });
    expect(text(message)).toBe('{"total":42}');
    expect(message.id).toMatch(/^[0-9a-f-]{36}$/);
    expect(encoded('orders', 1).id).not.toBe(message.id);
  });

  test('carries what it is given', () => {
    const options = {
      id: 'Ünï',
      key: 'k',
      type: 'order.placed',
      contentType: 'application/cloudevents+json',
      headers: { 'X-Trace': '', b: 'ü' },
      broker: { kafka: { acks: 1 }, rabbitmq: { mandatory: true } },
    };
    expect(encoded('orders', 1, options)).toMatchObject({
      id: 'Ünï',
      key: 'k',
      type: 'order.placed',
      contentType: 'application/cloudevents+json',
      headers: { 'x-trace': '', b: 'ü' },
      options: { acks: 1 },
    });
  });

  test('sends the input as it was given, not what the schema makes of it', () => {
    const schema = z.object({ n: z.string().transform(Number), note: z.string().default('none') });
    expect(text(encoded(topic('t', { schema }), { n: '1' }))).toBe('{"n":"1"}');
  });

  test('takes its key from the topic, unless one is given', () => {
    const orders = topic<{ id: string }>('orders', { key: (order) => order.id });
    expect(encoded(orders, { id: 'o-1' }).key).toBe('o-1');
    expect(encoded(orders, { id: 'o-1' }, { key: 'other' }).key).toBe('other');
    expect(encoded(topic<{ id?: string }>('t', { key: ({ id }) => id }), {}).key).toBeUndefined();
  });

  test('may be bytes, which are sent as they are', () => {
    const body = new Uint8Array([0, 255]);
    expect(encoded('raw', body)).toMatchObject({ body, contentType: 'application/octet-stream' });
    expect(encoded('raw', body, { contentType: 'image/png' })).toMatchObject({ body, contentType: 'image/png' });
    expect(encoded('raw', new Uint8Array()).body).toHaveLength(0);
    expect(encoded(topic('raw', { schema: z.instanceof(Uint8Array) }), body).body).toBe(body);
  });

  test('may be text, where its content type says so', () => {
    expect(text(encoded('t', 'hello', { contentType: 'text/plain' }))).toBe('hello');
    expect(text(encoded('t', 'hello'))).toBe('"hello"');
  });

  test('of an event has its type, and the key made of data and type', () => {
    const types = { placed: z.object({ id: z.string() }), cancelled: v.object({ id: v.string() }) };
    const events = topic('events', { types, key: (event, type) => `${type}:${event.id}` });
    expect(encoded(events.event('placed'), { id: 'a' })).toMatchObject({ type: 'placed', key: 'placed:a' });
    expect(encoded(events, { id: 'a' }, { type: 'cancelled' })).toMatchObject({ type: 'cancelled' });
    expect(refused(events.event('placed'), { id: 1 })).toMatchObject({ field: 'data.id' });
    expect(refused(events.event('placed'), { id: 'a' }, { type: 'cancelled' })).toMatchObject({ field: 'type' });
    expect(refused(events, { id: 'a' })).toMatchObject({ field: 'type' });
    expect(refused(events, { id: 'a' }, { type: 'constructor' })).toMatchObject({ field: 'type' });
  });

  test('uses the codec of the topic before the bus’s', () => {
    const codec = (name: string): Codec => ({
      contentType: `x/${name}`,
      encode: () => Buffer.from(name),
      decode: String,
    });
    expect(encoded('t', 1, {}, { codec: codec('bus') })).toMatchObject({ contentType: 'x/bus' });
    expect(encoded(topic('t', { codec: codec('topic') }), 1, {}, { codec: codec('bus') }).contentType).toBe('x/topic');
  });

  test('may have a schema that takes its time', async () => {
    const schema = z.string().refine(async (given) => given === 'yes');
    const later = encode(topic('t', { schema }), 'yes');
    expect(later).toBeInstanceOf(Promise);
    expect(text(await later)).toBe('"yes"');
    await expect(encode(topic('t', { schema }), 'no')).rejects.toMatchObject({
      code: 'INVALID_MESSAGE',
      field: 'data',
    });
  });
});

describe('invalid input is refused at the call, by name (PUB-10)', () => {
  const half = '\ud800';
  test.each<[string, PublishOptions, string]>([
    ['an empty id', { id: '' }, 'id'],
    ['a long id', { id: 'ä'.repeat(65) }, 'id'],
    ['half of a surrogate pair', { id: half }, 'id'],
    ['an id that is no text', { id: 1 as never }, 'id'],
    ['a long key', { key: 'k'.repeat(513) }, 'key'],
    ['an empty key', { key: '' }, 'key'],
    ['a long type', { type: 't'.repeat(129) }, 'type'],
    ['a content type that is none', { contentType: 'json' }, 'contentType'],
    ['a content type that JSON does not make', { contentType: 'image/png' }, 'contentType'],
    ['a line break in a content type', { contentType: 'text/plain;\r\nx: y' }, 'contentType'],
    ['headers that are a list', { headers: ['a'] as never }, 'headers'],
    [
      'too many headers',
      { headers: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`h${n}`, ''])) },
      'headers',
    ],
    ['a header without a name', { headers: { '': 'x' } }, 'headers.'],
    ['a header with a space', { headers: { 'a b': 'x' } }, 'headers.a b'],
    ['a header with a line break', { headers: { 'a\n': 'x' } }, 'headers.a\n'],
    ['a long header name', { headers: { ['a'.repeat(101)]: 'x' } }, `headers.${'a'.repeat(101)}`],
    ['our own prefix', { headers: { 'Waybill-Id': 'x' } }, 'headers.Waybill-Id'],
    ['a name that JavaScript swallows', { headers: JSON.parse('{"__proto__":"x"}') }, 'headers.__proto__'],
    ['a header given twice', { headers: { A: '1', a: '2' } }, 'headers.a'],
    ['a header that is no text', { headers: { a: 1 as never } }, 'headers.a'],
    ['a header that is undefined', { headers: { a: undefined as never } }, 'headers.a'],
    ['a long header', { headers: { a: 'ä'.repeat(2_049) } }, 'headers.a'],
    ['half of a surrogate pair in a header', { headers: { a: half } }, 'headers.a'],
    [
      'headers that are large together',
      { headers: Object.fromEntries([1, 2, 3, 4, 5].map((n) => [`h${n}`, 'x'.repeat(4_000)])) },
      'headers',
    ],
    ['both delay and deliverAt', { delay: 1, deliverAt: new Date() }, 'delay'],
    ['both ttl and expiresAt', { ttl: 1, expiresAt: new Date() }, 'ttl'],
    ['a delay that is none', { delay: 'soon' as never }, 'delay'],
    ['a negative delay', { delay: -1 }, 'delay'],
    ['a delay without an end', { delay: Number.POSITIVE_INFINITY }, 'delay'],
    ['a delay beyond all calendars', { delay: '9999999d' }, 'delay'],
    ['a date that is none', { deliverAt: new Date('x') }, 'deliverAt'],
    ['a date as text', { expiresAt: '2030-01-01' as never }, 'expiresAt'],
    ['a ttl that is none', { ttl: Number.NaN }, 'ttl'],
  ])('%s', (_, options, field) => {
    expect(refused('t', 1, options)).toMatchObject({ code: 'INVALID_MESSAGE', field });
  });

  test('an option that nobody reads', () => {
    expect(refused('t', 1, { header: {} } as never)).toMatchObject({ code: 'CONFIG', field: 'header' });
  });

  test('what just fits is fine', () => {
    const headers: Record<string, string> = { ['a'.repeat(100)]: 'x'.repeat(4_096), constructor: 'x', h: '🎈\n' };
    for (let n = 0; n < 61; n++) headers[`h${n}`] = '';
    const message = encoded('t', 1, { id: 'i'.repeat(128), key: '🎈'.repeat(128), headers });
    expect(message.headers).toEqual(headers);
  });

  test.each([
    [undefined, 'data'],
    [{ total: Number.NaN }, 'data.total'],
    [{ a: [{ b: 1n }] }, 'data.a[0].b'],
    [{ when: { by: new Map() } }, 'data.when.by'],
  ])('data that JSON cannot carry: %s', (data, field) => {
    expect(refused('t', data)).toMatchObject({ code: 'INVALID_MESSAGE', field });
  });

  test('data that does not fit the schema', () => {
    const schema = z.object({ total: z.number() });
    const failure = refused(topic('orders', { schema }), { total: '42' });
    expect(failure).toMatchObject({ code: 'INVALID_MESSAGE', field: 'data.total', issues: [{ path: 'data.total' }] });
    expect(failure.message).toContain('does not fit the schema of topic "orders"');
  });

  test('a key function that fails, or gives no text', () => {
    const failing = topic<{ a?: { id: string } }>('t', { key: (data) => (data.a as { id: string }).id });
    expect(refused(failing, {})).toMatchObject({ code: 'INVALID_MESSAGE', field: 'key' });
    expect(refused(topic<{ id: string }>('t', { key: ({ id }) => id }), { id: 7 })).toMatchObject({ field: 'key' });
  });

  test('a codec that fails', () => {
    const codec: Codec = {
      contentType: 'x/y',
      encode: () => {
        throw new Error('no such thing');
      },
      decode: () => undefined,
    };
    expect(refused(topic('t', { codec }), 1)).toMatchObject({ code: 'INVALID_MESSAGE', field: 'data' });
  });
});

describe('a schema has to survive the codec', () => {
  test('a date that comes back as text is told at the first publish, with what to do', () => {
    const strict = topic('strict', { schema: z.object({ at: z.date() }) });
    for (let n = 0; n < 2; n++) {
      const failure = refused(strict, { at: new Date() });
      expect(failure).toMatchObject({ code: 'INVALID_MESSAGE', field: 'data.at' });
      expect(failure.message).toContain('z.coerce.date()');
    }
    expect(text(encoded(topic('t', { schema: z.object({ at: z.coerce.date() }) }), { at: new Date(0) }))).toBe(
      '{"at":"1970-01-01T00:00:00.000Z"}',
    );
  });

  test('is asked once for a schema and a codec', () => {
    let calls = 0;
    const schema: StandardSchema = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) => {
          calls++;
          return { value };
        },
      },
    };
    const counted = topic('t', { schema });
    for (let n = 0; n < 3; n++) encoded(counted, 1);
    expect(calls).toBe(4);
    encoded(counted, 1, {}, { codec: { ...jsonCodec } });
    expect(calls).toBe(6);
  });

  test('may take its time too', async () => {
    const schema = z.object({ at: z.date().refine(async () => true) });
    await expect(encode(topic('t', { schema }), { at: new Date() })).rejects.toMatchObject({ field: 'data.at' });
  });
});

describe('time', () => {
  test('counts from the publish', () => {
    expect(encoded('t', 1, { delay: '1m', ttl: '1h' })).toMatchObject({
      deliverAt: now + 60_000,
      expiresAt: now + 3_600_000,
    });
    const at = new Date(now + 5);
    expect(encoded('t', 1, { deliverAt: at, expiresAt: at })).toMatchObject({ deliverAt: now + 5, expiresAt: now + 5 });
    expect(encoded('t', 1, { delay: 0.5 }).deliverAt).toBe(now + 1);
  });

  test('that has passed means at once, or expired', () => {
    const past = new Date(now - 1);
    expect(encoded('t', 1, { deliverAt: past, expiresAt: past })).toMatchObject({
      deliverAt: undefined,
      expiresAt: now - 1,
    });
    expect(encoded('t', 1, { delay: 0 }).deliverAt).toBeUndefined();
  });

  test('beyond what the adapter can do is unsupported (RETRY-05)', () => {
    expect(refused('t', 1, { delay: '25h' }, { maxDelay: 86_400_000 })).toMatchObject({
      code: 'UNSUPPORTED',
      capability: 'maxDelay',
      adapter: 'kafka',
    });
    expect(encoded('t', 1, { delay: '24h' }, { maxDelay: 86_400_000 }).deliverAt).toBe(now + 86_400_000);
  });
});

describe('an ordered topic (ORD-04)', () => {
  const ordered = topic<{ id: string }>('ordered', { ordered: true, key: ({ id }) => id });

  test('needs a key', () => {
    expect(encoded(ordered, { id: 'a' }).key).toBe('a');
    expect(refused(ordered, {})).toMatchObject({ code: 'INVALID_MESSAGE', field: 'key' });
    expect(refused('by-name', 1, {}, { ordered: true })).toMatchObject({ field: 'key' });
    expect(encoded('by-name', 1, { key: 'k' }, { ordered: true }).key).toBe('k');
  });

  test.each([{ delay: '1s' }, { delay: 0 }, { deliverAt: new Date() }] as const)('takes no %j', (options) => {
    expect(refused(ordered, { id: 'a' }, options)).toMatchObject({
      code: 'INVALID_MESSAGE',
      field: Object.keys(options)[0],
    });
  });
});
