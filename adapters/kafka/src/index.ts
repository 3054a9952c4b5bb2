/**
 * Waybill on Kafka 2.4 and later.
 *
 * URL: `kafka://[user:password@]host[:port][,host[:port]…]`, `kafka+ssl://…` for TLS. Parameters: `ssl=true`,
 * `saslMechanism=plain|scram-sha-256|scram-sha-512` (default plain, when there is a user), `partitions`,
 * `replicationFactor`, `maxMessageBytes`, `compression=none|gzip`, `requestTimeout`. `kafka({ … })` takes these and
 * what does not fit a URL (`KafkaOptions`).
 *
 * Per topic, under `broker: { kafka: … }`: `partitions`, `replicationFactor`, `config` (`KafkaTopicOptions`).
 *
 * On the broker: a topic is a topic, a group of a topic is a consumer group, with a retry topic and a compacted topic
 * of dead letters of its own; all groups of a prefix share the delay levels `waybill-delay.v1.*`. Body, key and time
 * are the record's own; the rest stands in `waybill-` headers.
 *
 * Delivery: at least once. Stored means acknowledged by all in-sync replicas; the producer is idempotent, so a lost
 * reply doubles nothing unless it stays lost. What is done beyond a message that is not is kept in the commit, so a
 * crash brings back only what was in hand. Members take partitions over in two steps, so that joining and leaving
 * double nothing, unless a handler goes on for longer than a lease after another member has joined. A lease is the
 * session of the group: 6 s to 30 min, and handling has no bound.
 *
 * Unsupported: attempts of ordered topics that outlive a crash, and a count of deliveries, because Kafka has neither;
 * members beside plain Kafka clients in one group.
 */
// Augmented below; TypeScript looks up only modules that are imported.
import type {} from '@waybill/core';
import type { Adapter } from '@waybill/core/adapter';
import type { Kafka } from 'kafkajs';
import { connectKafka } from './connection.ts';
import { adapter } from './errors.ts';
import { type KafkaOptions, readSettings, readUrl, type Settings } from './options.ts';

export type { KafkaOptions } from './options.ts';
export type { KafkaTopicOptions } from './topology.ts';

declare module '@waybill/core' {
  interface NativeClients {
    /** A kafkajs client with the adapter's settings, to make admins, producers and consumers of; nothing of it is connected. */
    kafka: Kafka;
  }
}

/** Makes adapters for Kafka; called with options, or by `connect` with a URL. */
export interface KafkaFactory {
  /** @throws ConfigError that names a wrong option */
  (options: KafkaOptions): Adapter;
  readonly name: string;
  readonly schemes: readonly string[];
  /** @throws ConfigError that names an unknown parameter or a wrong value (CFG-01) */
  fromUrl(url: string): Adapter;
}

const open = (settings: Settings): Adapter => ({
  name: adapter,
  target: settings.target,
  connect: (context) => connectKafka(settings, context),
});

export const kafka: KafkaFactory = Object.defineProperty(
  Object.assign((options: KafkaOptions) => open(readSettings(options)), {
    schemes: ['kafka', 'kafka+ssl'],
    fromUrl: (url: string) => open(readUrl(url)),
  }),
  // A function has a name of its own, which assignment cannot change.
  'name',
  { value: adapter },
);
