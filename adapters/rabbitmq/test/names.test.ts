import { splitName } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BrokerNames } from '../src/names.ts';

const names = new BrokerNames('', {}, undefined);

const tokenCharacters = [..."!#$%&'*+-.^_`|~09azAZx"];
const name = fc.string({ unit: fc.constantFrom(...tokenCharacters), minLength: 1, maxLength: 100 });

describe('names', () => {
  test('are what a person expects', () => {
    expect(names.topics).toBe('waybill.v1.topics');
    expect(names.routingKey('orders.placed')).toBe('orders.placed');
    expect(names.laneKey('orders.placed', 3)).toBe('orders.placed.lane_x_3');
    expect(names.group('orders.placed', 'billing', 0)).toEqual({
      queues: ['waybill.v1.group_x_orders.placed_x_billing'],
      deadLetters: 'waybill.v1.dead_x_orders.placed_x_billing',
      alone: 'waybill.v1.alone_x_orders.placed_x_billing',
      given: false,
    });
    expect(names.group('orders.placed', 'billing', 2).queues).toEqual([
      'waybill.v1.group_x_orders.placed_x_billing_x_0',
      'waybill.v1.group_x_orders.placed_x_billing_x_1',
    ]);
  });

  test('can be read back', () => {
    const [queue] = names.group('a_x_b', 'c*d', 0).queues;
    expect(splitName(queue ?? '')).toEqual(['waybill.v1.group', 'a_x_b', 'c*d']);
  });

  test('carry the prefix', () => {
    const prefixed = new BrokerNames('test-', {}, undefined);
    expect(prefixed.topics).toBe('test-waybill.v1.topics');
    expect(prefixed.delay('0')).toBe('test-waybill.v1.delay_x_0');
    expect(prefixed.marker('t')).toBe('test-waybill.v1.topic_x_t');
  });

  test('of the user are taken as they are', () => {
    const own = new BrokerNames(
      '',
      { topic: (topic) => `key.${topic}`, group: (topic, group) => `${topic}/${group}`, deadLetter: () => 'dead' },
      'exchange',
    );
    expect(own.topics).toBe('exchange');
    expect(own.routingKey('a')).toBe('key.a');
    expect(own.group('a', 'g', 0)).toMatchObject({ queues: ['a/g'], deadLetters: 'dead', given: true });
    expect(own.group('a', 'g', 2).queues).toEqual(['a/g_x_0', 'a/g_x_1']);
  });

  test('of different things are different, and fit (SUB-11)', () => {
    const place = fc.record({ topic: name, group: name, lanes: fc.constantFrom(0, 1) });
    fc.assert(
      fc.property(place, place, (a, b) => {
        const [queueA, queueB] = [a, b].map(
          ({ topic, group, lanes }) => names.group(topic, group, lanes).queues[0] ?? '',
        );
        expect(queueA === queueB).toBe(a.topic === b.topic && a.group === b.group && a.lanes === b.lanes);
        expect(Buffer.byteLength(queueA ?? '')).toBeLessThanOrEqual(255);
        expect(names.marker(a.topic) === names.marker(b.topic)).toBe(a.topic === b.topic);
        expect(names.marker(a.topic).length).toBeLessThanOrEqual(90);
      }),
      { numRuns: 500 },
    );
  });

  test('as routing keys match nothing but themselves (SUB-11)', () => {
    fc.assert(
      fc.property(name, name, (a, b) => {
        const [keyA, keyB] = [names.routingKey(a), names.routingKey(b)];
        expect(keyA === keyB).toBe(a === b);
        expect(keyA).not.toMatch(/[*#]/);
        expect(names.laneKey(a, 0)).not.toBe(keyB);
        expect(Buffer.byteLength(names.laneKey(a, 255))).toBeLessThanOrEqual(255);
      }),
      { numRuns: 500 },
    );
  });
});
