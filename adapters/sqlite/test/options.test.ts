import { resolve } from 'node:path';
import { ConfigError } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type SqliteOptions, sqlite } from '../src/index.ts';
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
    expect(settingsOf('sqlite:./orders.db')).toEqual({
      path: resolve('orders.db'),
      target: `sqlite:${resolve('orders.db')}`,
      synchronous: 'full',
      busyTimeout: 5_000,
      pollInterval: 1_000,
      retainFor: 7 * 86_400_000,
      retainBytes: 256 * 1_024 * 1_024,
      maxMessageBytes: 16 * 1_024 * 1_024,
    });
  });

  test('says everything that can be said', () => {
    const url =
      'sqlite:/var/lib/orders.db?synchronous=normal&busyTimeout=2s&pollInterval=50ms&retainFor=1h&retainBytes=0&maxMessageBytes=10';
    expect(settingsOf(url)).toMatchObject({
      path: '/var/lib/orders.db',
      synchronous: 'normal',
      busyTimeout: 2_000,
      pollInterval: 50,
      retainFor: 3_600_000,
      retainBytes: 0,
      maxMessageBytes: 10,
    });
  });

  test('leads to the same file in each of its forms', () => {
    for (const url of ['sqlite:/a/b c.db', 'sqlite:/a/b%20c.db', 'sqlite:///a/b%20c.db', 'sqlite:/a/x/../b c.db']) {
      expect(settingsOf(url).path).toBe('/a/b c.db');
    }
  });

  test('can name every path', () => {
    const path = fc.string({ minLength: 1, unit: 'grapheme' }).filter((text) => !text.includes('\0'));
    fc.assert(
      fc.property(path, (name) => {
        expect(settingsOf(`sqlite:/data/${encodeURIComponent(name)}`).path).toBe(resolve(`/data/${name}`));
      }),
    );
  });

  test('is refused by the name of what is wrong', () => {
    expect(fieldOf(() => sqlite.fromUrl('sqlite:a.db?nonsense=1'))).toBe('url.nonsense');
    expect(fieldOf(() => sqlite.fromUrl('sqlite:a.db?synchronous=off'))).toBe('url.synchronous');
    expect(fieldOf(() => sqlite.fromUrl('sqlite:a.db?retainFor=soon'))).toBe('url.retainFor');
    for (const url of ['sqlite:', 'sqlite://', 'sqlite:/', 'sqlite::memory:', 'sqlite://host/a.db']) {
      expect(
        fieldOf(() => sqlite.fromUrl(url)),
        url,
      ).toBe('url');
    }
  });
});

test.each<[string, Partial<SqliteOptions> & Record<string, unknown>]>([
  ['sqlite.path', { path: '' }],
  ['sqlite.nonsense', { nonsense: 1 }],
  ['sqlite.synchronous', { synchronous: 'off' as never }],
  ['sqlite.busyTimeout', { busyTimeout: 'soon' as never }],
  ['sqlite.pollInterval', { pollInterval: 1 }],
  ['sqlite.retainFor', { retainFor: -1 }],
  ['sqlite.retainBytes', { retainBytes: -1 }],
  ['sqlite.maxMessageBytes', { maxMessageBytes: 0 }],
  ['sqlite.maxMessageBytes', { maxMessageBytes: 2 ** 30 }],
])('options are refused by name: %s', (field, options) => {
  expect(fieldOf(() => sqlite({ path: 'a.db', ...options }))).toBe(field);
});
