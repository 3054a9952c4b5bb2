import { expect, test } from 'vitest';
import { Notices } from '../src/notices.ts';
import { FakeClock } from './fake-clock.ts';

function noticesOf() {
  const clock = new FakeClock();
  const told: [text: string, details: object | undefined][] = [];
  const nothing = (): void => {};
  const warn = (text: string, details?: object): void => void told.push([text, details]);
  const notices = new Notices<'retry' | 'drop'>({ debug: nothing, info: nothing, warn, error: nothing }, clock);
  return { notices, clock, told };
}

test('the first of a kind is told at once, with its details', () => {
  const { notices, told } = noticesOf();
  notices.tell('retry', 'a failed', { error: 1 });
  notices.tell('drop', 'b was dropped', { error: 2 });
  expect(told).toEqual([
    ['a failed', { error: 1 }],
    ['b was dropped', { error: 2 }],
  ]);
});

test('in a storm there is a line every ten seconds, which counts those left out', async () => {
  const { notices, clock, told } = noticesOf();
  for (let n = 0; n < 1_000; n++) notices.tell('retry', `m-${n} failed`, {});
  expect(told).toHaveLength(1);
  await clock.advance(10_000);
  notices.tell('retry', 'm-1000 failed', {});
  notices.tell('retry', 'm-1001 failed', {});
  expect(told.map(([text]) => text)).toEqual(['m-0 failed', 'm-1000 failed (999 more like it went untold)']);
  await clock.advance(10_000);
  notices.tell('retry', 'm-1002 failed', {});
  expect(told.at(-1)?.[0]).toBe('m-1002 failed (1 more like it went untold)');
});
