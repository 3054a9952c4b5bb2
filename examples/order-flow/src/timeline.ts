import type { ConsumeMiddleware } from '@waybill/core';

const start = performance.now();
const facts: { at: number; service: string; what: string; orderId: string }[] = [];

/** Prints what happened, and remembers it for the summary. */
export function note(service: string, what: string, orderId: string, more?: string): void {
  const at = performance.now() - start;
  facts.push({ at, service, what, orderId });
  console.log(`${at.toFixed(0).padStart(6)} ms  ${service.padEnd(13)} ${what} ${orderId}${more ? `: ${more}` : ''}`);
}

/** All of this that happened, to one order or to any. */
export function noted(service: string, what: string, orderId?: string): typeof facts {
  return facts.filter(
    (fact) => fact.service === service && fact.what === what && (orderId === undefined || fact.orderId === orderId),
  );
}

/** Runs around every attempt of every service. */
export const noteFailures: ConsumeMiddleware = async (delivery, next) => {
  try {
    await next();
  } catch (error) {
    if (delivery.kind === 'single') {
      const { group, id, attempt } = delivery.message;
      note(group, 'failed with', id, `attempt ${attempt}, ${error instanceof Error ? error.message : error}`);
    }
    throw error;
  }
};

/** Waits until it is so. */
export async function until(what: string, isSo: () => boolean, within = 30_000): Promise<void> {
  const deadline = performance.now() + within;
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
