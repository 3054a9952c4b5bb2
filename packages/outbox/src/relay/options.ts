import { ConfigError, checkOptions, consoleLogger, duration, type Logger, silent } from '@waybill/core/adapter';
import type { RelayOptions, RelayStats } from '../types.ts';

/** The options of a relay, checked, with their defaults; times in milliseconds. */
export interface RelaySettings {
  readonly maxInFlight: number;
  readonly lease: number;
  readonly pollInterval: number;
  readonly maxAttempts: number;
  readonly retryDelay: { readonly initial: number; readonly max: number };
  readonly hold: boolean;
  readonly keepSent: number;
  readonly observe: ((stats: RelayStats) => void) | undefined;
  readonly observeEvery: number;
  readonly logger: Logger;
}

const names = [
  'maxInFlight',
  'lease',
  'pollInterval',
  'maxAttempts',
  'retryDelay',
  'whenDead',
  'keepSent',
  'observe',
  'observeEvery',
  'logger',
] as const;

/** @throws ConfigError that names the option */
export function compileRelayOptions(options: RelayOptions): RelaySettings {
  checkOptions(options, names, '');
  const { maxInFlight = 2_000, maxAttempts = 15, whenDead = 'hold', observe, logger } = options;
  whole('maxInFlight', maxInFlight);
  whole('maxAttempts', maxAttempts);
  if (whenDead !== 'hold' && whenDead !== 'release') {
    throw new ConfigError('whenDead', `"${String(whenDead)}" is neither hold nor release`);
  }
  const lease = duration(options.lease ?? '30s', 'lease');
  if (lease < 1_000) throw new ConfigError('lease', `${lease} ms is under the shortest of 1 s`);
  const pollInterval = duration(options.pollInterval ?? '2s', 'pollInterval');
  if (pollInterval < 10) throw new ConfigError('pollInterval', `${pollInterval} ms is under the shortest of 10 ms`);
  checkOptions(options.retryDelay ?? {}, ['initial', 'max'], 'retryDelay');
  const initial = duration(options.retryDelay?.initial ?? '1s', 'retryDelay.initial');
  const max = duration(options.retryDelay?.max ?? Math.max(initial, 900_000), 'retryDelay.max');
  if (max < initial) throw new ConfigError('retryDelay.max', `${max} ms is under the initial ${initial} ms`);
  if (observe !== undefined && typeof observe !== 'function') throw new ConfigError('observe', 'is not a function');
  const observeEvery = duration(options.observeEvery ?? '15s', 'observeEvery');
  if (observeEvery < 100) throw new ConfigError('observeEvery', `${observeEvery} ms is under the shortest of 100 ms`);
  return {
    maxInFlight,
    lease,
    pollInterval,
    maxAttempts,
    retryDelay: { initial, max },
    hold: whenDead === 'hold',
    keepSent: duration(options.keepSent ?? '1h', 'keepSent'),
    observe,
    observeEvery,
    logger: logger === false ? silent : (logger ?? consoleLogger),
  };
}

function whole(field: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new ConfigError(field, `${value} is not a whole number from 1 on`);
}
