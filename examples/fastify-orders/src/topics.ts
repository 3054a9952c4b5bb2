import { topic } from '@waybill/core';
import { z } from 'zod';

export const Order = z.object({
  orderId: z.string().min(1),
  customer: z.string().min(1),
  total: z.number().positive(),
});
export type Order = z.infer<typeof Order>;

/** Per customer in the order of their commits. */
export const OrderPlaced = topic('orders.placed', { schema: Order, key: ({ customer }) => customer });
