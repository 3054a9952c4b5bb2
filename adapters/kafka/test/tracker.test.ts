import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeDone, movedBy, moveOf, Tracker, WINDOW } from '../src/tracker.ts';

/** A tracker that has read these offsets. */
function read(offsets: readonly number[], from = 0, metadata = ''): Tracker {
  const tracker = new Tracker(from, metadata);
  for (const offset of offsets) tracker.add(offset);
  return tracker;
}

const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, at) => from + at);

describe('the position', () => {
  test('stays before the first that is not done', () => {
    const tracker = read(range(4));
    tracker.finish(1);
    tracker.finish(2);
    expect(tracker.position).toBe(0);
    tracker.finish(0);
    expect(tracker.position).toBe(3);
    tracker.finish(3);
    expect(tracker.position).toBe(4);
  });

  test('passes offsets that do not exist', () => {
    const tracker = read([0, 5, 9]);
    tracker.readTo(20);
    for (const offset of [9, 0, 5]) tracker.finish(offset);
    expect(tracker.position).toBe(20);
  });

  test('is where the commit left off until something is read', () => {
    expect(new Tracker(7, '').position).toBe(7);
  });
});

describe('the bitmap', () => {
  test('hands out again exactly what was not done, whatever the order, the gaps and the crashes', () => {
    const run = fc.record({
      from: fc.integer({ min: 0, max: 2 ** 40 }),
      exists: fc.array(fc.boolean(), { minLength: 1, maxLength: 300 }),
      lives: fc.array(fc.array(fc.nat(299), { maxLength: 80 }), { minLength: 1, maxLength: 5 }),
    });
    fc.assert(
      fc.property(run, ({ from, exists, lives }) => {
        const all = exists.flatMap((there, at) => (there ? [from + at] : []));
        const done = new Set<number>();
        let commit = { offset: from, metadata: '' };
        for (const finished of lives) {
          const tracker = new Tracker(commit.offset, commit.metadata);
          const handed = all.filter((offset) => offset >= commit.offset && tracker.add(offset));
          expect(handed).toEqual(all.filter((offset) => !done.has(offset)));
          tracker.readTo(from + exists.length);
          for (const at of finished) {
            const offset = handed[at % Math.max(1, handed.length)];
            if (offset === undefined || done.has(offset)) continue;
            tracker.finish(offset);
            done.add(offset);
          }
          commit = { offset: tracker.position, metadata: tracker.metadata() };
        }
      }),
    );
  });

  test('fits what a broker takes when its window is full, and not one more is handed out', () => {
    const tracker = read(range(WINDOW + 1), 0, movedBy('12345678'));
    for (const offset of range(WINDOW - 1, 1)) tracker.finish(offset);
    expect(tracker.metadata().length).toBeLessThanOrEqual(4_096);
    expect(tracker.hasRoom(WINDOW - 1)).toBe(true);
    expect(tracker.hasRoom(WINDOW)).toBe(false);
  });

  test('keeps the name of the last move, whatever is done after it', () => {
    const first = new Tracker(3, movedBy('12345678'));
    for (const offset of range(3, 3)) first.add(offset);
    expect(moveOf(first.metadata())).toBe('12345678');
    first.finish(4);
    const next = new Tracker(first.position, first.metadata());
    expect(range(3, 3).filter((offset) => next.add(offset))).toEqual([3, 5]);
    expect(moveOf(next.metadata())).toBe('12345678');
    expect(moveOf('')).toBe('');
  });

  test('is empty where nothing is done out of order', () => {
    const tracker = read(range(3));
    tracker.finish(0);
    expect(tracker.metadata()).toBe('');
  });

  test('leaves the metadata of others alone', () => {
    expect(decodeDone(5, 'some text of another program')).toEqual(new Set());
    expect(decodeDone(5, '')).toEqual(new Set());
  });
});
