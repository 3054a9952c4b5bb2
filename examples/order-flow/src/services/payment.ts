import { consumer } from '@waybill/core';
import { note } from '../timeline.ts';
import { OrderPlaced } from '../topics.ts';

export const payment = consumer(
  OrderPlaced,
  { group: 'payment', retry: { attempts: 5, delay: '200ms' } },
  ({ data: { orderId, total }, attempt }) => {
    // The bank is away for the first two attempts at this order; the others are charged meanwhile.
    if (orderId === 'o-2' && attempt <= 2) throw new Error('the bank does not answer');
    note('payment', 'charged', orderId, `${total} EUR in attempt ${attempt}`);
  },
);
