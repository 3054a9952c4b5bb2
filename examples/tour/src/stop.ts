import { randomUUID } from 'node:crypto';
import type { Bus } from '@waybill/core';

/** One thing that Waybill does; it throws when it did not. */
export interface Stop {
  readonly what: string;
  readonly show: (bus: Bus) => Promise<void>;
}

// New names in every run, so that the tour can be repeated on one broker.
const run = randomUUID().slice(0, 8);

/** The topics of this run. */
export const topics: string[] = [];

export function named(name: string): string {
  const topic = `tour.${name}.${run}`;
  topics.push(topic);
  return topic;
}

/** Waits until it is so. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>, within = 30_000): Promise<void> {
  const deadline = performance.now() + within;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
