import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkName, nameMaker, splitName } from '../src/names.ts';

const characters = "!#$%&'*+-.^_`|~0123456789abcxyzABCXYZ";
const name = fc.string({ unit: fc.constantFrom(...characters), minLength: 1, maxLength: 100 });
const parts = fc.array(name, { minLength: 1, maxLength: 3 });
const make = nameMaker(/[A-Za-z0-9._-]/, 249);

describe('a name on a broker', () => {
  test('has nothing that the broker does not allow, and is not too long', () => {
    fc.assert(
      fc.property(parts, (given) => {
        expect(make(...given)).toMatch(/^[A-Za-z0-9._-]{1,249}$/);
      }),
    );
  });

  test('is never that of other parts', () => {
    fc.assert(
      fc.property(parts, parts, (a, b) => {
        expect(make(...a) === make(...b)).toBe(JSON.stringify(a) === JSON.stringify(b));
      }),
    );
  });

  test('can be taken apart again while it is short', () => {
    const roomy = nameMaker(/[A-Za-z0-9._-]/, 10_000);
    fc.assert(
      fc.property(parts, (given) => {
        expect(splitName(roomy(...given))).toEqual(given);
      }),
    );
  });

  test('stays as it is where the broker allows it', () => {
    expect(make('orders.placed')).toBe('orders.placed');
    expect(make('orders', 'billing')).toBe('orders_x_billing');
    expect(make('a_x')).toBe('a_x5fx');
  });

  test('that is long differs although its beginning does not', () => {
    const long = 'a'.repeat(100);
    const short = nameMaker(/[a-z_]/, 80);
    expect(short(long, 'a')).not.toBe(short(long, 'b'));
    expect(short(long, 'a')).toHaveLength(80);
  });
});

test.each(['a', 'orders.placed', "!#$%&'*+-.^_`|~", 'a'.repeat(100), 'xwaybill-'])('%s is a name', (given) => {
  expect(() => checkName('topic', given)).not.toThrow();
});

test.each(['', ' ', 'a b', 'a/b', 'a:b', 'ä', 'a\n', 'a'.repeat(101), 'waybill-x', 'Waybill-x', 1, null, undefined])(
  '%j is no name',
  (given) => {
    expect(() => checkName('group', given)).toThrow(expect.objectContaining({ code: 'CONFIG', field: 'group' }));
  },
);
