import type { ConnectionOptions } from 'node:tls';
import {
  ConfigError,
  checkOptions,
  type Duration,
  duration,
  type Host,
  hostsOf,
  param,
  parseBrokerUrl,
  parseHosts,
  readParams,
  showHost,
} from '@waybill/core/adapter';
import type { Mechanism, SASLOptions } from 'kafkajs';

/** What `kafka({ … })` takes. */
export interface KafkaOptions {
  /** `host:port`, one or several of the cluster; the port is 9092 unless given. */
  readonly brokers: string | readonly string[];
  /** TLS, with Node's options for it where the system's certificates do not do. Default false. */
  readonly ssl?: boolean | ConnectionOptions;
  /** `{ mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512', username, password }`, `oauthbearer`, `aws`, or a mechanism of your own, as kafkajs takes them. */
  readonly sasl?: SASLOptions | Mechanism;
  /** Partitions of a topic that is made without order; default 6. One with order has its `lanes`. */
  readonly partitions?: number;
  /** Of every topic that is made; default: the broker's own default. */
  readonly replicationFactor?: number;
  /**
   * The broker's `message.max.bytes`, in bytes; default 1,048,588 as the broker's. Topics that are made get it where it
   * is another. A body may be 20 KiB smaller.
   */
  readonly maxMessageBytes?: number;
  /** How what is published is compressed on the wire and on disk; default 'none'. */
  readonly compression?: 'none' | 'gzip';
  /** How long a broker may take for an answer; default '10s'. */
  readonly requestTimeout?: Duration;
}

export interface Settings {
  readonly brokers: readonly Host[];
  readonly target: string;
  readonly ssl: boolean | ConnectionOptions;
  readonly sasl: SASLOptions | Mechanism | undefined;
  readonly partitions: number;
  readonly replicationFactor: number;
  readonly maxMessageBytes: number;
  readonly compression: 'none' | 'gzip';
  readonly requestTimeout: number;
}

export const DEFAULT_MAX_MESSAGE_BYTES = 1_048_588;

/** Of a message's size: id, key, headers by the portable limits, our own headers, Kafka's framing. */
export const RESERVE = 20_480;

const known = [
  'brokers',
  'ssl',
  'sasl',
  'partitions',
  'replicationFactor',
  'maxMessageBytes',
  'compression',
  'requestTimeout',
];

/** @throws ConfigError that names the option */
export function readSettings(options: KafkaOptions): Settings {
  checkOptions(options, known, 'kafka');
  const brokers = parseHosts(options.brokers ?? [], DEFAULT_PORT, 'kafka.brokers');
  const { ssl = false, sasl, compression = 'none' } = options;
  if (compression !== 'none' && compression !== 'gzip') {
    throw new ConfigError('kafka.compression', `"${String(compression)}" is neither none nor gzip`);
  }
  return {
    brokers,
    target: `kafka://${brokers.map(showHost).join(',')}`,
    ssl,
    sasl,
    partitions: whole('kafka.partitions', options.partitions ?? 6, 1),
    replicationFactor: whole('kafka.replicationFactor', options.replicationFactor ?? -1, -1),
    maxMessageBytes: whole('kafka.maxMessageBytes', options.maxMessageBytes ?? DEFAULT_MAX_MESSAGE_BYTES, 2 * RESERVE),
    compression,
    requestTimeout: duration(options.requestTimeout ?? '10s', 'kafka.requestTimeout'),
  };
}

const DEFAULT_PORT = 9092;

function whole(field: string, value: number, least: number): number {
  if (Number.isInteger(value) && value >= least && value !== 0) return value;
  throw new ConfigError(field, `${value} is not a whole number of at least ${Math.max(1, least)}`);
}

const mechanisms = ['plain', 'scram-sha-256', 'scram-sha-512'] as const;

/**
 * `kafka://[user:password@]host[:port][,host…]?ssl=…&saslMechanism=…`
 *
 * @throws ConfigError that names the parameter
 */
export function readUrl(text: string): Settings {
  const url = parseBrokerUrl(text);
  const { saslMechanism, ssl, ...rest } = readParams(url, {
    ssl: param.boolean,
    saslMechanism: param.oneOf(...mechanisms),
    partitions: param.integer,
    replicationFactor: param.integer,
    maxMessageBytes: param.integer,
    compression: param.oneOf('none', 'gzip'),
    requestTimeout: param.duration,
  });
  const brokers = hostsOf(url);
  if (brokers === undefined) throw new ConfigError('url.host', 'is missing; write for example kafka://localhost:9092');
  if (url.path !== undefined && url.path !== '') {
    throw new ConfigError('url.path', `"${url.path}" has no meaning for Kafka; topics are named in the program`);
  }
  if (saslMechanism !== undefined && url.user === undefined) {
    throw new ConfigError('url.saslMechanism', 'needs user and password: kafka://user:password@host');
  }
  const login = { mechanism: saslMechanism ?? 'plain', username: url.user ?? '', password: url.password ?? '' };
  return readSettings({
    ...rest,
    ...(url.user === undefined ? {} : { sasl: login as SASLOptions }),
    ssl: ssl ?? url.scheme === 'kafka+ssl',
    brokers,
  });
}
