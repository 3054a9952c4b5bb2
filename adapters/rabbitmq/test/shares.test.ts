import fc from 'fast-check';
import { expect, test } from 'vitest';
import { shareLanes } from '../src/shares.ts';

const members = fc.uniqueArray(fc.uuid(), { minLength: 1, maxLength: 12 });
const lanes = fc.integer({ min: 1, max: 40 });

function countsOf(owners: readonly string[], who: readonly string[]): number[] {
  return who.map((member) => owners.filter((owner) => owner === member).length);
}

test('every lane has a member, and the shares are even', () => {
  fc.assert(
    fc.property(members, lanes, (who, count) => {
      const owners = shareLanes(who, count);
      expect(owners).toHaveLength(count);
      const counts = countsOf(owners, who);
      expect(counts.reduce((sum, one) => sum + one, 0)).toBe(count);
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
    }),
  );
});

test('members that know the same members agree', () => {
  fc.assert(
    fc.property(members, lanes, (who, count) => {
      expect(shareLanes([...who].reverse(), count)).toEqual(shareLanes(who, count));
    }),
  );
});

test('one more member moves few lanes', () => {
  let moved = 0;
  const runs = 200;
  for (let run = 0; run < runs; run++) {
    const who = [1, 2, 3].map((member) => `${run}-${member}`);
    const before = shareLanes(who, 8);
    const after = shareLanes([...who, `${run}-new`], 8);
    moved += before.filter((owner, lane) => owner !== after[lane]).length;
  }
  // Two of eight have to; dealing them out in turn would move six.
  expect(moved / runs).toBeLessThan(4);
});
