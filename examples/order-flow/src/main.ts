/**
 * A shop whose services talk through a broker. The program is the same on each of them; the URL picks one:
 *
 *     node dist/main.js
 *     BROKER_URL=amqp://guest:guest@localhost:5672 node dist/main.js
 *     BROKER_URL=kafka://localhost:9092 node dist/main.js
 *
 * The services are one process here, so that one clock orders the timeline; nothing in them relies on that.
 */
import { connect, memoryStore, type Subscription } from '@waybill/core';
import { inventory, learn } from './services/inventory.ts';
import { notification, reminders } from './services/notification.ts';
import { placeOrders } from './services/orders.ts';
import { payment } from './services/payment.ts';
import { shipping } from './services/shipping.ts';
import { closeShop, openShop, outbox } from './shop.ts';
import { allIsDone, deadLettered, doublesSeen, summarise } from './summary.ts';
import { note, noteFailures, until } from './timeline.ts';
import { OrderPlaced } from './topics.ts';

const { BROKER_URL = 'memory:' } = process.env;
const bus = await connect(BROKER_URL, {
  // Each group handles a message id once. Services in several processes share a store in a database.
  idempotency: memoryStore(),
  middleware: { consume: [noteFailures] },
  // The timeline tells of failures, which belong to this story.
  logger: false,
});
const services = [inventory, payment, shipping, notification, reminders];
const subscriptions: Subscription[] = [];
try {
  await openShop();
  for (const service of services) subscriptions.push(await bus.subscribe(service));
  await using _relay = await outbox.relay(bus);
  await placeOrders(bus);

  await until('inventory gives up an order', () => deadLettered(subscriptions) > 0);
  const deadLetters = bus.deadLetters(OrderPlaced, 'inventory');
  const letters = await deadLetters.peek();
  for (const { id = '', attempts } of letters) note('inventory', 'gave up', id, `${attempts} attempts were made`);

  learn('teapot', 'o-3');
  const redriven = await deadLetters.redrive('all');
  await until('everything is done', () => allIsDone() && doublesSeen(subscriptions));

  const left = (await deadLetters.count()).value;
  process.exitCode = summarise({ subscriptions, letters, redriven, left }) ? 0 : 1;
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
for (const subscription of subscriptions) await subscription.close();
for (const { topic, options } of services) if (options.group !== undefined) await bus.removeGroup(topic, options.group);
await bus.close();
closeShop();
