import type { Publisher } from '@waybill/core';
import { outbox, transaction } from '../shop.ts';
import { note } from '../timeline.ts';
import { OrderPlaced, Reminder } from '../topics.ts';

export const orders = [
  { orderId: 'o-1', item: 'cup', total: 8 },
  { orderId: 'o-2', item: 'kettle', total: 45 },
  { orderId: 'o-3', item: 'teapot', total: 60 },
  { orderId: 'o-4', item: 'spoon', total: 3 },
] as const;

/** Its customer changes their mind before the commit. */
const withdrawn = { orderId: 'o-5', item: 'cup', total: 8 };

type Order = typeof withdrawn;

/** Writes an order and announces it, in one transaction: a relay sends the message once that is committed. */
async function place(order: Order, change?: () => never): Promise<void> {
  await transaction(async (tx) => {
    const { orderId, item, total } = order;
    tx.prepare('INSERT INTO orders (id, item, total) VALUES (?, ?, ?)').run(orderId, item, total);
    // With an id of our own, a second publish of an order is recognisably the same message.
    await outbox.publish(tx, OrderPlaced, order, { id: orderId });
    change?.();
  });
  note('orders', 'placed', order.orderId, `one ${order.item}`);
}

/** Places every order and publishes the last one twice; one is rolled back, and a reminder is for later. */
export async function placeOrders(bus: Publisher): Promise<void> {
  for (const order of orders) await place(order);
  await place(withdrawn, () => {
    throw new Error('the customer has changed their mind');
  }).catch(({ message }: Error) => note('orders', 'rolled back', withdrawn.orderId, message));
  await bus.publish(OrderPlaced, orders[3], { id: orders[3].orderId });
  note('orders', 'repeated', orders[3].orderId, 'by mistake');
  note('orders', 'reminds of', 'o-1', 'in one second');
  await bus.publish(Reminder, { orderId: 'o-1', text: 'how is the cup?' }, { delay: '1s' });
}
