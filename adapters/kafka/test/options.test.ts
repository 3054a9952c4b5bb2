import { describe, expect, test } from 'vitest';
import { kafka } from '../src/index.ts';
import { readSettings, readUrl } from '../src/options.ts';

describe('a URL', () => {
  test('names brokers, credentials and parameters', () => {
    const settings = readUrl(
      'kafka://app:p%40ss@one,two:9093?ssl=true&saslMechanism=scram-sha-512&partitions=3&replicationFactor=2&requestTimeout=5s',
    );
    expect(settings).toMatchObject({
      brokers: [
        { host: 'one', port: 9092 },
        { host: 'two', port: 9093 },
      ],
      ssl: true,
      sasl: { mechanism: 'scram-sha-512', username: 'app', password: 'p@ss' },
      partitions: 3,
      replicationFactor: 2,
      requestTimeout: 5_000,
    });
  });

  test('kafka+ssl is TLS, and an IPv6 address is one', () => {
    expect(readUrl('kafka+ssl://[::1]:9094')).toMatchObject({ ssl: true, brokers: [{ host: '::1', port: 9094 }] });
  });

  test('never shows its password', () => {
    expect(kafka.fromUrl('kafka://app:secret@one').target).toBe('kafka://one:9092');
  });

  test('is shown as one could write it', () => {
    expect(kafka.fromUrl('kafka://[::1],one:9093').target).toBe('kafka://[::1]:9092,one:9093');
  });

  test.each([
    ['kafka://one?nonsense=1', /nonsense/],
    ['kafka://one?partitions=few', /partitions/],
    ['kafka://one?saslMechanism=plain', /saslMechanism/],
    ['kafka://one/topic', /path/],
    ['kafka:', /host/],
    ['kafka://one:0', /one:0/],
    ['kafka://one:99999', /one:99999/],
  ])('%s is refused', (url, why) => {
    expect(() => readUrl(url)).toThrow(why);
  });
});

describe('options', () => {
  test('take brokers as text or list', () => {
    expect(readSettings({ brokers: 'a:1, b' }).brokers).toEqual(readSettings({ brokers: ['a:1', 'b:9092'] }).brokers);
  });

  test.each([
    [{ brokers: [] }, /brokers/],
    [{ brokers: ['a:0'] }, /a:0/],
    [{ brokers: 'a:99999' }, /a:99999/],
    [{ brokers: 'kafka://a' }, /kafka:\/\/a/],
    [{ brokers: 'a', partitions: 0 }, /partitions/],
    [{ brokers: 'a', replicationFactor: 1.5 }, /replicationFactor/],
    [{ brokers: 'a', maxMessageBytes: 100 }, /maxMessageBytes/],
    [{ brokers: 'a', brokrs: 'a' }, /brokrs/],
  ])('%o is refused', (options, why) => {
    expect(() => kafka(options)).toThrow(why);
  });
});

test('a URL with credentials among the brokers is refused without its password', () => {
  expect(() => kafka({ brokers: 'app:secret@one:9092' })).toThrow(/^(?!.*secret).*@one:9092/);
});

test('the factory is one and a function', () => {
  expect(kafka.name).toBe('kafka');
  expect(kafka.schemes).toEqual(['kafka', 'kafka+ssl']);
});
