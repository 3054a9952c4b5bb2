import { splitName } from '@waybill/core/adapter';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isFifo, messageGroupOf, SqsNames } from '../src/names.ts';

const names = new SqsNames('', {});

const tokenCharacters = [..."!#$%&'*+-.^_`|~09azAZx"];
const name = fc.string({ unit: fc.constantFrom(...tokenCharacters), minLength: 1, maxLength: 100 });

describe('names', () => {
  test('are what a person expects', () => {
    expect(names.topic('orders.placed', false)).toBe('waybill-v1-topic_x_orders_x2eplaced');
    expect(names.topic('orders', true)).toBe('waybill-v1-topic_x_orders.fifo');
    expect(names.group('orders', 'billing', false, false)).toMatchObject({
      queue: { name: 'waybill-v1-group_x_orders_x_billing', given: false },
      dead: { name: 'waybill-v1-dead_x_orders_x_billing' },
      alone: { name: 'waybill-v1-alone_x_orders_x_billing' },
    });
    expect(names.group('orders', 'billing', true, false)).toMatchObject({
      queue: { name: 'waybill-v1-group_x_orders_x_billing.fifo' },
      dead: { name: 'waybill-v1-dead_x_orders_x_billing.fifo' },
      alone: undefined,
    });
    expect(names.delay.name).toBe('waybill-v1-delay');
  });

  test('carry the prefix, escaped', () => {
    expect(new SqsNames('test.', {}).delay.name).toBe('test_x2ewaybill-v1-delay');
  });

  test('of the user are taken as they are', () => {
    const own = new SqsNames('', { topic: (topic) => `own-${topic}`, group: () => 'queue', deadLetter: () => 'dead' });
    expect(own.topic('a', false)).toBe('own-a');
    expect(own.isGiven('a')).toBe(true);
    expect(own.group('a', 'g', false, false)).toMatchObject({
      queue: { name: 'queue', given: true },
      dead: { name: 'dead', given: true },
    });
  });

  test('can be read back: from the name, or from the tag where the limit has cut it', () => {
    fc.assert(
      fc.property(name, name, (topic, group) => {
        const { queue } = names.group(topic, group, false, false);
        const readable = queue.name === queue.whole ? queue.name : queue.whole;
        if (readable.length === 256) return; // beyond a tag, too: only the hash is left
        expect(splitName(readable)).toEqual(['waybill-v1-group', topic, group]);
      }),
    );
  });

  test('of different things are different, and fit (SUB-11)', () => {
    const place = fc.record({ topic: name, group: name, ordered: fc.boolean() });
    fc.assert(
      fc.property(place, place, (a, b) => {
        const all = [a, b].map(({ topic, group, ordered }) => {
          const { queue, dead, alone } = names.group(topic, group, ordered, false);
          return [queue.name, dead.name, ...(alone === undefined ? [] : [alone.name])];
        });
        const [first = [], second = []] = all;
        const same = a.topic === b.topic && a.group === b.group && a.ordered === b.ordered;
        expect(first[0] === second[0]).toBe(same);
        expect(new Set(first).size).toBe(first.length);
        for (const one of [...first, ...second])
          expect(one).toMatch(/^[A-Za-z0-9_-]{1,80}$|^(?=.{1,80}$)[A-Za-z0-9_-]+\.fifo$/);
        const [topicA, topicB] = [names.topic(a.topic, a.ordered), names.topic(b.topic, b.ordered)];
        expect(topicA === topicB).toBe(a.topic === b.topic && a.ordered === b.ordered);
        expect(topicA).toMatch(/^(?=.{1,256}$)[A-Za-z0-9_-]+(\.fifo)?$/);
        expect(isFifo(topicA)).toBe(a.ordered);
      }),
      { numRuns: 200 },
    );
  });

  test('of broadcasts and of a topic’s groups can be listed by how they begin', () => {
    fc.assert(
      fc.property(name, name, (topic, group) => {
        expect(names.group(topic, group, false, true).queue.name.startsWith(names.broadcasts)).toBe(true);
        const start = names.groupsOf(topic);
        if (start !== undefined)
          expect(names.group(topic, group, false, false).queue.name.startsWith(start)).toBe(true);
      }),
      // The first fits by itself, and no more with the separator behind it.
      { examples: [['-x!!z!9!', '!!!!!!!!!']] },
    );
  });
});

describe('a message group', () => {
  test('is the key where SQS allows it, and never that of another key', () => {
    expect(messageGroupOf('customer-1')).toBe('customer-1');
    const key = fc.oneof(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }),
      fc.string({ unit: fc.constantFrom('a', ' '), minLength: 127, maxLength: 130 }),
    );
    fc.assert(
      fc.property(key, key, (a, b) => {
        expect(messageGroupOf(a)).toMatch(/^[!-~]{1,128}$/);
        expect(messageGroupOf(a) === messageGroupOf(b)).toBe(a === b);
        expect(messageGroupOf(messageGroupOf(`ü${a}`))).not.toBe(messageGroupOf(`ü${a}`));
      }),
      { numRuns: 100 },
    );
  }, 30_000);
});
