import { expect, test } from 'vitest';
import { kafkaNames } from '../src/topology.ts';

const names = kafkaNames('', {});
/** How Kafka compares names of topics. */
const seen = (name: string): string => name.replaceAll('.', '_');

test('a topic is called as it is, so that other programs find it', () => {
  expect(names.topic('orders.placed')).toBe('orders.placed');
  expect(names.group('orders.placed', 'billing')).toBe('orders.placed_x_billing');
});

test('topics of groups that differ in one character differ for Kafka, too', () => {
  const groups = ['g.1', 'g_1', 'g-1', 'g!1', 'G.1', 'g_x_1', 'g_x2e1'];
  for (const make of [names.retry, names.deadLetter]) {
    const all = groups.map((group) => seen(make('a.b', group)));
    expect(new Set(all).size).toBe(groups.length);
    for (const name of all) expect(name).toMatch(/^[A-Za-z0-9._-]{1,249}$/);
  }
  expect(seen(names.retry('a', 'b.c'))).not.toBe(seen(names.retry('a.b', 'c')));
});

test('the longest names fit', () => {
  const long = '!'.repeat(100);
  for (const name of [
    names.topic(long),
    names.group(long, long),
    names.retry(long, long),
    names.deadLetter(long, long),
  ]) {
    expect(name.length).toBeLessThanOrEqual(249);
  }
});

test('a prefix stays as it is, for rights that are given by prefix', () => {
  const prefixed = kafkaNames('team.one.', {});
  for (const name of [
    prefixed.topic('t'),
    prefixed.retry('t', 'g'),
    prefixed.deadLetter('t', 'g'),
    prefixed.level(0),
    prefixed.forwarders,
  ]) {
    expect(name).toMatch(/^team\.one\./);
  }
});

test('every name can be replaced', () => {
  const own = kafkaNames('', { topic: () => 'mine', retry: (topic, group) => `${topic}-${group}-again` });
  expect(own.topic('t')).toBe('mine');
  expect(own.retry('t', 'g')).toBe('t-g-again');
  expect(own.deadLetter('t', 'g')).toBe('t_x_g_x_dead');
});
