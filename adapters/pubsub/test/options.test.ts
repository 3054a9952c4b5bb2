import { afterEach, describe, expect, test, vi } from 'vitest';
import { pubsub } from '../src/index.ts';
import { optionsFromUrl, resolveOptions } from '../src/options.ts';

afterEach(() => vi.unstubAllEnvs());

const wrong = (field: string): unknown => expect.objectContaining({ code: 'CONFIG', field });

describe('options', () => {
  test('come from a URL', () => {
    vi.stubEnv('PUBSUB_EMULATOR_HOST', '');
    const url = 'pubsub://shop?endpoint=localhost:8085&exactlyOnce=true&retainFor=7d&requestTimeout=5s';
    expect(resolveOptions(optionsFromUrl(url))).toMatchObject({
      project: 'shop',
      endpoint: { host: 'localhost', port: 8085 },
      tls: false,
      exactlyOnce: true,
      retainFor: 7 * 86_400_000,
      requestTimeout: 5_000,
      target: 'pubsub://shop?endpoint=localhost:8085',
    });
    expect(resolveOptions(optionsFromUrl('pubsub://shop?retainFor=false'))).toMatchObject({
      endpoint: undefined,
      tls: true,
      retainFor: undefined,
      exactlyOnce: false,
      target: 'pubsub://shop',
    });
  });

  test('come from the environment where nothing is said', () => {
    vi.stubEnv('PUBSUB_EMULATOR_HOST', 'emulator:8085');
    vi.stubEnv('GOOGLE_CLOUD_PROJECT', 'env-project');
    expect(resolveOptions({})).toMatchObject({ project: 'env-project', endpoint: { host: 'emulator', port: 8085 } });
    expect(resolveOptions({ project: 'mine', endpoint: 'other:1' })).toMatchObject({
      project: 'mine',
      endpoint: { host: 'other', port: 1 },
    });
  });

  test('take a regional endpoint for the service itself, which speaks TLS and has Google credentials', () => {
    const region = 'europe-west1-pubsub.googleapis.com';
    for (const url of [`pubsub://shop?endpoint=${region}`, `pubsub://shop?endpoint=${region}:443&tls=true`]) {
      expect(resolveOptions(optionsFromUrl(url))).toMatchObject({
        service: true,
        tls: true,
        endpoint: { host: region, port: 443 },
      });
    }
    expect(resolveOptions({ project: 'x', endpoint: 'proxy.example:443', tls: true })).toMatchObject({
      service: false,
    });
    expect(() => resolveOptions({ project: 'x', endpoint: region, tls: { ca: 'pem' } })).toThrow(wrong('pubsub.tls'));
  });

  test('that are wrong are named', () => {
    vi.stubEnv('GOOGLE_CLOUD_PROJECT', undefined);
    vi.stubEnv('PUBSUB_EMULATOR_HOST', '');
    expect(() => pubsub({ projects: 'x' } as never)).toThrow(wrong('pubsub.projects'));
    expect(() => pubsub()).toThrow(wrong('pubsub.project'));
    expect(() => pubsub({ project: 'x', endpoint: 'host:port' })).toThrow(wrong('pubsub.endpoint'));
    expect(() => pubsub({ project: 'x', tls: true })).toThrow(wrong('pubsub.tls'));
    expect(() => pubsub({ project: 'x', retainFor: '1m' })).toThrow(wrong('pubsub.retainFor'));
    expect(() => pubsub({ project: 'x', requestTimeout: 1 })).toThrow(wrong('pubsub.requestTimeout'));
    expect(() => pubsub.fromUrl('pubsub://shop?nonsense=1')).toThrow(wrong('url.nonsense'));
    expect(() => pubsub.fromUrl('pubsub://shop/topic')).toThrow(wrong('url'));
    expect(() => pubsub.fromUrl('pubsub://shop?caFile=/x')).toThrow(wrong('url.caFile'));
  });

  test('make an adapter that names itself and its target', () => {
    expect(pubsub.name).toBe('pubsub');
    expect(pubsub.schemes).toEqual(['pubsub']);
    expect(pubsub({ project: 'shop', endpoint: 'localhost:8085' })).toMatchObject({
      name: 'pubsub',
      target: 'pubsub://shop?endpoint=localhost:8085',
    });
  });
});
