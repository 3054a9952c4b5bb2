import type { Publisher } from '@waybill/core';
import { note } from '../timeline.ts';
import { OrderPlaced, Reminder } from '../topics.ts';

export const orders = [
  { orderId: 'o-1', item: 'cup', total: 8 },
  { orderId: 'o-2', item: 'kettle', total: 45 },
  { orderId: 'o-3', item: 'teapot', total: 60 },
  { orderId: 'o-4', item: 'spoon', total: 3 },
] as const;

/** Publishes every order, the last one twice, and a reminder for later. */
export async function placeOrders(bus: Publisher): Promise<void> {
  for (const order of [...orders, orders[3]]) {
    note('orders', 'placed', order.orderId, `one ${order.item}`);
    // With an id of our own, a second publish of an order is recognisably the same message.
    await bus.publish(OrderPlaced, order, { id: order.orderId });
  }
  note('orders', 'reminds of', 'o-1', 'in one second');
  await bus.publish(Reminder, { orderId: 'o-1', text: 'how is the cup?' }, { delay: '1s' });
}
