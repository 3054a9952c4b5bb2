/**
 * The portable limits: what every broker can carry, checked on all of them alike, so that a message that can be
 * published on one can be published on the next. Each check returns what is wrong, or `undefined`.
 */
import { InvalidMessageError } from './errors.ts';
import { headerPrefix } from './wire.ts';

/** Bytes as UTF-8, and how many of them, at most. */
export const limits = {
  id: 128,
  key: 512,
  type: 128,
  contentType: 128,
  headers: 64,
  headerName: 100,
  headerValue: 4_096,
  allHeaders: 16_384,
} as const;

/** @returns what is wrong with an id, key, or other text of a message */
function checkText(value: unknown, max: number): string | undefined {
  if (typeof value !== 'string') return `is ${nameOf(value)}, not text`;
  if (value === '') return 'is empty';
  // No UTF-8 text is longer than three bytes per UTF-16 unit: short ones need no counting.
  if (value.length * 3 > max) {
    const bytes = Buffer.byteLength(value);
    if (bytes > max) return `has ${bytes} bytes; the limit is ${max}`;
  }
  return value.isWellFormed() ? undefined : 'holds half of a surrogate pair, which no broker can carry';
}

export const checkId = (id: unknown): string | undefined => checkText(id, limits.id);
export const checkKey = (key: unknown): string | undefined => checkText(key, limits.key);
export const checkType = (type: unknown): string | undefined => checkText(type, limits.type);

const mediaType = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+\/[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*;[ -~]*)?$/;

export function checkContentType(contentType: unknown): string | undefined {
  const problem = checkText(contentType, limits.contentType);
  if (problem !== undefined) return problem;
  return mediaType.test(contentType as string) ? undefined : 'is not a media type such as application/json';
}

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const noHeaders: Readonly<Record<string, string>> = Object.freeze({});

/**
 * Headers as they are sent: names in lower case.
 *
 * @throws InvalidMessageError that names the header
 */
export function checkHeaders(headers: Readonly<Record<string, string>> | undefined): Readonly<Record<string, string>> {
  if (headers === undefined) return noHeaders;
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) {
    throw new InvalidMessageError('headers', `is ${nameOf(headers)}, not an object of names and texts`);
  }
  const names = Object.keys(headers);
  if (names.length === 0) return noHeaders;
  if (names.length > limits.headers) {
    throw new InvalidMessageError('headers', `there are ${names.length}; the limit is ${limits.headers}`);
  }
  const checked: Record<string, string> = {};
  let bytes = 0;
  for (const given of names) {
    const name = given.toLowerCase();
    const value = headers[given];
    const problem = checkHeader(name, value) ?? (Object.hasOwn(checked, name) ? 'is given twice' : undefined);
    if (problem !== undefined) throw new InvalidMessageError(`headers.${given.slice(0, 110)}`, problem);
    checked[name] = value as string;
    bytes += name.length + Buffer.byteLength(value as string);
  }
  if (bytes > limits.allHeaders) {
    throw new InvalidMessageError('headers', `have ${bytes} bytes together; the limit is ${limits.allHeaders}`);
  }
  return checked;
}

function checkHeader(name: string, value: unknown): string | undefined {
  if (name === '') return 'has an empty name';
  if (name.length > limits.headerName) return `has a name of over ${limits.headerName} characters`;
  if (!token.test(name)) return "has a character in its name other than letters, digits and !#$%&'*+-.^_`|~";
  if (name.startsWith(headerPrefix)) return `begins with ${headerPrefix}, which is reserved`;
  // Assigned to an object it would vanish, here or in somebody's consumer.
  if (name === '__proto__') return 'is not a usable name in JavaScript';
  if (value === '') return undefined;
  return checkText(value, limits.headerValue);
}

/** For "is …, not text". */
export function nameOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`;
}

/** What somebody threw, in words. */
export const textOf = (error: unknown): string => (error instanceof Error ? error.message : nameOf(error));
