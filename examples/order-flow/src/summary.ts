import type { DeadLetter, Subscription } from '@waybill/core';
import { orders } from './services/orders.ts';
import { idsIn } from './shop.ts';
import { noted } from './timeline.ts';
import { OrderPlaced } from './topics.ts';

/** What each service does with every order. */
const duties = [
  ['inventory', 'reserved'],
  ['payment', 'charged'],
  ['shipping', 'packed'],
  ['notification', 'confirmed'],
] as const;

export function allIsDone(): boolean {
  const reminded = noted('notification', 'reminded of').length > 0;
  return reminded && duties.every(([service, duty]) => noted(service, duty).length >= orders.length);
}

export function deadLettered(subscriptions: readonly Subscription[]): number {
  return subscriptions.reduce((sum, subscription) => sum + subscription.stats().deadLettered, 0);
}

/** Whether each group that hears of orders has met the one that was published twice. */
export function doublesSeen(subscriptions: readonly Subscription[]): boolean {
  const ofOrders = subscriptions.filter(({ topic }) => topic === OrderPlaced.name);
  return ofOrders.every((subscription) => subscription.stats().duplicates > 0);
}

export interface Outcome {
  readonly subscriptions: readonly Subscription[];
  /** What stood in the dead letters of inventory before they were redriven. */
  readonly letters: readonly DeadLetter[];
  readonly redriven: number;
  readonly left: number;
}

/** Prints the totals; true when they are what they should be. */
export function summarise({ subscriptions, letters, redriven, left }: Outcome): boolean {
  const rows = subscriptions.map((one) => {
    const { acked, retried, deadLettered, duplicates } = one.stats();
    return [`${one.topic} → ${one.group}`, { acked, retried, deadLettered, duplicates }];
  });
  console.log();
  console.table(Object.fromEntries(rows));

  const [sent] = noted('orders', 'reminds of');
  const [reminded] = noted('notification', 'reminded of');
  const waited = reminded && sent ? reminded.at - sent.at : 0;
  const once = ([service, duty]: readonly [string, string]): boolean =>
    orders.every(({ orderId }) => noted(service, duty, orderId).length === 1);
  const holdsOnce = (table: 'orders' | 'charges'): boolean =>
    idsIn(table).join() === orders.map(({ orderId }) => orderId).join();
  const expectations: [what: string, met: boolean][] = [
    ['every order was reserved, charged, packed and confirmed once', duties.every(once)],
    ['the database holds each order and each charge once', (['orders', 'charges'] as const).every(holdsOnce)],
    [
      'o-5 was rolled back, and nobody heard of it',
      duties.every(([service, duty]) => !noted(service, duty, 'o-5').length),
    ],
    ['o-2 was charged after two failures', noted('payment', 'failed with', 'o-2').length === 2],
    ['o-3 failed three times', noted('inventory', 'failed with', 'o-3').length === 3],
    ['o-3 was the only dead letter', letters.length === 1 && letters[0]?.id === 'o-3'],
    ['o-3 was redriven, and no dead letter is left', redriven === 1 && left === 0],
    ['o-4 was a duplicate to each of the four groups', doublesSeen(subscriptions)],
    // How much later it may come depends on the machine.
    [`the reminder waited for a second (${waited.toFixed(0)} ms)`, waited > 950],
  ];
  for (const [what, met] of expectations) console.log(`${met ? '✓' : '✗'} ${what}`);
  return expectations.every(([, met]) => met);
}
