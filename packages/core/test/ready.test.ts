import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Delivery } from '../src/adapter.ts';
import { Held } from '../src/held.ts';
import { OrderedReady, UnorderedReady } from '../src/ready.ts';

const by = { decided: () => {}, extended: () => {}, begun: () => {}, checkDelay: () => {} };

function delivery(lane: string, key: string | undefined, position: number): Delivery {
  return {
    lane,
    key,
    id: String(position),
    type: undefined,
    contentType: undefined,
    body: new Uint8Array(1),
    headers: {},
    publishedAt: undefined,
    expiresAt: undefined,
    attempt: 1,
    deliveries: undefined,
    position: String(position),
    native: undefined,
  };
}

const held = (lane: string, key: string | undefined, position: number): Held =>
  new Held(by, delivery(lane, key, position), 0);

describe('deliveries of an ordered topic', () => {
  test('one key has one attempt at a time, others run beside it', () => {
    const ready = new OrderedReady();
    const [a1, a2, b1] = [held('l', 'a', 1), held('l', 'a', 2), held('l', 'b', 3)];
    for (const one of [a1, a2, b1]) ready.add(one);
    expect([ready.next(), ready.next(), ready.next()]).toEqual([a1, b1, undefined]);
    expect(ready.blocked('l')).toBe(1);
    ready.release(a1);
    expect(ready.next()).toBe(a2);
    expect(ready.blocked('l')).toBe(0);
  });

  test('a message that is tried again comes before its followers', () => {
    const ready = new OrderedReady();
    const [a1, a2] = [held('l', 'a', 1), held('l', 'a', 2)];
    ready.add(a1);
    ready.add(a2);
    ready.next();
    a1.state = 'waiting';
    expect(ready.heldBack()).toBe(1);
    ready.again(a1);
    expect(ready.next()).toBe(a1);
  });

  test('messages without a key do not wait for each other', () => {
    const ready = new OrderedReady();
    ready.add(held('l', undefined, 1));
    ready.add(held('l', undefined, 2));
    expect(ready.startable).toBe(2);
  });

  test('whatever happens, its counts are those of a plain list', () => {
    const step = fc.oneof(
      fc.record({
        do: fc.constant('add' as const),
        lane: fc.constantFrom('l', 'm'),
        key: fc.constantFrom('a', 'b', 'c'),
      }),
      fc.record({ do: fc.constantFrom('next' as const, 'release' as const, 'again' as const, 'drop' as const) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const ready = new OrderedReady();
        // The model: everything in order, and which of it is being tried.
        let waiting: Held[] = [];
        const current: Held[] = [];
        const line = (one: Held): string => `${one.delivery.lane}/${one.delivery.key}`;
        let position = 0;
        for (const one of steps) {
          if (one.do === 'add') {
            const added = held(one.lane, one.key, position++);
            ready.add(added);
            waiting.push(added);
          } else if (one.do === 'next') {
            const next = ready.next();
            const busy = new Set(current.map(line));
            const startable = waiting.filter((each) => !busy.has(line(each)));
            if (next === undefined) expect(startable).toEqual([]);
            else {
              expect(startable.find((each) => line(each) === line(next))).toBe(next);
              waiting = waiting.filter((each) => each !== next);
              current.push(next);
            }
          } else if (one.do === 'drop') {
            const dropped = ready.takeWhere((each) => each.delivery.lane === 'm');
            expect(new Set(dropped)).toEqual(new Set(waiting.filter((each) => each.delivery.lane === 'm')));
            waiting = waiting.filter((each) => each.delivery.lane !== 'm');
          } else {
            const first = current.shift();
            if (first === undefined) continue;
            if (one.do === 'release') ready.release(first);
            else {
              ready.again(first);
              waiting.unshift(first);
            }
          }
          const busy = new Set(current.map(line));
          const lines = new Set(waiting.map(line));
          expect(ready.size).toBe(waiting.length);
          expect(ready.startable).toBe([...lines].filter((each) => !busy.has(each)).length);
          for (const lane of ['l', 'm']) {
            const inLane = waiting.filter((each) => each.delivery.lane === lane);
            const free = new Set(inLane.map(line).filter((each) => !busy.has(each)));
            expect(ready.blocked(lane)).toBe(inLane.length - free.size);
          }
        }
      }),
      { numRuns: 500 },
    );
  });
});

test('deliveries without order start as they came, a repeated one first', () => {
  const ready = new UnorderedReady();
  const [one, two] = [held('l', 'a', 1), held('l', 'a', 2)];
  ready.add(one);
  ready.add(two);
  expect(ready.next()).toBe(one);
  ready.again(one);
  expect([ready.next(), ready.next(), ready.next()]).toEqual([one, two, undefined]);
});
