import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type GroupKeys, hashTag, KeyNames, type TopicKeys } from '../src/names.ts';

const names = new KeyNames('', {});

const token = fc.string({ unit: fc.constantFrom(..."!#$%&'*+-.^_`|~09azAZx"), minLength: 1, maxLength: 100 });
/** What users put before names: anything, and what a key of ours is made of above all. */
const prefix = fc.string({ unit: fc.constantFrom(...'{}:/%aw1-'), maxLength: 12 });
const groupOf = (from: KeyNames, topic: string, group: string, lanes: number): readonly GroupKeys[] =>
  from.group({ topic: { name: topic }, name: group }, lanes);

const keysOf = ({ streams, facts, delayed, temporary }: TopicKeys): string[] => [...streams, facts, delayed, temporary];
function ownKeys({ retry, alone, waiting, deadLetters, owner }: GroupKeys): string[] {
  return [retry, alone, waiting, deadLetters, owner];
}

describe('names', () => {
  test('are what a person expects', () => {
    expect(names.topic('orders.placed', 0)).toEqual({
      streams: ['orders.placed'],
      facts: 'waybill:v1:{orders.placed}:topic',
      delayed: 'waybill:v1:{orders.placed}:delayed',
      temporary: 'waybill:v1:{orders.placed}:temporary',
    });
    expect(groupOf(names, 'orders.placed', 'billing', 0)).toEqual([
      {
        stream: 'orders.placed',
        group: 'billing',
        retry: 'waybill:v1:{orders.placed}:retry:billing',
        alone: 'waybill:v1:{orders.placed}:alone:billing',
        waiting: 'waybill:v1:{orders.placed}:waiting:billing',
        deadLetters: 'waybill:v1:{orders.placed}:dead:billing',
        members: 'waybill:v1:{orders.placed}:members:billing',
        owner: 'waybill:v1:{orders.placed}:owner:billing',
      },
    ]);
    expect(names.topic('orders', 2).streams).toEqual([
      'waybill:v1:{orders/0}:lane-lane',
      'waybill:v1:{orders/1}:lane-lane',
    ]);
    expect(groupOf(names, 'orders', 'billing', 2)[1]).toMatchObject({
      stream: 'waybill:v1:{orders/1}:lane-lane',
      deadLetters: 'waybill:v1:{orders/1}:lane-dead:billing',
      members: 'waybill:v1:{orders}:members:billing',
    });
  });

  test('carry the prefix, in which a brace is no hash tag', () => {
    expect(new KeyNames('stage:', {}).stream('orders')).toBe('stage:orders');
    expect(new KeyNames('{a}%', {}).stream('orders')).toBe('%7Ba%7D%25orders');
  });

  test('of the user are taken as they are, and keep their own hash tag', () => {
    const own = new KeyNames('', {
      topic: (topic) => `shop:{eu}:${topic}`,
      group: (topic, group) => `${topic} by ${group}`,
      deadLetter: () => '{eu}dead',
    });
    expect(own.stream('orders')).toBe('shop:{eu}:orders');
    expect(groupOf(own, 'orders', 'billing', 0)[0]).toMatchObject({
      stream: 'shop:{eu}:orders',
      group: 'orders by billing',
      retry: 'waybill:v1:{eu}:shop%3A%7Beu%7D%3Aorders:retry:orders by billing',
      deadLetters: '{eu}dead',
    });
    expect(groupOf(own, 'orders', 'billing', 2).map(({ deadLetters }) => deadLetters)).toEqual([
      '{eu}dead:0',
      '{eu}dead:1',
    ]);
  });

  test('of one topic, or one lane, lie in one slot', () => {
    fc.assert(
      fc.property(prefix, token, token, fc.constantFrom(0, 3), (before, topic, group, lanes) => {
        const made = new KeyNames(before, {});
        for (const keys of groupOf(made, topic, group, lanes)) {
          const tags = new Set([keys.stream, ...ownKeys(keys)].map(hashTag));
          expect(tags.size).toBe(1);
        }
        if (lanes === 0) expect(new Set(keysOf(made.topic(topic, 0)).map(hashTag)).size).toBe(1);
      }),
      { numRuns: 500 },
    );
  });

  test('of different things are different (SUB-11)', () => {
    const place = fc.record({ before: prefix, topic: token, group: token, lanes: fc.constantFrom(0, 2) });
    fc.assert(
      fc.property(place, place, (a, b) => {
        const all = [a, b].map(({ before, topic, group, lanes }) => {
          const made = new KeyNames(before, {});
          const groups = groupOf(made, topic, group, lanes);
          const [first] = groups;
          return {
            stream: made.stream(topic),
            topic: keysOf(made.topic(topic, lanes)),
            group: [...groups.flatMap(ownKeys), first?.members ?? ''],
          };
        });
        const [one, two] = all;
        if (one === undefined || two === undefined) throw new Error('two were made');
        for (const { topic, group } of all)
          expect(new Set([...topic, ...group]).size).toBe(topic.length + group.length);
        // A prefix and a topic may be another prefix and topic: then they mean the same stream.
        const sameTopic = one.stream === two.stream;
        const shared = (x: readonly string[], y: readonly string[]): boolean => x.some((key) => y.includes(key));
        if (!sameTopic) {
          expect(shared([...one.topic, ...one.group], [...two.topic, ...two.group])).toBe(false);
        } else if (a.group !== b.group) {
          expect(shared(one.group, two.group)).toBe(false);
        }
        expect(shared(one.topic, two.group) || shared(two.topic, one.group)).toBe(false);
      }),
      { numRuns: 1_000 },
    );
  });

  test('can be read back', () => {
    fc.assert(
      fc.property(prefix, token, token, (before, topic, group) => {
        const made = new KeyNames(before, {});
        const [keys] = groupOf(made, topic, group, 0);
        const match = /^waybill:v1:\{([^{}]*)\}:retry:(.*)$/.exec(keys?.retry ?? '');
        expect(match?.[2]).toBe(group);
        const written = before.replace(/[{}%]/g, encodeURIComponent);
        expect(match?.[1]).toBe(written + topic);
        expect(decodeURIComponent(written)).toBe(before);
      }),
    );
  });
});
