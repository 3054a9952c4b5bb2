import { createHash } from 'node:crypto';
import { ConfigError } from './errors.ts';

/** Characters of names: the "token" of HTTP (RFC 9110, 5.6.2), so that a name also fits a header or a URL. */
const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}$/;

/** @throws ConfigError unless the name has 1 to 100 token characters and not Waybill's own prefix */
export function checkName(field: string, name: unknown): asserts name is string {
  if (typeof name !== 'string' || !token.test(name)) {
    const shown = typeof name === 'string' ? JSON.stringify(name.slice(0, 110)) : String(name);
    throw new ConfigError(field, `${shown} is not a name; use 1 to 100 letters, digits or !#$%&'*+-.^_\`|~`);
  }
  if (name.toLowerCase().startsWith('waybill-')) {
    throw new ConfigError(field, `"${name}" begins with waybill-, which is reserved`);
  }
}

const escapeMark = '_x';
const separator = '_x_';

/**
 * Makes names for a broker that allows fewer characters: what is not allowed becomes `_x` and its code in two hex
 * digits, and so does the `_` of a literal `_x`; everything else stays as it is. Two names never become one, and
 * parts joined by `_x_` can be told apart, because that sequence cannot come out of a part.
 *
 * @param allowed one character that the broker allows
 * @param maxLength what the broker allows in all; a longer name ends in a hash of the whole instead
 */
export function nameMaker(allowed: RegExp, maxLength: number): (...parts: readonly string[]) => string {
  const escapePart = (part: string): string =>
    part.replace(/[\s\S]/g, (c, at: number) => {
      const literalMark = c === '_' && part[at + 1] === 'x';
      return !literalMark && allowed.test(c) ? c : `${escapeMark}${hex(c)}`;
    });
  return (...parts) => {
    const name = parts.map(escapePart).join(separator);
    if (name.length <= maxLength) return name;
    const hash = createHash('sha256').update(name).digest('hex').slice(0, 32);
    return `${name.slice(0, maxLength - separator.length - hash.length)}${separator}${hash}`;
  };
}

const hex = (c: string): string => c.charCodeAt(0).toString(16).padStart(2, '0');

/** The parts of a name that `nameMaker` made, `undefined` where it ends in a hash. */
export function splitName(name: string): readonly string[] {
  return name
    .split(separator)
    .map((part) =>
      part.replace(/_x([0-9a-f]{2})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16))),
    );
}

/** A group in texts. */
export function nameOfGroup(group: { readonly name: string; readonly topic: { readonly name: string } }): string {
  return `group "${group.name}" of topic "${group.topic.name}"`;
}
