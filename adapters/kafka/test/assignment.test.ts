import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  assign,
  type Claim,
  decodeAssignment,
  decodeSubscription,
  divide,
  encodeAssignment,
  encodeSubscription,
} from '../src/assignment.ts';

const units = (count: number): string[] => Array.from({ length: count }, (_, at) => String(at));
const claim = (member: string, owned: readonly string[] = [], generation = 1): Claim => ({
  member,
  units: owned,
  generation,
});
const plain = (shares: ReadonlyMap<string, readonly string[]>): Record<string, readonly string[]> =>
  Object.fromEntries(shares);

/** Rounds of a group until nobody has to let go of anything; each ends with everybody joining again. */
function settle(members: readonly string[], all: readonly string[], owned = new Map<string, readonly string[]>()) {
  let moved = 0;
  for (let round = 0; round < 10; round++) {
    const claims = members.map((member) => claim(member, owned.get(member), round));
    const shares = assign(claims, all, 'even');
    const next = new Map(members.map((member) => [member, shares.get(member) ?? []] as const));
    const same = members.every((member) => (owned.get(member) ?? []).join() === (next.get(member) ?? []).join());
    for (const member of members) {
      moved += (owned.get(member) ?? []).filter((unit) => !next.get(member)?.includes(unit)).length;
    }
    owned = new Map(next);
    if (same) return { owned, moved, rounds: round };
  }
  throw new Error('the group does not settle');
}

describe('sharing evenly', () => {
  test('a first member gets everything', () => {
    expect(plain(assign([claim('a')], units(3), 'even'))).toEqual({ a: ['0', '1', '2'] });
  });

  test('what moves is with nobody until its owner has let go', () => {
    const shares = assign([claim('a', units(4)), claim('b', [], -1)], units(4), 'even');
    expect(plain(shares)).toEqual({ a: ['0', '1'], b: [] });
    expect(plain(assign([claim('a', ['0', '1']), claim('b')], units(4), 'even'))).toEqual({
      a: ['0', '1'],
      b: ['2', '3'],
    });
  });

  test('the newer claim of two counts', () => {
    const shares = assign([claim('back', ['0', '1'], 3), claim('heir', ['0'], 7)], units(2), 'even');
    expect(plain(shares)).toEqual({ back: ['1'], heir: ['0'] });
  });

  test('whoever comes and goes, everybody ends with an even share, and only as much moves as must', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 40 }),
        fc.array(fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd', 'e'), { minLength: 1 }), {
          minLength: 1,
          maxLength: 6,
        }),
        (count, steps) => {
          const all = units(count);
          let owned = new Map<string, readonly string[]>();
          for (const members of steps) {
            const before = new Map([...owned].filter(([member]) => (members as readonly string[]).includes(member)));
            const result = settle(members, all, before);
            owned = result.owned;
            expect([...owned.values()].flat().sort()).toEqual([...all].sort());
            const sizes = members.map((member) => owned.get(member)?.length ?? 0);
            expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
            const share = Math.floor(count / members.length);
            const excess = [...before.values()].reduce((sum, { length }) => sum + Math.max(0, length - share), 0);
            expect(result.moved).toBeLessThanOrEqual(excess);
          }
        },
      ),
    );
  });
});

describe('one for all', () => {
  test('whoever has most gets what nobody has, before those who have just come', () => {
    const shares = assign([claim('new', [], -1), claim('a', ['0', '1', '2'])], units(5), 'one');
    expect(plain(shares)).toEqual({ a: ['0', '1', '2', '3', '4'], new: [] });
    expect(plain(assign([claim('a-new', [], -1), claim('old', [], 7)], units(2), 'one'))).toEqual({
      old: ['0', '1'],
      'a-new': [],
    });
  });

  test('what others have they keep', () => {
    const shares = assign([claim('a', ['0', '1']), claim('b', ['2'])], units(4), 'one');
    expect(plain(shares)).toEqual({ a: ['0', '1', '3'], b: ['2'] });
  });
});

test('whoever joins to move the group gets nothing, and everybody is told where to', () => {
  const move = { id: 'm', offsets: { 'topic:0': 7 } };
  const members = [
    { id: 'a', metadata: encodeSubscription(['topic'], { units: ['0', '1'], generation: 3 }) },
    { id: 'mover', metadata: encodeSubscription(['topic'], { units: [], generation: -1, move }) },
  ];
  const partitions = [0, 1].map((partition) => ({ topic: 'topic', partition }));
  const told = divide(members, partitions, ({ partition }) => String(partition), 'even');
  expect(told.map(({ id, assignment }) => [id, decodeAssignment(assignment)])).toEqual([
    ['a', { partitions, moves: [move] }],
    ['mover', { partitions: [], moves: [move] }],
  ]);
});

describe("Kafka's formats", () => {
  test('a subscription brings back its claim', () => {
    const data = encodeSubscription(['topic', 'töpic'], { units: ['0', '7'], generation: 12 });
    expect(decodeSubscription('m', data)).toEqual({ member: 'm', units: ['0', '7'], generation: 12 });
  });

  test('what is no claim of ours claims nothing', () => {
    for (const data of [
      Buffer.alloc(0),
      Buffer.from('nonsense, and more of it'),
      encodeSubscription([], { units: [], generation: 1 }).subarray(0, 8),
    ]) {
      expect(decodeSubscription('m', data).units).toEqual([]);
    }
  });

  test('an assignment comes back', () => {
    const data = encodeAssignment(
      new Map([
        ['a', [0, 5]],
        ['b', []],
        ['c', [2]],
      ]),
    );
    expect(decodeAssignment(data)).toEqual({
      partitions: [
        { topic: 'a', partition: 0 },
        { topic: 'a', partition: 5 },
        { topic: 'c', partition: 2 },
      ],
      moves: [],
    });
    expect(decodeAssignment(Buffer.alloc(0))).toEqual({ partitions: [], moves: [] });
  });
});
