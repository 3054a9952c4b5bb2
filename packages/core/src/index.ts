export type * from './adapter.ts';
export type { Clock, Timer } from './clock.ts';
export { type Duration, duration } from './duration.ts';
export * from './errors.ts';
export type { Logger } from './logger.ts';
