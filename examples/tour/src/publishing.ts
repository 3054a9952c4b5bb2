import assert from 'node:assert/strict';
import { type Message, type PublishMiddleware, topic, WaybillError } from '@waybill/core';
import { z } from 'zod';
import { named, type Stop, until } from './stop.ts';

const Order = z.object({
  orderId: z.string(),
  total: z.number(),
  placed: z.iso.datetime().transform((at) => new Date(at)),
});
const order = { orderId: 'o-1', total: 42, placed: '2026-01-02T03:04:05Z' };

/** Adds a header to every publish of the bus. */
export const stamp: PublishMiddleware = (outgoing, next) => {
  outgoing.headers['x-tour'] = 'yes';
  return next();
};

export const publishing: readonly Stop[] = [
  {
    what: 'a schema: publish takes its input, a handler gets its output',
    show: async (bus) => {
      const Placed = topic(named('placed'), { schema: Order, key: ({ orderId }) => orderId });
      const seen: Date[] = [];
      await bus.subscribe(Placed, { group: 'billing' }, ({ data, key }) => {
        assert.equal(key, 'o-1');
        seen.push(data.placed);
      });
      const { id } = await bus.publish(Placed, order);
      assert.ok(id.length > 0);
      await until('the order is there', () => seen.length === 1);
      assert.equal(seen[0]?.toISOString(), '2026-01-02T03:04:05.000Z');
    },
  },
  {
    what: 'several event types on one topic',
    show: async (bus) => {
      const Orders = topic(named('events'), {
        types: { 'order.placed': Order, 'order.cancelled': z.object({ orderId: z.string(), why: z.string() }) },
        key: (event) => event.orderId,
      });
      const seen: string[] = [];
      await bus.subscribe(Orders, { group: 'billing' }, (message) => {
        seen.push(message.type === 'order.cancelled' ? message.data.why : message.data.placed.toISOString());
      });
      await bus.publish(Orders.event('order.placed'), order);
      await bus.publish(Orders.event('order.cancelled'), { orderId: 'o-1', why: 'changed my mind' });
      await until('both events are there', () => seen.length === 2);
      assert.deepEqual(seen.toSorted(), ['2026-01-02T03:04:05.000Z', 'changed my mind']);
    },
  },
  {
    what: 'raw bytes, and all that a message carries',
    show: async (bus) => {
      const name = named('bytes');
      const seen: Message[] = [];
      await bus.subscribe(name, { group: 'billing' }, (message) => {
        seen.push(message);
      });
      const data = new Uint8Array([0, 1, 255]);
      const headers = { 'x-trace': 'ünïcode, too' };
      await bus.publish(name, data, {
        id: 'm-1',
        key: 'k',
        type: 'blob',
        contentType: 'application/octet-stream',
        headers,
      });
      await until('the bytes are there', () => seen.length === 1);
      const [message] = seen;
      assert.deepEqual(message?.data, data);
      assert.deepEqual([message?.id, message?.key, message?.type], ['m-1', 'k', 'blob']);
      assert.deepEqual({ ...message?.headers }, { ...headers, 'x-tour': 'yes' });
      assert.equal(message?.attempt, 1);
    },
  },
  {
    what: 'a batch, with a result for each',
    show: async (bus) => {
      const Placed = topic(named('batch'), { schema: Order });
      const seen: string[] = [];
      await bus.subscribe(Placed, { group: 'billing' }, ({ data }) => {
        seen.push(data.orderId);
      });
      const results = await bus.publishBatch(Placed, [
        { data: { ...order, orderId: 'o-2' } },
        // @ts-expect-error: the total is no number
        { data: { ...order, total: 'much' } },
        { data: { ...order, orderId: 'o-3' } },
      ]);
      assert.deepEqual(
        results.map(({ ok }) => ok),
        [true, false, true],
      );
      await until('the two good ones are there', () => seen.length === 2);
      assert.deepEqual(seen.toSorted(), ['o-2', 'o-3']);
    },
  },
  {
    what: 'what cannot be published is refused at the call',
    show: async (bus) => {
      const Placed = topic(named('refused'), { schema: Order });
      // @ts-expect-error: a total is missing
      const invalid = bus.publish(Placed, { orderId: 'o-4' });
      await assert.rejects(invalid, (error) => WaybillError.is(error, 'INVALID_MESSAGE'));
      const { maxMessageBytes } = bus.capabilities;
      const large = bus.publish(named('large'), new Uint8Array(maxMessageBytes + 1));
      await assert.rejects(large, (error) => WaybillError.is(error, 'MESSAGE_TOO_LARGE'));
      const cancelled = bus.publish(Placed, order, { signal: AbortSignal.abort() });
      await assert.rejects(cancelled, (error) => WaybillError.is(error, 'PUBLISH'));
    },
  },
  {
    what: 'a delay, a time of delivery, and an expiry',
    show: async (bus) => {
      const name = named('later');
      const seen: string[] = [];
      const begun = Date.now();
      const early: string[] = [];
      const group = await bus.subscribe(name, { group: 'billing' }, ({ data }) => {
        if (Date.now() - begun < 950) early.push(String(data));
        seen.push(String(data));
      });
      await bus.publish(name, 'delayed', { delay: '1s' });
      await bus.publish(name, 'at a time', { deliverAt: new Date(begun + 1_000) });
      // It has expired when it is due.
      await bus.publish(name, 'expired', { delay: '1s', ttl: '500ms' });
      await until('what was due has come', () => seen.length >= 2 && group.stats().expired === 1);
      assert.deepEqual([seen.toSorted(), early], [['at a time', 'delayed'], []]);
    },
  },
];
