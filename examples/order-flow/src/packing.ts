/** A process of its own that packs orders, slowly: `restart.ts` kills it in the middle. */
import { setTimeout as wait } from 'node:timers/promises';
import { connect, consumer, topic } from '@waybill/core';

export interface Order {
  readonly orderId: string;
}

export const Orders = topic<Order>('orders.paid', { key: ({ orderId }) => orderId });

export const packing = consumer(
  Orders,
  // When a member goes silent, others have what was in its hands a lease later.
  { group: 'packing', concurrency: 2, lease: '1s' },
  async ({ data: { orderId } }) => {
    process.send?.({ orderId, packed: false });
    await wait(250);
    process.send?.({ orderId, packed: true });
  },
);

/** What the worker tells its parent. */
export interface Progress {
  readonly orderId: string;
  readonly packed: boolean;
}

const [, program, url] = process.argv;
if (program === import.meta.filename && url !== undefined) {
  const bus = await connect(url);
  process.once('SIGTERM', () => bus.close().then(() => process.disconnect()));
  await bus.subscribe(packing);
}
