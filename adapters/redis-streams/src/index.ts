// Augmented below; TypeScript looks up only modules that are imported.
import type {} from '@waybill/core';
import type { Adapter, AdapterContext, AdapterFactory } from '@waybill/core/adapter';
import { RedisConnection, type RedisStreamsNative } from './connection.ts';
import { adapterName } from './errors.ts';
import { optionsFromUrl, type RedisStreamsOptions, resolveOptions } from './options.ts';

export type { RedisStreamsNative } from './connection.ts';
export type { RedisStreamsOptions } from './options.ts';

declare module '@waybill/core' {
  interface NativeClients {
    /** The client that all but blocking reads go through. It repeats nothing, and a command waits for no reconnect. */
    'redis-streams': RedisStreamsNative;
  }
}

/** Makes adapters for Redis Streams: `connect(redisStreams({ hosts: 'cache1' }))`, or by URL. */
export interface RedisStreamsFactory extends AdapterFactory {
  /** @throws ConfigError that names a wrong or unknown option (CFG-01) */
  (options?: RedisStreamsOptions): Adapter;
}

/**
 * Redis 7.0 and later: streams with consumer groups, on one server, behind Sentinels or in a cluster.
 *
 * URL: `redis(s)://user:password@host:port,host2/db?…` with the parameters `mode`, `master`, `sentinelUser`,
 * `sentinelPassword`, `maxMessageBytes`, `commandTimeout`, `retainMessages` and `maxLength` of `RedisStreamsOptions`; with
 * `rediss`, `caFile`, `certFile`, `keyFile`, `passphrase` and `servername`.
 *
 * On the server: a topic is a stream of its name, a group is a consumer group on it, so programs without Waybill `XADD`
 * there and read with groups of their own. Retries and dead letters are streams of the group, what waits for its time
 * lies in sorted sets; all of a topic stands in one slot. An ordered topic is a stream per lane, and each lane of a
 * group has one owner at a time. Members move what is due: it waits while none runs.
 *
 * Delivery: at least once. A publish is confirmed when the server has it, by the server's own persistence: with
 * `appendfsync everysec` a crash costs up to a second of confirmed messages, with `always` none. A lease is a member's
 * presence, renewed while it runs; every settle checks in a script that the delivery is still its own.
 *
 * Not supported: attempts on ordered topics do not outlive a crash.
 */
export const redisStreams: RedisStreamsFactory = Object.assign(makeAdapter, {
  schemes: ['redis', 'rediss'],
  fromUrl: (url: string): Adapter => makeAdapter(optionsFromUrl(url)),
});
// A function's own name cannot be assigned, only defined.
Object.defineProperty(redisStreams, 'name', { value: adapterName });

function makeAdapter(options: RedisStreamsOptions = {}): Adapter {
  const settings = resolveOptions(options);
  return {
    name: adapterName,
    target: settings.target,
    connect: (context: AdapterContext) => RedisConnection.open(settings, context),
  };
}
