import type { Adapter, AdapterContext, AdapterFactory } from '@waybill/core/adapter';
import { PubsubConnection } from './connection.ts';
import { adapterName } from './errors.ts';
import { optionsFromUrl, type PubsubOptions, resolveOptions } from './options.ts';

export type { PubsubNative } from './connection.ts';
export type { PubsubOptions, ServiceAccount } from './options.ts';

/** Makes adapters for Google Cloud Pub/Sub: `connect(pubsub({ project: 'shop' }))`, or by URL. */
export interface PubsubFactory extends AdapterFactory {
  /** @throws ConfigError that names a wrong or unknown option (CFG-01) */
  (options?: PubsubOptions): Adapter;
}

/**
 * Google Cloud Pub/Sub, over gRPC with Google's generated clients.
 *
 * URL: `pubsub://project?…` with the parameters `endpoint`, `tls`, `keyFile`, `exactlyOnce`, `retainFor` and
 * `requestTimeout` of `PubsubOptions`, and `caFile`; `pubsub://project?endpoint=localhost:8085` is the emulator, also
 * through `PUBSUB_EMULATOR_HOST`.
 *
 * On the broker: a topic is a topic, under its own name, and a group is a subscription. A group has a topic and a
 * subscription more for its retries (without order) and for its dead letters. The key of an ordered topic is the
 * ordering key.
 *
 * Delivery: at least once, with a lease of 10 s or longer on each delivery. A publish is confirmed when the service has
 * it. What is delayed waits in the subscriptions that are to have it, hidden by its deadline in hops of ten minutes.
 *
 * Not supported: counting deliveries, so a message that kills its process is not noticed; attempts on ordered topics do
 * not outlive a crash; `peek` hides dead letters from others while it reads. `lag` reads what waits in order to count
 * it. A programme of its own that reads the topic sees delayed messages at once.
 */
export const pubsub: PubsubFactory = Object.assign(makeAdapter, {
  schemes: ['pubsub'],
  fromUrl: (url: string): Adapter => makeAdapter(optionsFromUrl(url)),
});
// A function's own name cannot be assigned, only defined.
Object.defineProperty(pubsub, 'name', { value: adapterName });

function makeAdapter(options: PubsubOptions = {}): Adapter {
  const settings = resolveOptions(options);
  return {
    name: adapterName,
    target: settings.target,
    connect: (context: AdapterContext) => PubsubConnection.open(settings, context),
  };
}
