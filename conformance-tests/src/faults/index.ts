/**
 * Small deliberate mistakes of the memory broker, made from outside through the adapter interface. A suite that cannot
 * fail proves nothing: for each of these the tests of the promises it breaks must fail.
 */

import type { AdapterUnderTest, Target } from '../harness.ts';
import { deadLetterFaults } from './dead-letters.ts';
import { delayFaults } from './delay-expiry.ts';
import { groupFaults } from './groups.ts';
import { orderFaults } from './order.ts';
import { type Fault, planted } from './plant.ts';
import { publishingFaults } from './publishing.ts';
import { retryFaults } from './retry.ts';
import { settlingFaults } from './settling.ts';

export type { Fault, Plant } from './plant.ts';

export const faults: readonly Fault[] = [
  ...publishingFaults,
  ...groupFaults,
  ...settlingFaults,
  ...retryFaults,
  ...deadLetterFaults,
  ...orderFaults,
  ...delayFaults,
];

/** A healthy adapter with a fault planted into every connection to it, on this side of any network that can be cut. */
export function withFault(healthy: AdapterUnderTest, fault: Fault): AdapterUnderTest {
  const plant = fault.plant();
  const infect = (target: Target | undefined): Target => {
    if (target === undefined || typeof target === 'string') {
      throw new Error(`faults are planted into adapters; the harness of ${healthy.name} connects by URL`);
    }
    return planted(target, plant);
  };
  return {
    ...healthy,
    async start() {
      const broker = await healthy.start();
      return {
        ...broker,
        target: () => infect(broker.target?.()),
        async openLink() {
          const link = await broker.openLink();
          return { ...link, target: infect(link.target) };
        },
      };
    },
  };
}
