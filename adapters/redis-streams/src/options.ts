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
import { adapterName } from './errors.ts';

export interface RedisStreamsOptions {
  /** Hosts as `name` or `name:port`. Default `localhost`; the port 6379, of Sentinels 26379. More than one: see `mode`. */
  readonly hosts?: string | readonly string[];
  /**
   * `standalone`: one server. `cluster`: the hosts are some of its nodes. `sentinel`: the hosts are Sentinels, which
   * know the server by `master`. Default `standalone`.
   */
  readonly mode?: 'standalone' | 'cluster' | 'sentinel';
  /** The name under which Sentinels watch the server. Default `mymaster`. */
  readonly master?: string;
  readonly user?: string;
  /** A function is asked at every connect, for tokens that expire. Not with a cluster, which is asked once. */
  readonly password?: string | (() => string | Promise<string>);
  readonly sentinelUser?: string;
  readonly sentinelPassword?: string;
  /** Number of the database. A cluster has only 0. Default 0. */
  readonly db?: number;
  /** TLS, with Node's options (`ca`, `cert`, `key`, `pfx`, `passphrase`, `servername`, …) where the defaults do not do. */
  readonly tls?: boolean | ConnectionOptions;
  /** Bytes of the largest body. Redis itself takes 512 MiB. Default 16 MiB. */
  readonly maxMessageBytes?: number;
  /** How long a call waits for its answer before the connection is given up. Default 5 s. */
  readonly commandTimeout?: Duration;
  /**
   * Messages that a topic keeps for `seek` and for groups that start `earliest`, although all groups have acked them. At
   * least so many: what a group has not acked is kept whatever it is. Default 10,000.
   */
  readonly retainMessages?: number;
  /**
   * The most messages that a topic keeps, acked or not: older ones are dropped, and a group that has not read them is
   * told so (RET-02). Default: no such limit.
   */
  readonly maxLength?: number;
}

/** Options with everything filled in. */
export interface Settings {
  readonly mode: 'standalone' | 'cluster' | 'sentinel';
  readonly hosts: readonly Host[];
  readonly master: string;
  readonly user: string | undefined;
  readonly password: (() => string | Promise<string>) | undefined;
  readonly sentinelUser: string | undefined;
  readonly sentinelPassword: string | undefined;
  readonly db: number;
  readonly tls: ConnectionOptions | undefined;
  /** Without user and password. */
  readonly target: string;
  readonly maxMessageBytes: number;
  /** Milliseconds. */
  readonly commandTimeout: number;
  readonly retainMessages: number;
  readonly maxLength: number | undefined;
}

const known: readonly (keyof RedisStreamsOptions)[] = [
  'hosts',
  'mode',
  'master',
  'user',
  'password',
  'sentinelUser',
  'sentinelPassword',
  'db',
  'tls',
  'maxMessageBytes',
  'commandTimeout',
  'retainMessages',
  'maxLength',
];

/** @throws ConfigError that names the option */
export function resolveOptions(options: RedisStreamsOptions): Settings {
  checkOptions(options, known, adapterName);
  const { mode = 'standalone', password } = options;
  if (!['standalone', 'cluster', 'sentinel'].includes(mode)) {
    throw wrong('mode', `"${mode}" is none of standalone, cluster, sentinel`);
  }
  const tls = options.tls === true ? {} : options.tls === false ? undefined : options.tls;
  const hosts = parseHosts(options.hosts ?? 'localhost', mode === 'sentinel' ? 26_379 : 6_379, `${adapterName}.hosts`);
  if (mode === 'standalone' && hosts.length > 1) {
    throw wrong('hosts', 'are several; say with mode=cluster or mode=sentinel what they are');
  }
  if (mode !== 'sentinel' && options.master !== undefined) throw wrong('master', 'is for mode=sentinel');
  const db = whole(options.db ?? 0, 'db');
  if (mode === 'cluster' && db !== 0) throw wrong('db', 'a cluster has only database 0');
  const commandTimeout = duration(options.commandTimeout ?? 5_000, `${adapterName}.commandTimeout`);
  if (commandTimeout < 100) throw wrong('commandTimeout', 'is less than 100 ms');
  const maxLength = options.maxLength === undefined ? undefined : whole(options.maxLength, 'maxLength');
  return {
    mode,
    hosts,
    master: options.master ?? 'mymaster',
    user: options.user,
    password: password === undefined ? undefined : typeof password === 'function' ? password : () => password,
    sentinelUser: options.sentinelUser,
    sentinelPassword: options.sentinelPassword,
    db,
    tls,
    target: `${tls === undefined ? 'redis' : 'rediss'}://${hosts.map(showHost).join(',')}${db === 0 ? '' : `/${db}`}`,
    maxMessageBytes: whole(options.maxMessageBytes ?? 16 * 1024 * 1024, 'maxMessageBytes'),
    commandTimeout,
    retainMessages: whole(options.retainMessages ?? 10_000, 'retainMessages'),
    maxLength,
  };
}

/** @throws ConfigError that names the parameter (CFG-01) */
export function optionsFromUrl(text: string): RedisStreamsOptions {
  const url = parseBrokerUrl(text);
  const { caFile, certFile, keyFile, passphrase, servername, ...rest } = readParams(url, {
    mode: param.oneOf('standalone', 'cluster', 'sentinel'),
    master: param.text,
    sentinelUser: param.text,
    sentinelPassword: param.text,
    maxMessageBytes: param.integer,
    commandTimeout: param.duration,
    retainMessages: param.integer,
    maxLength: param.integer,
    ...tlsParams,
  });
  const tls = tlsOf({ caFile, certFile, keyFile, passphrase, servername }, adapterName);
  if (url.scheme !== 'rediss' && Object.keys(tls).length > 0) {
    throw new ConfigError(`url.${Object.keys(tls)[0]}`, 'needs TLS; write rediss:// instead of redis://');
  }
  const hosts = hostsOf(url);
  return {
    ...rest,
    ...(hosts === undefined ? {} : { hosts }),
    ...(url.user === undefined || url.user === '' ? {} : { user: url.user }),
    ...(url.password === undefined ? {} : { password: url.password }),
    ...(url.path === undefined || url.path === '' ? {} : { db: param.integer(url.path, 'url.path') }),
    ...(url.scheme === 'rediss' ? { tls } : {}),
  };
}

function wrong(field: string, text: string): ConfigError {
  return new ConfigError(`${adapterName}.${field}`, text, { adapter: adapterName });
}

function whole(value: number, field: string): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw wrong(field, `${value} is not a whole number`);
}
