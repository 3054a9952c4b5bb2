import { describe, expect, it } from 'vitest';
import { ident, literal, qualified } from '../src/ident.ts';

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

it('literals are exact', () => {
  expect(literal('postgres', "it's")).toBe("'it''s'");
  expect(literal('postgres', "a\\'b")).toBe("E'a\\\\''b'");
  expect(literal('mysql', "\\'")).toBe("_utf8mb4 X'5c27'");
});
