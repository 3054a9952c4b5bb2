/** Where data would not survive JSON: what is there, and where, such as `.items[2].price`. */
export interface JsonFault {
  readonly path: string;
  readonly problem: string;
}

/**
 * The first value in `data` that JSON cannot carry, or would turn into something else in silence. One walk that makes
 * nothing while all is well.
 */
export function jsonFault(data: unknown): JsonFault | undefined {
  return data === undefined ? { path: '', problem: 'is undefined; publish null, or an object' } : faultIn(data, 0, []);
}

/** Deeper than this a walk looks out for objects that contain themselves. */
const deep = 64;

function faultIn(value: unknown, depth: number, above: readonly object[]): JsonFault | undefined {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return undefined;
    case 'number':
      return Number.isFinite(value) ? undefined : here(`is ${value}, which JSON turns into null`);
    case 'bigint':
      return here('is a bigint, which JSON does not have; publish it as text, or as a number if it is small');
    case 'object':
      return value === null ? undefined : faultInObject(value, depth, above);
    // Undefined properties are not looked at: this one stands in an array.
    case 'undefined':
      return here('is undefined, which JSON turns into null');
    default:
      return here(`is a ${typeof value}, which JSON leaves out`);
  }
}

function faultInObject(value: object, depth: number, above: readonly object[]): JsonFault | undefined {
  if (depth > deep && above.includes(value)) return here('contains itself');
  if (!isPlain(value)) {
    const problem = classFault(value);
    if (problem !== undefined) return here(problem);
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return undefined;
  const below = depth > deep ? [...above, value] : above;
  return Array.isArray(value) ? faultInList(value, depth, below) : faultInMembers(value, depth, below);
}

function faultInList(list: readonly unknown[], depth: number, above: readonly object[]): JsonFault | undefined {
  for (let i = 0; i < list.length; i++) {
    const fault = faultIn(list[i], depth + 1, above);
    if (fault !== undefined) return { path: `[${i}]${fault.path}`, problem: fault.problem };
  }
  return undefined;
}

function faultInMembers(value: object, depth: number, above: readonly object[]): JsonFault | undefined {
  for (const name of Object.keys(value)) {
    const member = (value as Record<string, unknown>)[name];
    // Left out by JSON, and read as undefined by whoever looks for it: nothing is lost.
    if (member === undefined) continue;
    const fault = faultIn(member, depth + 1, above);
    if (fault !== undefined) return { path: `${step(name)}${fault.path}`, problem: fault.problem };
  }
  return undefined;
}

/** A list, or made by a literal in this or another realm: what it inherits from inherits nothing. */
function isPlain(value: object): boolean {
  if (Array.isArray(value)) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** What is wrong with an object that is more than its properties. */
function classFault(value: object): string | undefined {
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'is an invalid Date' : undefined;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    return 'holds bytes, which JSON has no way to carry; publish the bytes alone, or as text in base64';
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return undefined;
  if (value instanceof Number || value instanceof String || value instanceof Boolean) return undefined;
  const name = value.constructor?.name ?? 'object';
  if (value instanceof Promise) return 'is a Promise; await it first';
  if (value instanceof Error) return `is an ${name}, of which JSON keeps no message; publish its message as text`;
  if (value instanceof Map || value instanceof Set) {
    return `is a ${name}, which JSON turns into {}; publish it as an array or a plain object`;
  }
  if (Object.keys(value).length > 0) return undefined;
  return `is a ${name} without properties of its own, which JSON turns into {}; give it a toJSON, or publish a plain object`;
}

const here = (problem: string): JsonFault => ({ path: '', problem });

const step = (name: string): string => (/^[A-Za-z_$][\w$]*$/.test(name) ? `.${name}` : `[${JSON.stringify(name)}]`);
