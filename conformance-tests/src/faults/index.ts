/**
 * Small deliberate mistakes of the memory broker, made from outside through the adapter interface. A suite that cannot
 * fail proves nothing: for each of these the tests of the promises it breaks must fail.
 */
import { deadLetterFaults } from './dead-letters.ts';
import { delayFaults } from './delay-expiry.ts';
import { groupFaults } from './groups.ts';
import { orderFaults } from './order.ts';
import type { Fault } from './plant.ts';
import { publishingFaults } from './publishing.ts';
import { retryFaults } from './retry.ts';
import { settlingFaults } from './settling.ts';

export { type Fault, type Plant, planted } from './plant.ts';

export const faults: readonly Fault[] = [
  ...publishingFaults,
  ...groupFaults,
  ...settlingFaults,
  ...retryFaults,
  ...deadLetterFaults,
  ...orderFaults,
  ...delayFaults,
];
