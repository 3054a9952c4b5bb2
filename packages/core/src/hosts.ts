import { ConfigError } from './errors.ts';
import { type BrokerUrl, hidePassword } from './url.ts';

export interface Host {
  readonly host: string;
  readonly port: number;
}

/** The hosts of a URL as texts, for an adapter's option; `undefined` where it names none. */
export function hostsOf(url: BrokerUrl): readonly string[] | undefined {
  if (url.hosts.length === 0) return undefined;
  return url.hosts.map(({ host, port }) => (port === undefined ? bracket(host) : showHost({ host, port })));
}

/** Reads `host`, `host:port` or `[::1]:port`; `undefined` for anything else. */
export function readHost(text: string): { readonly host: string; readonly port: number | undefined } | undefined {
  const [, name, digits] = /^(\[[0-9a-f:.]+\]|[^:/@[\]]+)(?::(\d{1,5}))?$/i.exec(text) ?? [];
  const port = digits === undefined ? undefined : Number(digits);
  if (name === undefined || (port !== undefined && (port < 1 || port > 65_535))) return undefined;
  return { host: name.replace(/^\[|\]$/g, ''), port };
}

/**
 * Reads an adapter's option that names hosts.
 *
 * @param given one text with commas between, or a list
 * @param defaultPort of those that name none
 * @param field the option, as `kafka.brokers`
 * @throws ConfigError that names the option
 */
export function parseHosts(given: string | readonly string[], defaultPort: number, field: string): Host[] {
  const list = typeof given === 'string' ? given.split(',') : given;
  if (list.length === 0) throw new ConfigError(field, "is empty; write for example ['localhost']");
  return list.map((text) => {
    const read = readHost(text.trim());
    if (read === undefined) throw new ConfigError(field, `"${hidePassword(text)}" is not host or host:port`);
    return { host: read.host, port: read.port ?? defaultPort };
  });
}

export const showHost = ({ host, port }: Host): string => `${bracket(host)}:${port}`;

const bracket = (host: string): string => (host.includes(':') ? `[${host}]` : host);
