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
  tlsOf,
  tlsParams,
} from '@waybill/core/adapter';

export interface RabbitmqOptions {
  /** Hosts as `name` or `name:port`, tried in turn. Default `localhost`; the port 5672, with TLS 5671. */
  readonly hosts?: string | readonly string[];
  /** Default `guest`. */
  readonly user?: string;
  /** Default `guest`. A function is asked at every connect, for tokens that expire. */
  readonly password?: string | (() => string | Promise<string>);
  /** SASL mechanism; `external` takes the identity from the client certificate. Default `plain`. */
  readonly auth?: 'plain' | 'amqplain' | 'external';
  /** Default `/`. */
  readonly vhost?: string;
  /** TLS, with Node's options (`ca`, `cert`, `key`, `pfx`, `passphrase`, `servername`, …) where the defaults do not do. */
  readonly tls?: boolean | ConnectionOptions;
  /**
   * Whole seconds of silence after which both sides begin to give the other up; a dead connection is noticed after two
   * to three of them, so the shortest lease is three. Default 5 s.
   */
  readonly heartbeat?: Duration;
  /** The kind of queue that groups are made of. `classic` is not replicated and counts no deliveries. Default `quorum`. */
  readonly queueType?: 'quorum' | 'classic';
  /** The topic exchange that topics are published to. Default `waybill.v1.topics`; one that exists is used as it is. */
  readonly exchange?: string;
  /** The broker's `max_message_size`, which counts the body alone. Default 16 MiB, that of RabbitMQ 4. */
  readonly maxMessageBytes?: number;
  /**
   * The broker's `consumer_timeout`: how long a message may be with a consumer. Bounds handlers and retries in place.
   * When given it is also set on the groups that are made (RabbitMQ 3.12 and later heed it). Default 30 min.
   */
  readonly consumerTimeout?: Duration;
  /** How long a publish waits for the broker's confirm before its outcome is unknown. Default 15 s. */
  readonly confirmTimeout?: Duration;
}

/** Options with everything filled in. */
export interface Settings {
  readonly hosts: readonly Host[];
  readonly user: string;
  readonly password: () => string | Promise<string>;
  readonly auth: 'plain' | 'amqplain' | 'external';
  readonly vhost: string;
  readonly tls: ConnectionOptions | undefined;
  /** Without user and password. */
  readonly target: string;
  /** Milliseconds, like all times here. */
  readonly heartbeat: number;
  readonly queueType: 'quorum' | 'classic';
  /** `undefined`: Waybill's own. */
  readonly exchange: string | undefined;
  readonly maxMessageBytes: number;
  readonly consumerTimeout: number;
  /** Set on the queues that are made; `undefined`: left to the broker. */
  readonly queueConsumerTimeout: number | undefined;
  readonly confirmTimeout: number;
}

const known: readonly (keyof RabbitmqOptions)[] = [
  'hosts',
  'user',
  'password',
  'auth',
  'vhost',
  'tls',
  'heartbeat',
  'queueType',
  'exchange',
  'maxMessageBytes',
  'consumerTimeout',
  'confirmTimeout',
];

const defaultConsumerTimeout = 30 * 60_000;

/** @throws ConfigError that names the option */
export function resolveOptions(options: RabbitmqOptions): Settings {
  checkOptions(options, known, 'rabbitmq');
  const tls = options.tls === true ? {} : options.tls === false ? undefined : options.tls;
  const hosts = parseHosts(options.hosts ?? 'localhost', tls === undefined ? 5672 : 5671, 'rabbitmq.hosts');
  const vhost = options.vhost ?? '/';
  const { password = 'guest' } = options;
  const consumerTimeout = optional(options.consumerTimeout, 'consumerTimeout');
  if (consumerTimeout !== undefined && consumerTimeout < 60_000) {
    throw new ConfigError('rabbitmq.consumerTimeout', 'is less than a minute, which is how often the broker looks');
  }
  if (options.exchange === '')
    throw new ConfigError('rabbitmq.exchange', 'is empty; the default exchange takes no bindings');
  return {
    hosts,
    user: options.user ?? 'guest',
    password: typeof password === 'function' ? password : () => password,
    auth: oneOf(options.auth ?? 'plain', ['plain', 'amqplain', 'external'], 'auth'),
    vhost,
    tls,
    target: `${tls === undefined ? 'amqp' : 'amqps'}://${hosts.map(showHost).join(',')}/${vhost === '/' ? '' : vhost}`,
    heartbeat: checkHeartbeat(optional(options.heartbeat, 'heartbeat') ?? 5_000),
    queueType: oneOf(options.queueType ?? 'quorum', ['quorum', 'classic'], 'queueType'),
    exchange: options.exchange,
    maxMessageBytes: checkSize(options.maxMessageBytes ?? 16 * 1024 * 1024),
    consumerTimeout: consumerTimeout ?? defaultConsumerTimeout,
    queueConsumerTimeout: consumerTimeout,
    confirmTimeout: optional(options.confirmTimeout, 'confirmTimeout') ?? 15_000,
  };
}

/** @throws ConfigError that names the parameter (CFG-01) */
export function optionsFromUrl(text: string): RabbitmqOptions {
  const url = parseBrokerUrl(text);
  const { caFile, certFile, keyFile, passphrase, servername, ...rest } = readParams(url, {
    heartbeat: param.duration,
    queueType: param.oneOf('quorum', 'classic'),
    exchange: param.text,
    maxMessageBytes: param.integer,
    consumerTimeout: param.duration,
    confirmTimeout: param.duration,
    auth: param.oneOf('plain', 'amqplain', 'external'),
    ...tlsParams,
  });
  const tls = tlsOf({ caFile, certFile, keyFile, passphrase, servername }, 'rabbitmq');
  if (url.scheme !== 'amqps' && Object.keys(tls).length > 0) {
    throw new ConfigError(`url.${Object.keys(tls)[0]}`, 'needs TLS; write amqps:// instead of amqp://');
  }
  const hosts = hostsOf(url);
  return {
    ...rest,
    ...(hosts === undefined ? {} : { hosts }),
    ...(url.user === undefined ? {} : { user: url.user }),
    ...(url.password === undefined ? {} : { password: url.password }),
    // "amqp://host/" is the default vhost, as with amqplib: an empty name is never meant.
    ...(url.path === undefined || url.path === '' ? {} : { vhost: url.path }),
    ...(url.scheme === 'amqps' ? { tls } : {}),
  };
}

function optional(value: Duration | undefined, field: string): number | undefined {
  return value === undefined ? undefined : duration(value, `rabbitmq.${field}`);
}

function checkHeartbeat(ms: number): number {
  if (ms >= 1_000 && ms <= 60_000 && ms % 1_000 === 0) return ms;
  throw new ConfigError(
    'rabbitmq.heartbeat',
    `${ms} ms is not 1 to 60 whole seconds, which is what AMQP counts in; write for example "5s"`,
  );
}

function checkSize(bytes: number): number {
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new ConfigError('rabbitmq.maxMessageBytes', `${bytes} is not a number of bytes`);
}

function oneOf<T extends string>(value: T, allowed: readonly T[], field: string): T {
  if (allowed.includes(value)) return value;
  throw new ConfigError(`rabbitmq.${field}`, `"${value}" is none of ${allowed.join(', ')}`);
}
