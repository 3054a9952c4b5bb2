import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Adapter, AdapterFactory, Connection, ConnectionEvents } from './adapter.ts';
import { ConnectedBus } from './bus.ts';
import { sleep, systemClock } from './clock.ts';
import { duration } from './duration.ts';
import { ConfigError, ConnectTimeoutError, type WaybillError } from './errors.ts';
import { consoleLogger, silent } from './logger.ts';
import { memory } from './memory/index.ts';
import { isRetryable } from './patience.ts';
import { backOff } from './retry.ts';
import type { Bus, BusOptions } from './types.ts';
import { checkOptions, hidePassword, parseBrokerUrl } from './url.ts';

/** The package that speaks each scheme, for adapters that are imported on demand. */
const packages: Readonly<Record<string, string>> = {
  amqp: '@waybill/rabbitmq',
  amqps: '@waybill/rabbitmq',
  kafka: '@waybill/kafka',
  'kafka+ssl': '@waybill/kafka',
  redis: '@waybill/redis-streams',
  rediss: '@waybill/redis-streams',
  sqs: '@waybill/sqs',
  pubsub: '@waybill/pubsub',
  sqlite: '@waybill/sqlite',
};

const optionNames = [
  'name',
  'namePrefix',
  'names',
  'topology',
  'connectTimeout',
  'publishTimeout',
  'maxPendingPublishes',
  'codec',
  'middleware',
  'idempotency',
  'logger',
  'clock',
  'adapters',
] as const;

export interface ConnectOptions extends BusOptions {
  /** Adapters to choose from by URL, before those that are imported on demand: for bundlers and adapters of your own. */
  readonly adapters?: readonly AdapterFactory[];
}

/**
 * Opens a bus on a broker: by URL, or on an adapter with options of its own.
 *
 * @throws ConfigError for a wrong URL or option, and for an adapter that is not installed, with the command to do so
 * @throws ConnectionError, ConnectTimeoutError naming cause and target (LIFE-04)
 */
export async function connect(target: string | Adapter, options: ConnectOptions = {}): Promise<Bus> {
  checkOptions(options, optionNames, '');
  if (options.middleware !== undefined) checkOptions(options.middleware, ['publish', 'consume'], 'middleware');
  const topology = options.topology ?? 'create';
  if (!['create', 'verify', 'none'].includes(topology)) {
    throw new ConfigError('topology', `"${topology}" is none of create, verify, none`);
  }
  const maxPendingPublishes = options.maxPendingPublishes ?? 10_000;
  if (!Number.isInteger(maxPendingPublishes) || maxPendingPublishes < 1) {
    throw new ConfigError('maxPendingPublishes', `${maxPendingPublishes} is not a whole number from 1 on`);
  }
  const publishTimeout = duration(options.publishTimeout ?? '30s', 'publishTimeout');
  const connectTimeout = duration(options.connectTimeout ?? '10s', 'connectTimeout');
  const adapter = typeof target === 'string' ? await adapterFor(target, options.adapters ?? []) : target;
  if (typeof adapter?.connect !== 'function') throw new ConfigError('target', 'is neither a URL nor an adapter');
  const clock = options.clock ?? systemClock;
  const logger = options.logger === false ? silent : (options.logger ?? consoleLogger);

  // The connection may speak before there is a bus to hear it.
  let bus: ConnectedBus | undefined;
  let interruption: WaybillError | undefined;
  const events: ConnectionEvents = {
    interrupted: (error) => {
      interruption = error;
      bus?.interrupted(error);
    },
    restored: () => {
      interruption = undefined;
      bus?.restored();
    },
  };
  const giveUp = new AbortController();
  const connection = await open(adapter, connectTimeout, giveUp, (signal) => ({
    clientName: options.name ?? 'waybill',
    names: options.names ?? {},
    namePrefix: options.namePrefix ?? '',
    topology,
    connectTimeout,
    clock,
    logger,
    signal,
    events,
  }));
  bus = new ConnectedBus({
    adapter: adapter.name,
    connection,
    options,
    clock,
    logger,
    connectTimeout,
    publishTimeout,
    maxPendingPublishes,
    topology,
  });
  if (interruption !== undefined) bus.interrupted(interruption);
  return bus;
}

/** Tries until it works, until an error that no further try can mend, or until the time is up. */
async function open(
  adapter: Adapter,
  connectTimeout: number,
  giveUp: AbortController,
  context: (signal: AbortSignal) => Parameters<Adapter['connect']>[0],
): Promise<Connection> {
  const given = context(giveUp.signal);
  const { clock } = given;
  const until = clock.monotonic() + connectTimeout;
  let last: unknown;
  const timer = clock.setTimeout(() => giveUp.abort(), connectTimeout);
  const timedOut = new Promise<'timed out'>((resolve) => {
    giveUp.signal.addEventListener('abort', () => resolve('timed out'), { once: true });
  });
  try {
    for (let tries = 1; !giveUp.signal.aborted; tries++) {
      const trying = adapter.connect(given);
      try {
        const connection = await Promise.race([trying, timedOut]);
        if (connection !== 'timed out') return connection;
        // One that opens after all is nobody's.
        trying.then((late) => late.close()).catch(() => {});
        break;
      } catch (error) {
        last = error;
        if (!isRetryable(error)) throw error;
        const wait = backOff(tries, { initial: 100, max: 2_000 });
        if (clock.monotonic() + wait >= until) break;
        await sleep(clock, wait, giveUp.signal);
      }
    }
  } finally {
    timer.cancel();
  }
  const why = last instanceof Error ? last.message : 'no answer';
  throw new ConnectTimeoutError(`could not connect to ${adapter.target} within ${connectTimeout} ms: ${why}`, {
    adapter: adapter.name,
    cause: last,
  });
}

async function adapterFor(url: string, given: readonly AdapterFactory[]): Promise<Adapter> {
  const { scheme } = parseBrokerUrl(url);
  const factory = [...given, memory].find((one) => one.schemes.includes(scheme)) ?? (await load(scheme, url));
  return factory.fromUrl(url);
}

async function load(scheme: string, url: string): Promise<AdapterFactory> {
  const name = packages[scheme];
  if (name === undefined) {
    throw new ConfigError(
      'url',
      `no adapter speaks "${scheme}:" (${hidePassword(url)}); known are memory, ${Object.keys(packages).join(', ')}, and what you give as adapters`,
    );
  }
  const module = await importFromHereOrWorkingDirectory(name);
  const factory = Object.values(module).find(
    (one): one is AdapterFactory => isFactory(one) && one.schemes.includes(scheme),
  );
  if (factory === undefined)
    throw new ConfigError('url', `${name} exports no adapter for "${scheme}:"; is it too old?`);
  return factory;
}

async function importFromHereOrWorkingDirectory(name: string): Promise<Record<string, unknown>> {
  try {
    return await import(name);
  } catch (error) {
    if (!isMissing(error, name)) throw error;
  }
  try {
    const resolved = createRequire(join(process.cwd(), 'package.json')).resolve(name);
    return await import(pathToFileURL(resolved).href);
  } catch (cause) {
    if (!isMissing(cause, name)) throw cause;
    throw new ConfigError('url', `${name} is not installed; install it with: npm install ${name}`, { cause });
  }
}

/** Whether this very package is missing, and not something that it needs. */
function isMissing(error: unknown, name: string): boolean {
  const { code, message } = error as { code?: string; message?: string };
  return (code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND') && message?.includes(`'${name}'`) === true;
}

function isFactory(value: unknown): value is AdapterFactory {
  return (
    (typeof value === 'function' || (typeof value === 'object' && value !== null)) &&
    'fromUrl' in value &&
    'schemes' in value &&
    Array.isArray(value.schemes)
  );
}
