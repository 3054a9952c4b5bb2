import { ConfigError } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { redisStreams } from '../src/index.ts';
import { optionsFromUrl, resolveOptions } from '../src/options.ts';

const settingsOf = (url: string): ReturnType<typeof resolveOptions> => resolveOptions(optionsFromUrl(url));

function fieldOf(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error.field;
    throw error;
  }
  return undefined;
}

describe('a URL', () => {
  test('alone is enough', () => {
    expect(settingsOf('redis://')).toMatchObject({
      mode: 'standalone',
      hosts: [{ host: 'localhost', port: 6379 }],
      user: undefined,
      password: undefined,
      db: 0,
      tls: undefined,
      maxMessageBytes: 16 * 1024 * 1024,
      commandTimeout: 5_000,
      retainMessages: 10_000,
      maxLength: undefined,
    });
  });

  test('says everything that has a text', async () => {
    const settings = settingsOf(
      'rediss://me:p%40ss@a:6380/3?maxMessageBytes=1000&commandTimeout=2s&retainMessages=5&maxLength=7&servername=r',
    );
    expect(settings).toMatchObject({
      hosts: [{ host: 'a', port: 6380 }],
      user: 'me',
      db: 3,
      tls: { servername: 'r' },
      maxMessageBytes: 1_000,
      commandTimeout: 2_000,
      retainMessages: 5,
      maxLength: 7,
    });
    expect(await settings.password?.()).toBe('p@ss');
  });

  test('names Sentinels, or nodes of a cluster', () => {
    expect(settingsOf('redis://a,b:26380,[::1]?mode=sentinel&master=shop&sentinelPassword=s')).toMatchObject({
      mode: 'sentinel',
      master: 'shop',
      sentinelPassword: 's',
      hosts: [
        { host: 'a', port: 26_379 },
        { host: 'b', port: 26_380 },
        { host: '::1', port: 26_379 },
      ],
    });
    expect(settingsOf('redis://a,b?mode=cluster').hosts).toHaveLength(2);
  });

  test('may have a password without a user', async () => {
    const settings = settingsOf('redis://:secret@host');
    expect(settings.user).toBeUndefined();
    expect(await settings.password?.()).toBe('secret');
  });

  test.each([
    ['redis://host?nonsense=1', 'url.nonsense'],
    ['redis://host?mode=primary', 'url.mode'],
    ['redis://host/first', 'url.path'],
    ['redis://a,b', 'redis-streams.hosts'],
    ['redis://a?master=m', 'redis-streams.master'],
    ['redis://a/1?mode=cluster', 'redis-streams.db'],
    ['redis://a?commandTimeout=1ms', 'redis-streams.commandTimeout'],
    ['redis://host?servername=x', 'url.servername'],
    ['rediss://host?caFile=/no/such/file', 'url.caFile'],
    ['redis://host:99999', 'url.host'],
  ])('%s is refused by name (CFG-01)', (url, field) => {
    expect(fieldOf(() => redisStreams.fromUrl(url))).toBe(field);
  });

  test('is shown without password', () => {
    expect(redisStreams.fromUrl('redis://me:secret@host/2').target).toBe('redis://host:6379/2');
    expect(redisStreams.fromUrl('rediss://:secret@a,b?mode=cluster').target).toBe('rediss://a:6379,b:6379');
  });
});

describe('options', () => {
  test('that nobody reads are refused by name (CFG-01)', () => {
    expect(fieldOf(() => redisStreams({ host: 'x' } as object))).toBe('redis-streams.host');
    expect(fieldOf(() => redisStreams({ hosts: 'redis://x' }))).toBe('redis-streams.hosts');
    expect(fieldOf(() => redisStreams({ retainMessages: -1 }))).toBe('redis-streams.retainMessages');
  });

  test('of TLS go to the socket as they are', () => {
    const tls = { ca: 'ca', rejectUnauthorized: true };
    expect(resolveOptions({ tls }).tls).toBe(tls);
    expect(resolveOptions({ tls: true }).tls).toEqual({});
  });

  test('make an adapter with a name', () => {
    expect(redisStreams.name).toBe('redis-streams');
    expect(redisStreams({ hosts: 'a' })).toMatchObject({ name: 'redis-streams', target: 'redis://a:6379' });
  });
});
