import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AckWindow } from '../src/ack-window.ts';

describe('acks', () => {
  test('a run of tags is one frame', () => {
    expect(new AckWindow().ack([2, 1, 3])).toEqual({ upTo: 3, single: [] });
  });

  test('never reach over a message in hand', () => {
    const window = new AckWindow();
    expect(window.ack([2, 3])).toEqual({ upTo: undefined, single: [2, 3] });
    // 1 closes the gap; 2 and 3 are settled, and acking them again would close the channel.
    expect(window.ack([1, 5])).toEqual({ upTo: 1, single: [5] });
    expect(window.ack([4])).toEqual({ upTo: 4, single: [] });
    expect(window.ack([6])).toEqual({ upTo: 6, single: [] });
  });

  test('go on behind tags that were given back', () => {
    const window = new AckWindow();
    window.settled(2);
    window.settled(1);
    expect(window.ack([4, 3])).toEqual({ upTo: 4, single: [] });
  });

  test('settle each message once and no other, in any order and in any batches', () => {
    const scenario = fc.array(fc.integer({ min: 0, max: 1_000_000 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(scenario, fc.integer({ min: 1, max: 7 }), (weights, size) => {
        const order = weights.map((weight, i) => ({ weight, tag: i + 1 })).sort((a, b) => a.weight - b.weight);
        const window = new AckWindow();
        const open = new Set(order.map(({ tag }) => tag));
        for (let from = 0; from < order.length; from += size) {
          const batch = order.slice(from, from + size).map(({ tag }) => tag);
          const returned = batch.filter((tag) => tag % 5 === 0);
          const acked = batch.filter((tag) => tag % 5 !== 0);
          for (const tag of returned) {
            window.settled(tag);
            open.delete(tag);
          }
          const plan = window.ack(acked);
          // As the broker does it: an unknown tag is an error, a multiple ack takes all that is open up to it.
          const gone: number[] = [];
          if (plan.upTo !== undefined) {
            expect(open.has(plan.upTo)).toBe(true);
            gone.push(...[...open].filter((tag) => tag <= (plan.upTo as number)));
          }
          for (const tag of plan.single) expect(open.has(tag)).toBe(true);
          gone.push(...plan.single);
          expect(gone.sort((a, b) => a - b)).toEqual(acked.sort((a, b) => a - b));
          for (const tag of gone) open.delete(tag);
        }
        expect(open.size).toBe(0);
      }),
    );
  });
});
