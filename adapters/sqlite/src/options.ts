import { resolve } from 'node:path';
import {
  ConfigError,
  checkOptions,
  type Duration,
  duration,
  param,
  parseBrokerUrl,
  readParams,
} from '@waybill/core/adapter';
import { adapterName } from './errors.ts';

export interface SqliteOptions {
  /** The file, absolute or from the working directory; made when it is missing. Its folder must exist. */
  readonly path: string;
  /**
   * `full`: what is confirmed outlives a power cut. `normal`: it outlives the death of any process, but a power cut may
   * take the last moments. Default `full`.
   */
  readonly synchronous?: 'full' | 'normal';
  /** How long a write waits for those of other processes before the file counts as away. Default 5 s. */
  readonly busyTimeout?: Duration;
  /** How often to look for what other processes wrote, where their wake-up does not come through. Default 1 s. */
  readonly pollInterval?: Duration;
  /** How long a topic keeps messages that all of its groups have read, for `seek` and `earliest`. Default 7 days. */
  readonly retainFor?: Duration;
  /** Bytes of bodies that a topic keeps so. Default 256 MiB. */
  readonly retainBytes?: number;
  /** Bytes of the largest body. Default 16 MiB. */
  readonly maxMessageBytes?: number;
}

/** Options with everything filled in. */
export interface Settings {
  /** Absolute. */
  readonly path: string;
  readonly target: string;
  readonly synchronous: 'full' | 'normal';
  /** Milliseconds, like all times here. */
  readonly busyTimeout: number;
  readonly pollInterval: number;
  readonly retainFor: number;
  readonly retainBytes: number;
  readonly maxMessageBytes: number;
}

const mebibyte = 1_024 * 1_024;

const known: readonly (keyof SqliteOptions)[] = [
  'path',
  'synchronous',
  'busyTimeout',
  'pollInterval',
  'retainFor',
  'retainBytes',
  'maxMessageBytes',
];

/** SQLite takes a thousand million bytes a row; a message is read and written in one piece, so it should be far less. */
const largestMessage = 256 * mebibyte;

/** @throws ConfigError that names the option */
export function resolveOptions(options: SqliteOptions): Settings {
  checkOptions(options, known, adapterName);
  const path = checkPath(options.path, `${adapterName}.path`);
  const synchronous = options.synchronous ?? 'full';
  if (synchronous !== 'full' && synchronous !== 'normal') {
    throw wrong('synchronous', `"${synchronous}" is neither full nor normal`);
  }
  const pollInterval = time(options, 'pollInterval', 1_000);
  if (pollInterval < 10) throw wrong('pollInterval', `${pollInterval} ms is under 10 ms`);
  return {
    path,
    target: `sqlite:${path}`,
    synchronous,
    busyTimeout: time(options, 'busyTimeout', 5_000),
    pollInterval,
    retainFor: time(options, 'retainFor', 7 * 86_400_000),
    retainBytes: size(options, 'retainBytes', 256 * mebibyte, 0, Number.MAX_SAFE_INTEGER),
    maxMessageBytes: size(options, 'maxMessageBytes', 16 * mebibyte, 1, largestMessage),
  };
}

/** @throws ConfigError that names the parameter (CFG-01) */
export function optionsFromUrl(text: string): SqliteOptions {
  const url = parseBrokerUrl(text);
  if (url.hosts.length > 0 || url.user !== undefined) {
    throw new ConfigError('url', `"${url.shown}" has a host; write sqlite:./orders.db or sqlite:/var/lib/orders.db`, {
      adapter: adapterName,
    });
  }
  const options = readParams(url, {
    synchronous: param.oneOf('full', 'normal'),
    busyTimeout: param.duration,
    pollInterval: param.duration,
    retainFor: param.duration,
    retainBytes: param.integer,
    maxMessageBytes: param.integer,
  });
  // sqlite:///var/lib/orders.db has an empty host, and its path lost the slash.
  const path = /^[a-z]+:\/\//i.test(text) ? `/${url.path ?? ''}` : (url.path ?? '');
  return { ...options, path: checkPath(path, 'url') };
}

function checkPath(path: unknown, field: string): string {
  if (typeof path !== 'string' || path === '' || path === '/' || path.includes('\0')) {
    throw new ConfigError(field, 'needs the path of a file, such as sqlite:./orders.db', { adapter: adapterName });
  }
  if (path === ':memory:') {
    throw new ConfigError(field, ':memory: is no file; the broker in memory is memory:', { adapter: adapterName });
  }
  return resolve(path);
}

type Named<T> = {
  [K in keyof SqliteOptions]-?: SqliteOptions[K] extends T | undefined ? K : never;
}[keyof SqliteOptions];

function time(options: SqliteOptions, name: Named<Duration>, fallback: number): number {
  const value = options[name];
  return value === undefined ? fallback : duration(value as Duration, `${adapterName}.${name}`);
}

function size(
  options: SqliteOptions,
  name: 'retainBytes' | 'maxMessageBytes',
  fallback: number,
  least: number,
  most: number,
): number {
  const value = options[name] ?? fallback;
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw wrong(name, `${value} is not a number of bytes from ${least} to ${most}`);
}

function wrong(name: keyof SqliteOptions, text: string): ConfigError {
  return new ConfigError(`${adapterName}.${name}`, text, { adapter: adapterName });
}
