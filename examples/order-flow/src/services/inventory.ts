import { consumer } from '@waybill/core';
import { note } from '../timeline.ts';
import { OrderPlaced } from '../topics.ts';

/** What the shop knows. Nobody has told it about teapots: an order for one is poison. */
const catalogue = new Set(['cup', 'kettle', 'spoon']);

export const inventory = consumer(
  OrderPlaced,
  { group: 'inventory', retry: { attempts: 3, delay: '200ms' } },
  ({ data: { orderId, item } }) => {
    if (!catalogue.has(item)) throw new Error(`no ${item} in the catalogue`);
    note('inventory', 'reserved', orderId);
  },
);

/** The fix, after which the order can be handled. */
export function learn(item: string, orderId: string): void {
  catalogue.add(item);
  note('inventory', 'is fixed for', orderId, `it knows ${item}s now`);
}
