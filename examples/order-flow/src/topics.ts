import { randomUUID } from 'node:crypto';
import { topic } from '@waybill/core';
import { z } from 'zod';

// New names in every run, so that the example can be repeated on one broker; a shop of your own says 'orders.placed'.
// The groups are removed at the end. The topics stay: Waybill deletes none.
const run = randomUUID().slice(0, 8);

export const OrderPlaced = topic(`orders.placed.${run}`, {
  schema: z.object({ orderId: z.string(), item: z.string(), total: z.number().positive() }),
  key: (order) => order.orderId,
});

export const Reminder = topic(`reminders.${run}`, {
  schema: z.object({ orderId: z.string(), text: z.string() }),
});
