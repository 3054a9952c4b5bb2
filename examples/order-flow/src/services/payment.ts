import { consumer } from '@waybill/core';
import { inbox } from '../shop.ts';
import { note } from '../timeline.ts';
import { OrderPlaced } from '../topics.ts';

export const payment = consumer(
  OrderPlaced,
  // The charge and the mark that the order was charged are committed together.
  { group: 'payment', retry: { attempts: 5, delay: '200ms' }, inbox },
  ({ data: { orderId, total }, attempt }, tx) => {
    tx.prepare('INSERT INTO charges (order_id, amount) VALUES (?, ?)').run(orderId, total);
    // The bank is away for the first two attempts at this order: what was written is rolled back.
    if (orderId === 'o-2' && attempt <= 2) throw new Error('the bank does not answer');
    note('payment', 'charged', orderId, `${total} EUR in attempt ${attempt}`);
  },
);
