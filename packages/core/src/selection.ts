import { ConfigError } from './errors.ts';
import { checkOptions } from './url.ts';

/** Which of the entries that somebody has given up on. With several of these, all of them have to fit. */
export type Selection<Item> =
  | 'all'
  | {
      /** Entry ids. */
      readonly ids?: readonly string[];
      readonly where?: (item: Item) => boolean;
      /** The oldest ones, at most this many. */
      readonly limit?: number;
    };

/** A selection that has been checked. */
export interface CompiledSelection<Item> {
  readonly ids: ReadonlySet<string> | undefined;
  readonly where: ((item: Item) => boolean) | undefined;
  readonly limit: number;
}

/** @throws ConfigError */
export function compileSelection<Item>(select: Selection<Item>): CompiledSelection<Item> {
  if (select === 'all') return { ids: undefined, where: undefined, limit: Number.POSITIVE_INFINITY };
  if (typeof select !== 'object' || select === null) {
    throw new ConfigError('select', "is neither 'all' nor an object with ids, where or limit");
  }
  checkOptions(select, ['ids', 'where', 'limit'], 'select');
  const { ids, where, limit } = select;
  if (ids === undefined && where === undefined && limit === undefined) {
    throw new ConfigError('select', "selects nothing; write 'all' for all of them, or give ids, where or limit");
  }
  if (ids !== undefined && !(Array.isArray(ids) && ids.every((id) => typeof id === 'string'))) {
    throw new ConfigError('select.ids', 'is not a list of entry ids');
  }
  if (where !== undefined && typeof where !== 'function') throw new ConfigError('select.where', 'is not a function');
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) {
    throw new ConfigError('select.limit', `${limit} is not a whole number from 1 on`);
  }
  return { ids: ids && new Set(ids), where, limit: limit ?? Number.POSITIVE_INFINITY };
}
