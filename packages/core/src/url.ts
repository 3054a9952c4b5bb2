import { duration } from './duration.ts';
import { ConfigError } from './errors.ts';
import { readHost } from './hosts.ts';

/**
 * A broker's URL, read by a grammar of our own: several hosts are not a WHATWG URL.
 *
 *     scheme://[user[:password]@]host[:port][,host[:port]…][/path][?name=value&…]
 *     scheme:[path][?…]
 */
export interface BrokerUrl {
  readonly scheme: string;
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly hosts: readonly { readonly host: string; readonly port: number | undefined }[];
  /** What follows the hosts, without its leading slash, decoded; `undefined` when there is no slash. */
  readonly path: string | undefined;
  readonly params: ReadonlyMap<string, string>;
  /** The URL as it may be shown: without password and without parameters, which may hold secrets. */
  readonly shown: string;
}

/** @throws ConfigError that says what is wrong, without repeating the password */
export function parseBrokerUrl(url: string): BrokerUrl {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    throw new ConfigError('url', `"${hidePassword(url)}" has no scheme; write for example amqp://localhost or memory:`);
  }
  const rest = url.slice(scheme.length + 1);
  const query = rest.indexOf('?');
  const beforeQuery = query < 0 ? rest : rest.slice(0, query);
  const params = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(query < 0 ? '' : rest.slice(query + 1))) {
    if (params.has(name)) throw new ConfigError(`url.${name}`, 'is given twice');
    params.set(name, value);
  }
  if (!beforeQuery.startsWith('//')) {
    const path = decode(beforeQuery, 'path');
    return { scheme, user: undefined, password: undefined, hosts: [], path, params, shown: `${scheme}:${path}` };
  }
  const slash = beforeQuery.indexOf('/', 2);
  const authority = slash < 0 ? beforeQuery.slice(2) : beforeQuery.slice(2, slash);
  const path = slash < 0 ? undefined : decode(beforeQuery.slice(slash + 1), 'path');
  const at = authority.lastIndexOf('@');
  const hostsText = authority.slice(at + 1);
  const [userText, ...passwordText] = at < 0 ? [] : authority.slice(0, at).split(':');
  // Without user, an @ further on may mean that what looks like a host is a user and a password with a / or ? in it.
  const doubtful = at < 0 && rest.includes('@');
  const hosts = hostsText === '' ? [] : hostsText.split(',').map((text) => parseHost(text, doubtful));
  return {
    scheme,
    user: userText === undefined ? undefined : decode(userText, 'user'),
    password: passwordText.length === 0 ? undefined : decode(passwordText.join(':'), 'password'),
    hosts,
    path,
    params,
    shown:
      doubtful && beforeQuery.includes('@')
        ? hidePassword(url)
        : `${scheme}://${hostsText}${path === undefined ? '' : `/${path}`}`,
  };
}

function parseHost(text: string, doubtful: boolean): { host: string; port: number | undefined } {
  const read = readHost(text);
  if (read !== undefined) return read;
  const hint = 'is not host or host:port; in a password write / as %2F, ? as %3F and @ as %40';
  throw new ConfigError('url.host', doubtful ? hint : `"${text}" is not host or host:port`);
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new ConfigError(`url.${part}`, 'is not percent-encoded as UTF-8; write % itself as %25', { cause });
  }
}

/** For texts that may hold a password and did not parse: shows nothing that could be a part of one. */
export function hidePassword(text: string): string {
  const query = text.indexOf('?');
  const beforeQuery = query < 0 ? text : text.slice(0, query);
  const start = /^(?:[a-z][a-z0-9+.-]*:)?(?:\/\/)?/i.exec(beforeQuery)?.[0] ?? '';
  if (beforeQuery.includes('@')) return `${start}…${beforeQuery.slice(beforeQuery.lastIndexOf('@'))}`;
  return text.includes('@') ? `${start}…` : beforeQuery;
}

/** Readers of URL parameters, one per kind of value; each throws a ConfigError that names the parameter. */
export const param = {
  text: (value: string): string => value,
  integer: (value: string, field: string): number => {
    if (/^\d{1,15}$/.test(value)) return Number(value);
    throw new ConfigError(field, `"${value}" is not a whole number`);
  },
  boolean: (value: string, field: string): boolean => {
    if (value === 'true' || value === 'false') return value === 'true';
    throw new ConfigError(field, `"${value}" is neither true nor false`);
  },
  duration: (value: string, field: string): number => duration(value, field),
  oneOf:
    <const T extends string>(...values: readonly T[]) =>
    (value: string, field: string): T => {
      const found = values.find((one) => one === value);
      if (found !== undefined) return found;
      throw new ConfigError(field, `"${value}" is none of ${values.join(', ')}`);
    },
};

type Readers = Readonly<Record<string, (value: string, field: string) => unknown>>;

/**
 * The parameters of a URL as options: `readParams(url, { heartbeat: param.duration })`.
 *
 * @throws ConfigError for a parameter that is not in the table (CFG-01), with those that are
 */
export function readParams<T extends Readers>(url: BrokerUrl, readers: T): { [K in keyof T]?: ReturnType<T[K]> } {
  const found: Record<string, unknown> = {};
  for (const [name, value] of url.params) {
    const read = Object.hasOwn(readers, name) ? readers[name] : undefined;
    if (read === undefined) {
      const known = Object.keys(readers);
      throw new ConfigError(
        `url.${name}`,
        `unknown parameter; ${known.length === 0 ? `${url.scheme}: takes none` : `known are ${known.join(', ')}`}`,
      );
    }
    found[name] = read(value, `url.${name}`);
  }
  return found as { [K in keyof T]?: ReturnType<T[K]> };
}

/**
 * Rejects options that nobody reads, by name: a typing error in an option must not be a silent default.
 *
 * @throws ConfigError
 */
export function checkOptions(given: object, known: readonly string[], where: string): void {
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) {
      throw new ConfigError(where === '' ? name : `${where}.${name}`, `unknown option; known are ${known.join(', ')}`);
    }
  }
}
