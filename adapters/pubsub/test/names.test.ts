import { splitName } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BrokerNames } from '../src/names.ts';

const names = new BrokerNames('shop', '', {});

const tokenCharacters = [..."!#$%&'*+-.^_`|~09azAZxgo"];
const name = fc.oneof(
  fc.string({ unit: fc.constantFrom(...tokenCharacters), minLength: 1, maxLength: 100 }),
  fc.constantFrom('goog', 'Google', 'google.orders', 'a', '1', '_x', '_x_', 'waybill_x_a', '...', 'waybill'),
);

/** Pub/Sub's rule for names. */
const valid = /^projects\/shop\/(?:topics|subscriptions|snapshots)\/(?!goog)[a-z][a-z0-9\-_.~+%]{2,254}$/i;

describe('names', () => {
  test('are what a person expects', () => {
    expect(names.topic('orders.placed')).toBe('projects/shop/topics/orders.placed');
    expect(names.group('orders.placed', 'billing', true)).toEqual({
      topic: 'projects/shop/topics/orders.placed',
      subscription: 'projects/shop/subscriptions/waybill.v1.group_x_orders.placed_x_billing',
      retry: {
        topic: 'projects/shop/topics/waybill.v1.retry_x_orders.placed_x_billing',
        subscription: 'projects/shop/subscriptions/waybill.v1.retry_x_orders.placed_x_billing',
      },
      deadLetters: {
        topic: 'projects/shop/topics/waybill.v1.dead_x_orders.placed_x_billing',
        subscription: 'projects/shop/subscriptions/waybill.v1.dead_x_orders.placed_x_billing',
      },
    });
    expect(names.group('orders.placed', 'billing', false).retry).toBeUndefined();
  });

  test('that Pub/Sub would refuse get ours before them', () => {
    expect(names.topic('a')).toBe('projects/shop/topics/waybill_x_a');
    expect(names.topic('google')).toBe('projects/shop/topics/waybill_x_google');
    expect(names.topic('1st-orders')).toBe('projects/shop/topics/waybill_x_1st-orders');
  });

  test('can be read back', () => {
    const { subscription } = names.group('a_x_b', 'c*d', true);
    expect(splitName(subscription.slice('projects/shop/subscriptions/'.length))).toEqual([
      'waybill.v1.group',
      'a_x_b',
      'c*d',
    ]);
  });

  test('carry the prefix', () => {
    const prefixed = new BrokerNames('shop', 'test-', {});
    expect(prefixed.topic('orders')).toBe('projects/shop/topics/test-orders');
    expect(prefixed.group('t', 'g', true).subscription).toBe(
      'projects/shop/subscriptions/test-waybill.v1.group_x_t_x_g',
    );
  });

  test('of the user are taken as they are, of another project too', () => {
    const own = new BrokerNames('shop', 'test-', {
      topic: (topic) => `projects/other/topics/${topic}`,
      group: () => 'theirs',
      deadLetter: () => 'dead',
    });
    expect(own.group('orders', 'g', true)).toMatchObject({
      topic: 'projects/other/topics/orders',
      subscription: 'projects/shop/subscriptions/theirs',
      deadLetters: { topic: 'projects/shop/topics/dead', subscription: 'projects/shop/subscriptions/dead' },
    });
  });

  test('of different things are different, and Pub/Sub takes them (SUB-11)', () => {
    const place = fc.record({ topic: name, group: name });
    fc.assert(
      fc.property(place, place, fc.constantFrom('', '1', 'goog', 'stage-'), (a, b, prefix) => {
        const some = new BrokerNames('shop', prefix, {});
        const [first, second] = [a, b].map(({ topic, group }) => some.group(topic, group, true));
        const same = a.topic === b.topic && a.group === b.group;
        expect(first?.subscription === second?.subscription).toBe(same);
        expect(first?.retry?.topic === second?.retry?.topic).toBe(same);
        expect(first?.topic === second?.topic).toBe(a.topic === b.topic);
        const all = [first?.topic, first?.subscription, first?.retry?.topic, first?.deadLetters.topic];
        for (const one of all) expect(one).toMatch(valid);
        expect(new Set(all).size).toBe(4);
      }),
      { numRuns: 1_000 },
    );
  });
});
