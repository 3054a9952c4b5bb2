/** What must compile, and what must not: read by the compiler, never run. */
import * as v from 'valibot';
import { z } from 'zod';
import type { Inbox } from '../src/idempotency.ts';
import type { AnyTopic, InputOf, MessageOf, OutputOf, Topic } from '../src/topic.ts';
import { consumer, topic } from '../src/topic.ts';
import type { Bus, Message, Publisher, SubscribeOptions } from '../src/types.ts';

declare const bus: Bus;
declare const publisher: Publisher;

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_same: Same<A, B>): void {}

const billing: SubscribeOptions = { group: 'billing' };

// A schema's input is published, its output is handled.
const Orders = topic('orders', {
  schema: z.object({ orderId: z.string(), total: z.number(), at: z.coerce.date(), note: z.string().default('') }),
  key: (order) => order.orderId,
});
same<OutputOf<typeof Orders>, { orderId: string; total: number; at: Date; note: string }>(true);
bus.publish(Orders, { orderId: 'o-1', total: 42, at: '2030-01-01' });
bus.publish(Orders, { orderId: 'o-1', total: 42, at: new Date(), note: 'x' }, { delay: '5m', headers: { a: 'b' } });
publisher.publishBatch(Orders, [{ data: { orderId: 'o-1', total: 42, at: 0 }, ttl: '1h' }]);
bus.subscribe(Orders, billing, async (message) => {
  same<typeof message.data, { orderId: string; total: number; at: Date; note: string }>(true);
  message.data.at.getTime();
  await message.ack();
});
bus.subscribeBatch(Orders, { group: 'billing', batch: { size: 10, wait: '1s' } }, (messages, signal) => {
  for (const message of messages) message.data.at.getTime();
  signal.throwIfAborted();
});

// @ts-expect-error: a field is missing
bus.publish(Orders, { orderId: 'o-1', at: 0 });
// @ts-expect-error: a field has another type; the data does not widen the topic
bus.publish(Orders, { orderId: 1, total: 42, at: 0 });
// @ts-expect-error: one of the batch is wrong
publisher.publishBatch(Orders, [{ data: { orderId: 'o-1', total: '42', at: 0 } }]);
// @ts-expect-error: no such unit
bus.publish(Orders, { orderId: 'o-1', total: 42, at: 0 }, { delay: '5 minutes' });
// @ts-expect-error: header values are text
bus.publish(Orders, { orderId: 'o-1', total: 42, at: 0 }, { headers: { a: 1 } });
// @ts-expect-error: the key is made of the data
topic('orders', { schema: z.object({ orderId: z.string() }), key: (order) => order.id });
// @ts-expect-error: the data has no such field
bus.subscribe(Orders, billing, (message) => message.data.missing);

// valibot, as any Standard Schema
const Payments = topic('payments', {
  schema: v.object({ amount: v.pipe(v.string(), v.transform(Number)) }),
});
same<InputOf<typeof Payments>, { amount: string }>(true);
same<OutputOf<typeof Payments>, { amount: number }>(true);
bus.publish(Payments, { amount: '12' });
// @ts-expect-error: the input is text
bus.publish(Payments, { amount: 12 });

// Without a schema
const Plain = topic<{ name: string }>('plain', { key: (data) => data.name });
const Bare = topic('bare');
bus.publish(Plain, { name: 'a' });
bus.publish(Bare, { what: 'ever' });
bus.publish('by-name', [1, 2, 3]);
bus.publish('by-name', new Uint8Array(3));
bus.subscribe('by-name', billing, (message) => {
  same<typeof message, Message>(true);
  // @ts-expect-error: nothing is known of the data
  message.data.what;
});
// @ts-expect-error: not this data
bus.publish(Plain, { name: 1 });
// @ts-expect-error: no such option
topic<{ name: string }>('plain', { keys: () => 'a' });

// Order needs a key, and lanes need order.
topic('ordered', { schema: z.object({ id: z.string() }), ordered: true, key: (one) => one.id, lanes: 4 });
topic<{ id: string }>('ordered', { ordered: true, key: (one) => one.id });
topic('unordered', { schema: z.object({ id: z.string().optional() }), key: (one) => one.id });
// @ts-expect-error: no key
topic('ordered', { schema: z.object({ id: z.string() }), ordered: true });
// @ts-expect-error: no key
topic<{ id: string }>('ordered', { ordered: true });
// @ts-expect-error: the key may be missing
topic('ordered', { schema: z.object({ id: z.string().optional() }), ordered: true, key: (one) => one.id });
// @ts-expect-error: lanes without order
topic<{ id: string }>('unordered', { key: (one) => one.id, lanes: 4 });

// Several types of events
const Events = topic('events', {
  types: {
    placed: z.object({ orderId: z.string(), total: z.coerce.number() }),
    cancelled: v.object({ orderId: v.string(), why: v.string() }),
  },
  key: (event, type) => `${type satisfies 'placed' | 'cancelled'}-${event.orderId}`,
});
same<OutputOf<typeof Events>, { orderId: string; total: number } | { orderId: string; why: string }>(true);
bus.publish(Events.event('placed'), { orderId: 'o-1', total: '42' });
bus.publish(Events.event('cancelled'), { orderId: 'o-1', why: 'changed my mind' });
bus.subscribe(Events, billing, (message) => {
  switch (message.type) {
    case 'placed':
      return message.data.total.toFixed(2);
    case 'cancelled':
      return message.data.why.trim();
    default:
      return message satisfies never;
  }
});
bus.subscribeBatch(Events, { group: 'billing', batch: { size: 2 } }, (messages) => {
  for (const message of messages) if (message.type === 'placed') message.data.total.toFixed(2);
});
(async () => {
  for await (const message of await bus.messages(Events, billing)) {
    if (message.type === 'cancelled') message.data.why.trim();
    await message.ack();
  }
})();
// @ts-expect-error: an event has to be chosen
bus.publish(Events, { orderId: 'o-1', total: '42' });
// @ts-expect-error: no such event
Events.event('shipped');
// @ts-expect-error: another event's data
bus.publish(Events.event('placed'), { orderId: 'o-1', why: 'changed my mind' });
// @ts-expect-error: not before the type has been looked at
bus.subscribe(Events, billing, (message) => message.data.total);
// @ts-expect-error: either one schema or several
topic('both', { schema: z.string(), types: { a: z.string() } });
// @ts-expect-error: not a schema
topic('not-a-schema', { types: { a: 'text' } });

// Any typed topic fits where any topic is asked for, and one of a narrower type where one of a wider type is.
const all: AnyTopic[] = [Orders, Payments, Plain, Bare, Events, Events.event('placed')];
const wider: Topic<unknown, { orderId: string }> = Orders;
same<MessageOf<(typeof all)[number]>, Message>(true);
same<MessageOf<'by-name'>, Message>(true);
// @ts-expect-error: made by topic() alone
const forged: AnyTopic = { name: 'forged' };
// @ts-expect-error: not the other way round
const narrower: Topic<unknown, { orderId: string; missing: true }> = Orders;

function generic<T extends AnyTopic | string>(one: T, data: InputOf<T>): Promise<unknown> {
  return bus.publish(one, data);
}
generic(Plain, { name: 'a' });
generic('by-name', 1);

// A consumer at module level
const Billing = consumer(Orders, billing, (message) => message.data.total.toFixed(2));
bus.subscribe(Billing);
bus.provision([Billing, { topic: Orders, groups: ['shipping'] }]);
// @ts-expect-error: the handler takes another topic's messages
consumer(Payments, billing, (message: Message<{ orderId: string }>) => message.data.orderId);

// A group or a broadcast
bus.subscribe(Orders, { broadcast: true }, () => {});
// @ts-expect-error: neither
bus.subscribe(Orders, { concurrency: 4 }, () => {});
// @ts-expect-error: both
bus.subscribe(Orders, { group: 'a', broadcast: true }, () => {});

export { forged, narrower, wider };

// An inbox gives its handler the transaction
declare const inbox: Inbox<{ query(text: string): void }>;
bus.subscribe(Orders, { group: 'billing', inbox }, (message, tx) => tx.query(message.data.orderId));
bus.subscribe(Orders, { group: 'billing', inbox: { store: inbox, window: '1d' } }, (_, tx) => tx.query(''));
bus.subscribe(consumer(Orders, { group: 'billing', inbox }, (message, tx) => tx.query(message.data.orderId)));
// @ts-expect-error: without an inbox there is no transaction
bus.subscribe(Orders, { group: 'billing' }, (_, tx) => tx);
// @ts-expect-error: one or the other
bus.subscribe(Orders, { group: 'billing', inbox, idempotency: false }, () => {});
// @ts-expect-error: not of this transaction
bus.subscribe(Orders, { group: 'billing', inbox }, (_, tx) => tx.execute(''));
// @ts-expect-error: a batch has no transaction
bus.subscribeBatch(Orders, { group: 'billing', inbox, batch: { size: 2 } }, () => {});
