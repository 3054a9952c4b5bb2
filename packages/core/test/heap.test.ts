import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Heap } from '../src/heap.ts';

test('gives out the first by its order, whatever was added and taken before', () => {
  const step = fc.oneof(
    fc.record({ add: fc.integer() }),
    fc.constant('pop' as const),
    fc.record({ remove: fc.integer({ min: 2, max: 4 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const heap = new Heap<number>((a, b) => a < b);
      let model: number[] = [];
      for (const step of steps) {
        if (step === 'pop') {
          expect(heap.pop()).toBe(model.shift());
        } else if ('add' in step) {
          heap.push(step.add);
          model.push(step.add);
          model.sort((a, b) => a - b);
        } else {
          const fits = (n: number): boolean => n % step.remove === 0;
          expect(heap.takeWhere(fits).sort((a, b) => a - b)).toEqual(model.filter(fits));
          model = model.filter((n) => !fits(n));
        }
        expect(heap.size).toBe(model.length);
        expect(heap.peek()).toBe(model[0]);
      }
    }),
  );
});
