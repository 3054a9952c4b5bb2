import type { Capabilities, Position } from './adapter.ts';
import { duration } from './duration.ts';
import { ConfigError, UnsupportedError } from './errors.ts';
import type { Inbox } from './idempotency.ts';
import type { Logger } from './logger.ts';
import { checkName } from './names.ts';
import { type CompiledRetry, compileRetry } from './retry.ts';
import type { BatchOptions, ConsumeMiddleware, IdempotencyOptions, InboxOption, SubscribeOptions } from './types.ts';
import { checkOptions } from './url.ts';

/** Subscribe options with every default filled in and every value checked. */
export interface SubscriptionSettings {
  /** `undefined` for a broadcast. */
  readonly group: string | undefined;
  readonly concurrency: number;
  readonly lease: number;
  /** Milliseconds of one attempt; `Infinity` for no bound. */
  readonly timeout: number;
  readonly retry: CompiledRetry;
  readonly whenExhausted: 'dead-letter' | 'drop';
  readonly invalid: 'dead-letter' | 'retry' | 'stop';
  readonly unknownType: 'dead-letter' | 'skip';
  readonly idempotency: CompiledIdempotency | undefined;
  readonly inbox: CompiledIdempotency<Inbox<unknown>> | undefined;
  readonly startAt: Position;
  readonly middleware: readonly ConsumeMiddleware[];
  /** A single message is a batch of one whose handler gets it alone. */
  readonly batch: { readonly size: number; readonly wait: number; readonly asked: boolean };
  readonly brokerOptions: Readonly<Record<string, unknown>> | undefined;
}

export interface CompiledIdempotency<Store = IdempotencyOptions['store']>
  extends Omit<IdempotencyOptions<Store>, 'window' | 'epoch'> {
  readonly window: number;
  readonly epoch: number;
}

const defaultTimeout = duration('15m');
const defaultWindow = duration('7d');

const optionNames = [
  'group',
  'broadcast',
  'concurrency',
  'lease',
  'timeout',
  'retry',
  'whenExhausted',
  'invalid',
  'unknownType',
  'idempotency',
  'inbox',
  'startNewGroupAt',
  'middleware',
  'broker',
  'batch',
] as const;

/** What `subscribe` and `subscribeBatch` take, as it is at run time. */
export type JoinOptions = SubscribeOptions & Partial<BatchOptions> & Partial<Pick<InboxOption<unknown>, 'inbox'>>;

export interface SubscribeDefaults {
  readonly adapter: string;
  readonly capabilities: Capabilities;
  readonly middleware: readonly ConsumeMiddleware[];
  readonly idempotency: IdempotencyOptions['store'] | undefined;
  readonly logger: Logger;
}

/** @throws ConfigError naming the option; UnsupportedError where the broker has no way */
export function compileSubscribeOptions(options: JoinOptions, defaults: SubscribeDefaults): SubscriptionSettings {
  if (typeof options !== 'object' || options === null) throw new ConfigError('options', 'group or broadcast is needed');
  checkOptions(options, optionNames, '');
  const { adapter, capabilities } = defaults;
  const broadcast = options.broadcast === true;
  if (broadcast === (options.group !== undefined)) {
    throw new ConfigError('group', 'give either a group or broadcast: true');
  }
  if (options.group !== undefined) checkName('group', options.group);
  const inbox = compileInbox(options);
  const lease = duration(options.lease ?? Math.min(30_000, capabilities.lease.max), 'lease');
  if (lease < 1_000) throw new ConfigError('lease', `${lease} ms is under the least of 1 s`);
  if (lease < capabilities.lease.min || lease > capabilities.lease.max) {
    throw new ConfigError(
      'lease',
      `${lease} ms is outside of what ${adapter} can do: ${capabilities.lease.min} to ${capabilities.lease.max} ms`,
    );
  }
  const { maxHandling } = capabilities.lease;
  const timeout =
    options.timeout === false
      ? Number.POSITIVE_INFINITY
      : positive('timeout', duration(options.timeout ?? Math.min(defaultTimeout, maxHandling), 'timeout'));
  if (timeout > maxHandling) {
    throw new ConfigError('timeout', `${adapter} lets a handler keep a message for ${maxHandling} ms at most`);
  }
  const retry = compileRetry(options.retry, {
    onFault: (error) => defaults.logger.error('retry.delay failed; the default delay is used', { error }),
  });
  if (retry.longest > capabilities.maxDelay) {
    throw new UnsupportedError(
      'maxDelay',
      adapter,
      `retry.delay goes up to ${retry.longest} ms, the longest delay is ${capabilities.maxDelay} ms`,
      'lower retry.delay.max',
    );
  }
  const whenExhausted = oneOf('whenExhausted', options.whenExhausted, ['dead-letter', 'drop']);
  if (broadcast && whenExhausted === 'dead-letter') {
    throw new ConfigError('whenExhausted', 'a broadcast has no dead letters, because it is removed at close; use drop');
  }
  return {
    group: options.group,
    concurrency: concurrencyOf(options.concurrency, inbox?.store.maxConcurrency),
    lease,
    timeout,
    retry,
    whenExhausted: broadcast ? 'drop' : (whenExhausted ?? 'dead-letter'),
    invalid: oneOf('invalid', options.invalid, ['dead-letter', 'retry', 'stop']) ?? 'dead-letter',
    unknownType: oneOf('unknownType', options.unknownType, ['dead-letter', 'skip']) ?? 'dead-letter',
    idempotency: inbox === undefined ? compileIdempotency(options.idempotency, defaults.idempotency) : undefined,
    inbox,
    startAt: compileStart(options.startNewGroupAt ?? 'latest', adapter, capabilities),
    middleware: [...defaults.middleware, ...(options.middleware ?? [])],
    batch: {
      size: wholeNumber('batch.size', options.batch?.size ?? 1, 1, 10_000),
      wait: duration(options.batch?.wait ?? 0, 'batch.wait'),
      asked: options.batch !== undefined,
    },
    brokerOptions: options.broker?.[adapter],
  };
}

function compileIdempotency(
  given: SubscribeOptions['idempotency'],
  fallback: IdempotencyOptions['store'] | undefined,
): CompiledIdempotency | undefined {
  if (given === false) return undefined;
  const store = given ?? fallback;
  return store && compileStore('idempotency', 'an idempotency store', store);
}

function compileInbox({ inbox, idempotency, batch }: JoinOptions): CompiledIdempotency<Inbox<unknown>> | undefined {
  if (inbox === undefined) return undefined;
  if (idempotency !== undefined) throw new ConfigError('inbox', 'stands instead of idempotency; give one of the two');
  if (batch !== undefined) throw new ConfigError('inbox', 'belongs to subscribe: each message has its own transaction');
  return compileStore('inbox', 'an inbox', inbox);
}

function compileStore<Store extends { run: unknown }>(
  field: string,
  what: string,
  given: Store | IdempotencyOptions<Store>,
): CompiledIdempotency<Store> {
  if (typeof given !== 'object' || given === null) throw new ConfigError(field, `is not ${what}`);
  const options = 'store' in given ? given : { store: given };
  checkOptions(options, ['store', 'key', 'window', 'epoch', 'unidentified'], field);
  if (typeof options.store?.run !== 'function') throw new ConfigError(`${field}.store`, `is not ${what}`);
  oneOf(`${field}.unidentified`, options.unidentified, ['handle']);
  return {
    ...options,
    window: positive(`${field}.window`, duration(options.window ?? defaultWindow, `${field}.window`)),
    epoch: wholeNumber(`${field}.epoch`, options.epoch ?? 0, 0, Number.MAX_SAFE_INTEGER),
  };
}

const defaultConcurrency = 16;

function concurrencyOf(asked: number | undefined, bound = Number.POSITIVE_INFINITY): number {
  const concurrency = wholeNumber('concurrency', asked ?? Math.min(defaultConcurrency, bound), 1, 100_000);
  if (concurrency <= bound) return concurrency;
  throw new ConfigError(
    'concurrency',
    `${concurrency} is more than the ${bound} transactions the inbox can run at once`,
  );
}

/** @throws ConfigError, UnsupportedError where the broker keeps no log (POS-02) */
export function compileStart(at: Position, adapter: string, capabilities: Capabilities): Position {
  const known = at === 'earliest' || at === 'latest' || (at instanceof Date && !Number.isNaN(at.getTime()));
  if (!known && typeof (at as { position?: unknown } | null)?.position !== 'string') {
    throw new ConfigError('startNewGroupAt', "write 'latest', 'earliest', a Date or { position }");
  }
  if (at !== 'latest' && !capabilities.log.supported) {
    throw new UnsupportedError('log', adapter, capabilities.log.reason, "start new groups at 'latest'");
  }
  return at;
}

function oneOf<const T extends string>(field: string, value: T | undefined, allowed: readonly T[]): T | undefined {
  if (value === undefined || allowed.includes(value)) return value;
  throw new ConfigError(field, `${JSON.stringify(value)} is none of ${allowed.join(', ')}`);
}

function wholeNumber(field: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new ConfigError(field, `${value} is not a whole number from ${min} to ${max}`);
}

function positive(field: string, value: number): number {
  if (value > 0) return value;
  throw new ConfigError(field, 'must be more than 0');
}
