import { type Duration, duration } from './duration.ts';
import { ConfigError } from './errors.ts';
import type { RetryPolicy } from './types.ts';
import { checkOptions } from './url.ts';

/** A retry policy that has been checked, with its defaults filled in. */
export interface CompiledRetry {
  /** Handler calls in all, the first included; `Infinity` for no bound. */
  readonly attempts: number;
  /**
   * Milliseconds to wait after this attempt (1 for the first call) failed. Never throws: where the policy's function
   * does, or returns no duration, the wait is the default policy's.
   */
  delayAfter(attempt: number, error: unknown): number;
  /** The longest of these waits, for a look at the adapter's `maxDelay`; 0 for a function: it can say anything. */
  readonly longest: number;
  /** All waits of a message in sum, at their longest; 0 for a function. */
  readonly total: number;
}

const defaults = { attempts: 8, initial: 1_000, factor: 3, max: 900_000 } as const;

/**
 * @param options.random from 0 to 1, for the jitter
 * @param options.onFault gets what is wrong with the policy's function, each time it fails
 * @throws ConfigError that names the field, such as `retry.attempts`
 */
export function compileRetry(
  policy: RetryPolicy = {},
  options: { readonly random?: () => number; readonly onFault?: (error: unknown) => void } = {},
): CompiledRetry {
  if (typeof policy !== 'object' || policy === null) {
    throw new ConfigError('retry', 'is not an object such as { attempts, delay }');
  }
  checkOptions(policy, ['attempts', 'delay'], 'retry');
  const attempts = policy.attempts ?? defaults.attempts;
  if (attempts !== Number.POSITIVE_INFINITY && !(Number.isInteger(attempts) && attempts >= 1)) {
    throw new ConfigError(
      'retry.attempts',
      `${attempts} is not a whole number from 1 on; it counts the first call too`,
    );
  }
  const random = options.random ?? Math.random;
  if (typeof policy.delay === 'function') {
    return { attempts, ...guarded(policy.delay, growing({}, attempts, random), options.onFault) };
  }
  return { attempts, ...compileDelay(policy.delay ?? {}, attempts, random) };
}

type DelayRule = Pick<CompiledRetry, 'delayAfter' | 'longest' | 'total'>;

type DelayFunction = (attempt: number, error: unknown) => Duration;

/** A retry is decided on while a message is in hand: a fault in the user's function must not leave it there. */
function guarded(delay: DelayFunction, fallback: DelayRule, onFault: (error: unknown) => void = () => {}): DelayRule {
  return {
    delayAfter: (attempt, error) => {
      try {
        return duration(delay(attempt, error), 'retry.delay');
      } catch (fault) {
        onFault(fault);
        return fallback.delayAfter(attempt, error);
      }
    },
    longest: 0,
    total: 0,
  };
}

type FixedDelay = Exclude<NonNullable<RetryPolicy['delay']>, DelayFunction>;

function compileDelay(delay: FixedDelay, attempts: number, random: () => number): DelayRule {
  if (typeof delay === 'number' || typeof delay === 'string') {
    const wait = duration(delay, 'retry.delay');
    return { delayAfter: () => wait, longest: attempts > 1 ? wait : 0, total: sumOf(() => wait, 1, attempts) };
  }
  if (Array.isArray(delay)) return listed(delay, attempts);
  if (typeof delay !== 'object' || delay === null) {
    throw new ConfigError(
      'retry.delay',
      'is not a duration, a list of them, a function, or { initial, factor, max, jitter }',
    );
  }
  return growing(delay as GrowingDelay, attempts, random);
}

function listed(delays: readonly Duration[], attempts: number): DelayRule {
  if (delays.length === 0) throw new ConfigError('retry.delay', 'is an empty list');
  const waits = delays.map((delay, i) => duration(delay, `retry.delay[${i}]`));
  const last = waits.length - 1;
  const wait = (attempt: number): number => waits[Math.min(attempt - 1, last)] as number;
  return {
    delayAfter: wait,
    longest: Math.max(0, ...waits.slice(0, attempts - 1)),
    total: sumOf(wait, waits.length, attempts),
  };
}

/** @param steady the attempt from which on the waits are all alike */
function sumOf(wait: (attempt: number) => number, steady: number, attempts: number): number {
  let total = 0;
  for (let attempt = 1; attempt < Math.min(attempts, steady); attempt++) total += wait(attempt);
  const rest = Math.max(0, attempts - Math.min(attempts, steady));
  const last = wait(steady);
  return last === 0 ? total : total + rest * last;
}

interface GrowingDelay {
  readonly initial?: Duration;
  readonly factor?: number;
  readonly max?: Duration;
  readonly jitter?: boolean;
}

function growing(delay: GrowingDelay, attempts: number, random: () => number): DelayRule {
  checkOptions(delay, ['initial', 'factor', 'max', 'jitter'], 'retry.delay');
  const given = {
    initial: delay.initial === undefined ? undefined : duration(delay.initial, 'retry.delay.initial'),
    max: delay.max === undefined ? undefined : duration(delay.max, 'retry.delay.max'),
  };
  if (given.initial !== undefined && given.max !== undefined && given.max < given.initial) {
    throw new ConfigError('retry.delay.max', `${given.max} ms is under the initial ${given.initial} ms`);
  }
  const factor = delay.factor ?? defaults.factor;
  if (!Number.isFinite(factor) || factor < 1) {
    throw new ConfigError('retry.delay.factor', `${factor} is not a number from 1 on`);
  }
  const jitter = delay.jitter ?? true;
  if (typeof jitter !== 'boolean') throw new ConfigError('retry.delay.jitter', 'is neither true nor false');
  // A given value pushes the other's default aside, so that each can be given alone.
  const initial = given.initial ?? Math.min(defaults.initial, given.max ?? defaults.initial);
  const max = given.max ?? Math.max(defaults.max, initial);
  // A factor that has grown beyond all numbers makes no number of 0.
  const wait = (attempt: number): number => (initial === 0 ? 0 : Math.min(max, initial * factor ** (attempt - 1)));
  // Beyond a thousand waits it counts as steady, which makes no sum longer than it is.
  let steady = 1;
  while (steady < 1_000 && factor > 1 && wait(steady) < max) steady++;
  return {
    delayAfter: (attempt) => (jitter ? upperHalf(wait(attempt), random) : wait(attempt)),
    longest: attempts > 1 ? wait(attempts - 1) : 0,
    total: sumOf(wait, steady, attempts),
  };
}

/**
 * A message that is tried again in place stays with one member from its first attempt to its last.
 *
 * @throws ConfigError where the waits alone take longer than the broker leaves it there
 */
export function checkRetriesInPlace({ attempts, total }: CompiledRetry, maxHandling: number, adapter: string): void {
  const bound = `${adapter} leaves a message with one member for ${maxHandling} ms at most, and this one waits for its retries there`;
  if (attempts === Number.POSITIVE_INFINITY && maxHandling !== Number.POSITIVE_INFINITY) {
    throw new ConfigError('retry.attempts', `Infinity takes too long: ${bound}`, { adapter });
  }
  if (total > maxHandling) {
    throw new ConfigError('retry.delay', `the waits add up to ${total} ms: ${bound}; lower attempts or delay`, {
      adapter,
    });
  }
}

/**
 * The one back-off of reconnects and repeated sends: doubles from `initial` up to `max`, spread over the upper half so
 * that many clients of a broker that came back do not all arrive at once.
 *
 * @param attempt 1 after the first failure
 * @returns milliseconds
 */
export function backOff(
  attempt: number,
  bounds: { readonly initial: number; readonly max: number },
  random: () => number = Math.random,
): number {
  return upperHalf(Math.min(bounds.max, bounds.initial * 2 ** Math.max(0, attempt - 1)), random);
}

function upperHalf(wait: number, random: () => number): number {
  return wait * (0.5 + random() / 2);
}
