import { ConfigError } from './errors.ts';

/** A length of time: milliseconds, or a whole or decimal number with its unit, such as `'30s'` or `'1.5h'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/**
 * Milliseconds of a duration; `duration(process.env.LEASE ?? '30s')` reads one from the environment.
 *
 * @param field names the option in the error
 * @throws ConfigError when the text is no duration, or the number is negative or not finite
 */
export function duration(value: Duration | string, field = 'duration'): number {
  if (typeof value === 'number') {
    if (Number.isFinite(value) && value >= 0) return value;
    throw new ConfigError(field, `${value} is not a length of time in milliseconds`);
  }
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(value);
  if (match === null) {
    throw new ConfigError(field, `"${value}" is not a duration; write for example '500ms', '30s', '15m', '24h', '7d'`);
  }
  return Number(match[1]) * units[(match[2] ?? 'ms') as keyof typeof units];
}
