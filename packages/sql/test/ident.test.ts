import { describe, expect, it } from 'vitest';
import { ident, indexName, literal, qualified } from '../src/ident.ts';

describe('names', () => {
  it('are quoted by the rules of the dialect, whatever they hold', () => {
    expect(ident('postgres', 'a"b')).toBe('"a""b"');
    expect(ident('sqlite', 'a b')).toBe('"a b"');
    expect(ident('mysql', 'a`b')).toBe('`a``b`');
    expect(qualified('postgres', 't', 'my schema')).toBe('"my schema"."t"');
  });

  it.each(['', 'x\0y', 'ä'.repeat(32)])('that no database takes are refused: %j', (name) => {
    expect(() => qualified('postgres', 't', name)).toThrow('schema: ');
  });
});

describe('names of indexes', () => {
  it('are those of their tables', () => {
    expect(indexName('postgres', 'a"b', 'ends_at')).toBe('"a""b_ends_at"');
  });

  it('differ where long tables do, and are never cut', () => {
    const long = ['x'.repeat(62), 'y'.repeat(61)].flatMap((text) => [
      `${text}a`,
      `${text}b`,
      '€'.repeat(21),
      '🚚'.repeat(15),
    ]);
    const names = new Set(long.map((table) => indexName('postgres', table, 'ends_at')));
    expect(names.size).toBe(6);
    for (const name of names) expect(Buffer.byteLength(name)).toBeLessThanOrEqual(65);
  });
});

it('literals are exact', () => {
  expect(literal('postgres', "it's")).toBe("'it''s'");
  expect(literal('postgres', "a\\'b")).toBe("E'a\\\\''b'");
  expect(literal('mysql', "\\'")).toBe("_utf8mb4 X'5c27'");
});
