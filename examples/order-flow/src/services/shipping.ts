import { consumer } from '@waybill/core';
import { note } from '../timeline.ts';
import { OrderPlaced } from '../topics.ts';

export const shipping = consumer(OrderPlaced, { group: 'shipping' }, ({ data }) => {
  note('shipping', 'packed', data.orderId);
});
