import { ConfigError } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { rabbitmq } from '../src/index.ts';
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
    expect(settingsOf('amqp://')).toMatchObject({
      hosts: [{ host: 'localhost', port: 5672 }],
      user: 'guest',
      vhost: '/',
      auth: 'plain',
      tls: undefined,
      heartbeat: 5_000,
      queueType: 'quorum',
      maxMessageBytes: 16 * 1024 * 1024,
      consumerTimeout: 1_800_000,
      queueConsumerTimeout: undefined,
    });
  });

  test('says everything that has a text', async () => {
    const settings = settingsOf(
      'amqps://me:p%40ss@a,b:5679,[::1]/v%2Fh?heartbeat=10s&queueType=classic&maxMessageBytes=1000&consumerTimeout=2h&confirmTimeout=3s&auth=amqplain&servername=mq&exchange=own',
    );
    expect(settings).toMatchObject({
      hosts: [
        { host: 'a', port: 5671 },
        { host: 'b', port: 5679 },
        { host: '::1', port: 5671 },
      ],
      user: 'me',
      auth: 'amqplain',
      vhost: 'v/h',
      tls: { servername: 'mq' },
      heartbeat: 10_000,
      queueType: 'classic',
      exchange: 'own',
      maxMessageBytes: 1_000,
      consumerTimeout: 7_200_000,
      queueConsumerTimeout: 7_200_000,
      confirmTimeout: 3_000,
    });
    expect(await settings.password()).toBe('p@ss');
  });

  test('with an empty path means the default vhost', () => {
    expect(settingsOf('amqp://host/').vhost).toBe('/');
    expect(settingsOf('amqp://host/%2F').vhost).toBe('/');
  });

  test.each([
    ['amqp://host?nonsense=1', 'url.nonsense'],
    ['amqp://host?heartbeat=10', 'rabbitmq.heartbeat'],
    ['amqp://host?heartbeat=1500ms', 'rabbitmq.heartbeat'],
    ['amqp://host?queueType=stream', 'url.queueType'],
    ['amqp://host?consumerTimeout=1s', 'rabbitmq.consumerTimeout'],
    ['amqp://host?servername=x', 'url.servername'],
    ['amqps://host?caFile=/no/such/file', 'url.caFile'],
    ['amqp://host:99999', 'url.host'],
  ])('%s is refused by name (CFG-01)', (url, field) => {
    expect(fieldOf(() => rabbitmq.fromUrl(url))).toBe(field);
  });

  test('is shown without password', () => {
    const { target } = rabbitmq.fromUrl('amqp://me:secret@host/vhost');
    expect(target).toBe('amqp://host:5672/vhost');
  });
});

describe('options', () => {
  test('that nobody reads are refused by name (CFG-01)', () => {
    expect(fieldOf(() => rabbitmq({ heartbeats: 1 } as object))).toBe('rabbitmq.heartbeats');
    expect(fieldOf(() => rabbitmq({ hosts: 'amqp://x' }))).toBe('rabbitmq.hosts');
    expect(fieldOf(() => rabbitmq({ maxMessageBytes: 0 }))).toBe('rabbitmq.maxMessageBytes');
  });

  test('of TLS go to the socket as they are', () => {
    const tls = { ca: 'ca', rejectUnauthorized: true };
    expect(resolveOptions({ tls }).tls).toBe(tls);
    expect(resolveOptions({ tls: true })).toMatchObject({ tls: {}, hosts: [{ port: 5671 }] });
  });

  test('make an adapter with a name', () => {
    expect(rabbitmq.name).toBe('rabbitmq');
    expect(rabbitmq({ hosts: ['a', 'b:1'] })).toMatchObject({ name: 'rabbitmq', target: 'amqp://a:5672,b:1/' });
  });
});
