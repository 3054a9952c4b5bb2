import { setTimeout as wait } from 'node:timers/promises';
import { inspect } from 'node:util';

/** Milliseconds that a broker gets for something that the contract gives no number for. */
export const PATIENCE = 15_000;
const POLL_FROM = 5;
const POLL_UP_TO = 100;

export interface EventuallyOptions<T> {
  /** Milliseconds. Default: 15 s. */
  readonly within?: number;
  /** What the value must fulfil. Default: to be truthy. */
  readonly until?: (value: T) => boolean;
}

/**
 * Asks until the answer is right, and returns it; what the probe throws counts as a wrong answer.
 *
 * @throws Error with what was seen last
 */
export async function eventually<T>(
  description: string,
  probe: () => T | Promise<T>,
  { within = PATIENCE, until = Boolean }: EventuallyOptions<T> = {},
): Promise<T> {
  const deadline = performance.now() + within;
  let pause = POLL_FROM;
  for (;;) {
    let seen: string;
    try {
      const value = await probe();
      if (until(value)) return value;
      seen = show(value);
    } catch (error) {
      seen = `${error}`;
    }
    if (performance.now() >= deadline) throw new Error(`not within ${within} ms: ${description}; seen last: ${seen}`);
    await wait(Math.min(pause, Math.max(1, deadline - performance.now())));
    pause = Math.min(pause * 1.5, POLL_UP_TO);
  }
}

/** Rejects when a promise takes longer than `within` milliseconds: for what must settle by itself. */
export async function settles<T>(description: string, promise: Promise<T>, within = PATIENCE): Promise<T> {
  const late = new AbortController();
  const timeOut = wait(within, undefined, { signal: late.signal }).then(() => {
    throw new Error(`not within ${within} ms: ${description}`);
  });
  timeOut.catch(() => {});
  try {
    return await Promise.race([promise, timeOut]);
  } finally {
    late.abort();
  }
}

export function show(value: unknown): string {
  return inspect(value, { depth: 4, maxArrayLength: 60, maxStringLength: 300, breakLength: 120 });
}
