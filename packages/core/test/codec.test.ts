import fc from 'fast-check';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type Codec, jsonCodec, rawContentType } from '../src/codec.ts';
import { decodeMessage, UnknownTypeError } from '../src/decode.ts';
import { InvalidMessageError, WaybillError } from '../src/errors.ts';
import type { StandardSchema } from '../src/schema.ts';
import { type AnyTopic, resolveTopic, topic } from '../src/topic.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('JSON', () => {
  test('brings back whatever it takes', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (data) => {
        const wire = jsonCodec.encode(data);
        expect(jsonCodec.decode(wire, 'application/json')).toEqual(JSON.parse(JSON.stringify(data)));
      }),
    );
  });

  class Money {
    readonly amount = 3;
  }
  class Secret {
    readonly #value = 1;
    reveal(): number {
      return this.#value;
    }
  }

  test.each([
    ['a Date, as text', { at: new Date(0) }, { at: '1970-01-01T00:00:00.000Z' }],
    ['a URL, as text', new URL('http://a/b'), 'http://a/b'],
    ['an object of a class, as its properties', new Money(), { amount: 3 }],
    ['an object without a prototype', Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
    ['a property that is undefined, as none', { a: undefined, b: [{ c: undefined }] }, { b: [{}] }],
    ['null', null, null],
    ['half of a surrogate pair', '\ud800', '\ud800'],
    ['the same object twice', ((one) => [one, one])({ a: 1 }), [{ a: 1 }, { a: 1 }]],
  ])('takes %s', (_, data, back) => {
    expect(jsonCodec.decode(jsonCodec.encode(data), 'application/json')).toEqual(back);
  });

  test.each([
    ['undefined', undefined, 'data'],
    ['a function', () => {}, 'data'],
    ['a symbol', { a: Symbol('x') }, 'data.a'],
    ['NaN', { total: Number.NaN }, 'data.total'],
    ['Infinity', { lines: [{ price: 1 }, { price: Number.POSITIVE_INFINITY }] }, 'data.lines[1].price'],
    ['a bigint', { a: { b: 1n } }, 'data.a.b'],
    ['undefined in a list', [1, undefined], 'data[1]'],
    // biome-ignore lint/suspicious/noSparseArray: that is the case
    ['a hole in a list', [1, , 2], 'data[1]'],
    ['a Map', { 'odd name': new Map([[1, 2]]) }, 'data["odd name"]'],
    ['a Set', new Set([1]), 'data'],
    ['a RegExp', { a: /x/ }, 'data.a'],
    ['an Error', { cause: new Error('x') }, 'data.cause'],
    ['a promise', { a: Promise.resolve(1) }, 'data.a'],
    ['bytes inside of data', { image: new Uint8Array(2) }, 'data.image'],
    ['a Buffer inside of data', { image: Buffer.from('x') }, 'data.image'],
    ['an ArrayBuffer', new ArrayBuffer(2), 'data'],
    ['a class whose state is private', { secret: new Secret() }, 'data.secret'],
    ['a Date that is none', { at: new Date('x') }, 'data.at'],
    ['a method', { a: 1, run() {} }, 'data.run'],
  ])('refuses %s, and says where', (_, data, field) => {
    const failure = thrown(() => jsonCodec.encode(data));
    expect(failure).toBeInstanceOf(InvalidMessageError);
    expect(failure).toMatchObject({ code: 'INVALID_MESSAGE', field });
  });

  test('refuses what contains itself', () => {
    const data: { a: { back?: unknown } } = { a: {} };
    data.a.back = data;
    expect(thrown(() => jsonCodec.encode(data)).message).toContain('contains itself');
  });

  test('takes data that is nested deeply', () => {
    let data: unknown = 1;
    for (let i = 0; i < 1_000; i++) data = [data];
    expect(jsonCodec.decode(jsonCodec.encode(data), 'application/json')).toEqual(data);
  });

  test('of another realm is plain all the same', async () => {
    const { runInNewContext } = await import('node:vm');
    const data = runInNewContext('({ empty: {}, list: [{}] })');
    expect(jsonCodec.decode(jsonCodec.encode(data), 'application/json')).toEqual({ empty: {}, list: [{}] });
  });
});

describe('a body without a schema is read as its content type says', () => {
  const read = (contentType: string | undefined, body: Uint8Array, of: AnyTopic | string = 'bare'): unknown => {
    const decoded = decodeMessage(resolveTopic(of), jsonCodec, { body, contentType, type: undefined });
    expect(decoded).not.toBeInstanceOf(Promise);
    return (decoded as { data: unknown }).data;
  };

  test.each([
    'application/json',
    'application/json; charset=utf-8',
    'APPLICATION/JSON;charset="UTF-8"',
    'application/cloudevents+json',
    'text/json',
  ])('%s is JSON', (contentType) => {
    expect(read(contentType, bytes('{"a":"ü"}'))).toEqual({ a: 'ü' });
  });

  test('text is a string, by its charset', () => {
    expect(read('text/plain', bytes('1'))).toBe('1');
    expect(read('text/plain; charset=iso-8859-1', new Uint8Array([0xfc]))).toBe('ü');
  });

  test.each([rawContentType, 'image/png', 'application/xml', 'nonsense'])('%s is bytes', (contentType) => {
    const body = new Uint8Array([0, 255]);
    expect(read(contentType, body)).toBe(body);
  });

  test('none at all is JSON where it can be, else bytes', () => {
    expect(read(undefined, bytes('[1]'))).toEqual([1]);
    expect(read(undefined, bytes('hello'))).toEqual(bytes('hello'));
    expect(read(undefined, new Uint8Array())).toEqual(new Uint8Array());
  });

  test.each([
    ['application/json', bytes('{"a":')],
    ['application/json', new Uint8Array([0xff])],
    ['text/plain', new Uint8Array([0xff])],
    ['text/plain; charset=nonsense', bytes('a')],
  ])('%s that is none is an error', (contentType, body) => {
    expect(thrown(() => read(contentType, body))).toMatchObject({ code: 'INVALID_MESSAGE', field: 'body' });
  });

  test('a codec of the topic gets everything but raw bytes', () => {
    const hex: Codec = {
      contentType: 'application/hex',
      encode: (data) => Buffer.from(String(data), 'hex'),
      decode: (body, contentType) => [contentType, Buffer.from(body).toString('hex')],
    };
    const of = topic('hex', { codec: hex });
    expect(read('application/hex', new Uint8Array([255]), of)).toEqual(['application/hex', 'ff']);
    expect(read(undefined, new Uint8Array([255]), of)).toEqual(['application/hex', 'ff']);
    expect(read('text/plain', new Uint8Array([255]), of)).toEqual(['text/plain', 'ff']);
    expect(read(rawContentType, new Uint8Array([255]), of)).toEqual(new Uint8Array([255]));
  });
});

describe('a body with a schema', () => {
  const read = (
    schema: StandardSchema,
    contentType: string | undefined,
    body: Uint8Array,
  ): ReturnType<typeof decodeMessage> =>
    decodeMessage(resolveTopic(topic('t', { schema })), jsonCodec, { body, contentType, type: undefined });

  test('is given as the schema puts it out', () => {
    const zod = z.object({ at: z.coerce.date(), note: z.string().default('none') });
    const valibot = v.object({ n: v.pipe(v.string(), v.transform(Number)) });
    expect(read(zod, 'application/json', bytes('{"at":0}'))).toEqual({
      data: { at: new Date(0), note: 'none' },
      contentType: 'application/json',
    });
    expect(read(valibot, 'application/json', bytes('{"n":"1"}'))).toMatchObject({ data: { n: 1 } });
  });

  test.each([undefined, rawContentType, 'text/plain', 'application/x-www-form-urlencoded'])(
    'labelled %s is read as JSON where the schema wants it',
    (contentType) => {
      expect(read(z.object({ a: z.number() }), contentType, bytes('{"a":1}'))).toMatchObject({ data: { a: 1 } });
    },
  );

  test('is bytes or text where the schema wants those', () => {
    const body = bytes('12');
    expect(read(z.instanceof(Uint8Array), rawContentType, body)).toMatchObject({ data: body });
    expect(read(z.string(), 'text/plain', body)).toMatchObject({ data: '12' });
    expect(read(z.number(), 'text/plain', body)).toMatchObject({ data: 12 });
  });

  test('that does not fit says every issue, and names the first', () => {
    const failure = thrown(() =>
      read(
        z.object({ lines: z.array(z.object({ n: z.number() })), id: z.string() }),
        'application/json',
        bytes('{"lines":[{"n":"x"}]}'),
      ),
    );
    expect(failure).toMatchObject({ code: 'INVALID_MESSAGE', field: 'data.lines[0].n' });
    expect((failure as InvalidMessageError).issues.map(({ path }) => path)).toEqual(['data.lines[0].n', 'data.id']);
    expect(failure.message).toContain('(and 1 more)');
    const valibot = thrown(() => read(v.object({ a: v.object({ b: v.string() }) }), undefined, bytes('{"a":{"b":1}}')));
    expect(valibot).toMatchObject({ field: 'data.a.b' });
  });

  test('may be checked asynchronously', async () => {
    const schema = z.string().refine(async (text) => text === 'yes');
    await expect(read(schema, 'application/json', bytes('"yes"'))).resolves.toMatchObject({ data: 'yes' });
    await expect(read(schema, 'application/json', bytes('"no"'))).rejects.toMatchObject({ field: 'data' });
    await expect(read(schema, rawContentType, bytes('"yes"'))).resolves.toMatchObject({ data: 'yes' });
  });

  test('whose schema throws is invalid, not a crash', async () => {
    const broken = (validate: () => never): StandardSchema => ({
      '~standard': { version: 1, vendor: 'test', validate },
    });
    const fault = broken(() => {
      throw new Error('out of order');
    });
    expect(thrown(() => read(fault, 'application/json', bytes('1')))).toMatchObject({ code: 'INVALID_MESSAGE' });
    const rejecting = broken((() => Promise.reject(new Error('out of order'))) as () => never);
    await expect(read(rejecting, 'application/json', bytes('1'))).rejects.toMatchObject({ code: 'INVALID_MESSAGE' });
  });
});

describe('event types', () => {
  const events = resolveTopic(topic('events', { types: { a: z.object({ n: z.number() }), b: v.string() } }));
  const read = (type: string | undefined, text: string): unknown =>
    decodeMessage(events, jsonCodec, { body: bytes(text), contentType: 'application/json', type });

  test('have a schema each', () => {
    expect(read('a', '{"n":1}')).toMatchObject({ data: { n: 1 } });
    expect(read('b', '"x"')).toMatchObject({ data: 'x' });
    expect(thrown(() => read('b', '{"n":1}'))).toMatchObject({ code: 'INVALID_MESSAGE', field: 'data' });
  });

  test.each(['c', undefined, 'constructor', '__proto__'])('%s is unknown', (type) => {
    const failure = thrown(() => read(type, '{}'));
    expect(failure).toBeInstanceOf(UnknownTypeError);
    expect(failure).toMatchObject({ code: 'INVALID_MESSAGE', field: 'type' });
  });
});

function thrown(run: () => unknown): WaybillError {
  try {
    run();
  } catch (error) {
    expect(WaybillError.is(error)).toBe(true);
    return error as WaybillError;
  }
  throw new Error('nothing was thrown');
}
