import { ConfigError } from './errors.ts';
import type { BrokerUrl } from './url.ts';

export interface Host {
  readonly host: string;
  readonly port: number;
}

/** The hosts of a URL as texts, for an adapter's option; `undefined` where it names none. */
export function hostsOf(url: BrokerUrl): readonly string[] | undefined {
  if (url.hosts.length === 0) return undefined;
  return url.hosts.map(({ host, port }) => (port === undefined ? bracket(host) : showHost({ host, port })));
}

/**
 * Reads the option `hosts` of an adapter.
 *
 * @param given one text with commas between, or a list; `localhost` by default
 * @param port of those that name none
 * @throws ConfigError that names the option
 */
export function parseHosts(given: string | readonly string[] | undefined, port: number, adapter: string): Host[] {
  const list = given === undefined ? ['localhost'] : typeof given === 'string' ? given.split(',') : given;
  const wrong = (text: string): ConfigError => new ConfigError(`${adapter}.hosts`, text, { adapter });
  if (list.length === 0) throw wrong('is empty');
  return list.map((text) => {
    const match = /^(\[[0-9a-f:.]+\]|[^:/@[\]]+)(?::(\d{1,5}))?$/i.exec(text.trim());
    if (match?.[1] === undefined) throw wrong(`"${text}" is not host or host:port`);
    return { host: match[1].replace(/^\[|\]$/g, ''), port: match[2] === undefined ? port : Number(match[2]) };
  });
}

export const showHost = ({ host, port }: Host): string => `${bracket(host)}:${port}`;

const bracket = (host: string): string => (host.includes(':') ? `[${host}]` : host);
