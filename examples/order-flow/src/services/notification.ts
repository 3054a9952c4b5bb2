import { consumer } from '@waybill/core';
import { note } from '../timeline.ts';
import { OrderPlaced, Reminder } from '../topics.ts';

export const notification = consumer(OrderPlaced, { group: 'notification' }, ({ data }) => {
  note('notification', 'confirmed', data.orderId);
});

export const reminders = consumer(Reminder, { group: 'notification' }, ({ data }) => {
  note('notification', 'reminded of', data.orderId, `"${data.text}"`);
});
