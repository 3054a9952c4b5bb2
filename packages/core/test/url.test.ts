import { describe, expect, test } from 'vitest';
import { ConfigError } from '../src/errors.ts';
import { checkOptions, hidePassword, param, parseBrokerUrl, readParams } from '../src/url.ts';

describe('a broker URL', () => {
  test('has user, password, hosts, path and parameters', () => {
    const url = parseBrokerUrl('AMQPS://me%40x:p%3Aa:ss@a.example:5671,[::1]:5672,b/v%2Fhost?heartbeat=5s&name=a%20b');
    expect(url).toMatchObject({
      scheme: 'amqps',
      user: 'me@x',
      password: 'p:a:ss',
      hosts: [
        { host: 'a.example', port: 5671 },
        { host: '::1', port: 5672 },
        { host: 'b', port: undefined },
      ],
      path: 'v/host',
    });
    expect([...url.params]).toEqual([
      ['heartbeat', '5s'],
      ['name', 'a b'],
    ]);
  });

  test.each([
    ['memory:', { scheme: 'memory', hosts: [], path: '', shown: 'memory:' }],
    ['memory:name?a=1', { path: 'name', shown: 'memory:name' }],
    ['sqlite:./orders.db', { scheme: 'sqlite', path: './orders.db' }],
    ['kafka://a', { hosts: [{ host: 'a', port: undefined }], path: undefined }],
    ['amqp://localhost/', { path: '' }],
    ['redis://:secret@h/0', { user: '', password: 'secret', shown: 'redis://h/0' }],
    ['sqs://eu-west-1?endpoint=http://localhost:4566', { hosts: [{ host: 'eu-west-1', port: undefined }] }],
    ['amqp://a@b@host', { user: 'a@b', hosts: [{ host: 'host', port: undefined }] }],
  ])('%s is read', (text, expected) => {
    expect(parseBrokerUrl(text)).toMatchObject(expected);
  });

  test.each([
    ['localhost', 'url'],
    ['', 'url'],
    ['kafka://a,,b', 'url.host'],
    ['kafka://a:0', 'url.host'],
    ['kafka://a:70000', 'url.host'],
    ['kafka://a:x', 'url.host'],
    ['amqp://h/%zz', 'url.path'],
    ['amqp://u:%zz@h', 'url.password'],
    ['amqp://h?a=1&a=2', 'url.a'],
  ])('%s is refused', (text, field) => {
    expect(() => parseBrokerUrl(text)).toThrow(expect.objectContaining({ code: 'CONFIG', field }));
  });

  test('never shows its password', () => {
    const secret = 'hunter2';
    expect(parseBrokerUrl(`amqp://me:${secret}@h/v?key=${secret}`).shown).toBe('amqp://h/v');
    for (const text of [
      `amqp://me:${secret}@h:x/`,
      `//me:${secret}@h`,
      `amqp://me:${secret}%zz@h`,
      `amqp://me:${secret}/x@h`,
      `amqp://me:${secret}?x@h`,
      `amqp://h?a=1&a=${secret}`,
    ]) {
      expect(messageOf(() => parseBrokerUrl(text))).not.toContain(secret);
    }
    expect(parseBrokerUrl('amqp://me:1234/5@h').shown).toBe('amqp://…@h');
  });

  test.each([
    ['amqp://me:secret@h/v?x=secret', 'amqp://…@h/v'],
    ['amqp://me:secret@x@h', 'amqp://…@h'],
    ['amqp://me:se/cret@h', 'amqp://…@h'],
    ['amqp://me:se?cret@h', 'amqp://…'],
    ['me:secret@h', 'me:…@h'],
    ['//me:secret@h', '//…@h'],
    ['amqp://h/v?x=secret', 'amqp://h/v'],
    ['localhost', 'localhost'],
  ])('%s is shown as %s', (text, shown) => {
    expect(hidePassword(text)).toBe(shown);
  });
});

describe('parameters', () => {
  const readers = {
    heartbeat: param.duration,
    prefetch: param.integer,
    durable: param.boolean,
    name: param.text,
    type: param.oneOf('quorum', 'classic'),
  };
  const read = (query: string): object => readParams(parseBrokerUrl(`amqp://h?${query}`), readers);

  test('are read by kind', () => {
    expect(read('heartbeat=5s&prefetch=10&durable=true&name=a&type=classic')).toEqual({
      heartbeat: 5_000,
      prefetch: 10,
      durable: true,
      name: 'a',
      type: 'classic',
    });
    expect(read('')).toEqual({});
  });

  test.each(['heartbeat=x', 'prefetch=-1', 'prefetch=1.5', 'durable=yes', 'type=stream', 'unknown=1', 'constructor=1'])(
    '%s is refused by name (CFG-01)',
    (query) => {
      const field = `url.${query.split('=')[0]}`;
      expect(() => read(query)).toThrow(expect.objectContaining({ code: 'CONFIG', field }));
    },
  );
});

test('an option that nobody reads is refused by name, with those that are read (CFG-01)', () => {
  expect(() => checkOptions({ a: 1 }, ['a', 'b'], 'x')).not.toThrow();
  expect(() => checkOptions({ c: 1 }, ['a', 'b'], 'x')).toThrow('x.c: unknown option; known are a, b');
  expect(() => checkOptions({ c: 1 }, ['a', 'b'], '')).toThrow('c: unknown option');
});

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
  throw new Error('nothing was thrown');
}
