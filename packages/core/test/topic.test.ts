import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { ConfigError, WaybillError } from '../src/errors.ts';
import { consumer, isConsumer, resolveTopic, topic } from '../src/topic.ts';

describe('topic', () => {
  test('keeps what was declared', () => {
    const schema = z.object({ id: z.string() });
    const declared = topic('orders', {
      schema,
      key: (one) => one.id,
      ordered: true,
      lanes: 4,
      broker: { kafka: { x: 1 } },
    });
    expect(declared.name).toBe('orders');
    expect(resolveTopic(declared)).toMatchObject({
      name: 'orders',
      schema,
      ordered: true,
      lanes: 4,
      broker: { kafka: { x: 1 } },
      types: undefined,
      event: undefined,
    });
    expect(resolveTopic(declared).key?.({ id: 'a' }, undefined)).toBe('a');
  });

  test('that says nothing of order leaves it to the broker', () => {
    expect(resolveTopic(topic('plain')).ordered).toBeUndefined();
    expect(resolveTopic(topic('plain', { ordered: false })).ordered).toBe(false);
  });

  test('by its bare name is as it stands on the broker', () => {
    expect(resolveTopic('by-name')).toMatchObject({ name: 'by-name', schema: undefined, ordered: undefined });
  });

  test('with events publishes to one of them', () => {
    const types = { placed: z.object({}), cancelled: v.object({}) };
    const events = topic('orders', { types });
    expect(resolveTopic(events)).toMatchObject({ types, event: undefined });
    expect(resolveTopic(events.event('placed'))).toMatchObject({ name: 'orders', types, event: 'placed' });
    expect(events.event('placed')).toBe(events.event('placed'));
    expect(() => events.event('shipped' as 'placed')).toThrow(
      'type: topic "orders" has no event "shipped"; it has placed, cancelled',
    );
  });

  test('takes schemas that are functions', () => {
    const schema = Object.assign(() => {}, { '~standard': z.string()['~standard'] });
    expect(resolveTopic(topic('callable', { schema })).schema).toBe(schema);
  });

  test.each([
    ['', 'topic'],
    ['with space', 'topic'],
    ['ümlaut', 'topic'],
    ['a'.repeat(101), 'topic'],
    ['waybill-own', 'topic'],
    [undefined, 'topic'],
  ])('refuses the name %j', (name, field) => {
    const failure = thrown(() => topic(name as string));
    expect(failure).toBeInstanceOf(ConfigError);
    expect(failure).toMatchObject({ code: 'CONFIG', field });
    if (name !== undefined) expect(() => resolveTopic(name)).toThrow(ConfigError);
  });

  test('takes names of 1 and of 100 characters, and every character of a token', () => {
    for (const name of ['a', 'a'.repeat(100), "!#$%&'*+-.^_`|~09azAZ"]) expect(topic(name).name).toBe(name);
  });

  test.each([
    [{ sheme: 1 }, 'topic "t".sheme'],
    [{ ordered: 'yes' }, 'topic "t".ordered'],
    [{ key: 'id' }, 'topic "t".key'],
    [{ lanes: 4 }, 'topic "t".lanes'],
    [{ ordered: true, lanes: 0 }, 'topic "t".lanes'],
    [{ ordered: true, lanes: 1.5 }, 'topic "t".lanes'],
    [{ schema: {} }, 'topic "t".schema'],
    [{ schema: null }, 'topic "t".schema'],
    [{ types: {} }, 'topic "t".types'],
    [{ types: { a: {} } }, 'topic "t".types.a'],
    [{ types: { '': z.string() } }, 'topic "t".types.'],
    [{ types: { a: z.string() }, schema: z.string() }, 'topic "t".types'],
    [{ codec: {} }, 'topic "t".codec'],
    [{ broker: 'kafka' }, 'topic "t".broker'],
  ])('refuses the options %j by name', (options, field) => {
    expect(thrown(() => topic('t', options as object))).toMatchObject({ code: 'CONFIG', field });
  });

  test.each([[{ name: 'forged' }], [undefined], [null], [42]])('is made by topic() alone, not %j', (forged) => {
    expect(thrown(() => resolveTopic(forged as never))).toMatchObject({ code: 'CONFIG', field: 'topic' });
  });
});

test('a consumer is inert, and known as one', () => {
  const handler = (): void => {};
  const options = { group: 'billing' };
  const made = consumer('orders', options, handler);
  expect(made).toMatchObject({ topic: 'orders', options, handler });
  expect(isConsumer(made)).toBe(true);
  expect(isConsumer({ topic: 'orders', options, handler })).toBe(false);
  expect(isConsumer('orders')).toBe(false);
  expect(() => consumer('not a name', options, handler)).toThrow(ConfigError);
});

function thrown(run: () => unknown): WaybillError {
  try {
    run();
  } catch (error) {
    expect(WaybillError.is(error)).toBe(true);
    return error as WaybillError;
  }
  throw new Error('nothing was thrown');
}
