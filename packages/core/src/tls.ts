import { readFileSync } from 'node:fs';
import { ConfigError } from './errors.ts';
import { param } from './url.ts';

/** The parameters by which a URL tells of TLS, for `readParams`. */
export const tlsParams = {
  caFile: param.text,
  certFile: param.text,
  keyFile: param.text,
  passphrase: param.text,
  servername: param.text,
} as const;

/** Those of Node's TLS options that a URL can give. */
export interface UrlTls {
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly passphrase?: string;
  readonly servername?: string;
}

/**
 * The TLS options of a URL's parameters; the files are read here.
 *
 * @throws ConfigError that names the parameter whose file cannot be read
 */
export function tlsOf(given: { readonly [K in keyof typeof tlsParams]?: string | undefined }, adapter: string): UrlTls {
  const { caFile, certFile, keyFile, passphrase, servername } = given;
  return {
    ...(caFile === undefined ? {} : { ca: readParamFile(caFile, 'caFile', adapter) }),
    ...(certFile === undefined ? {} : { cert: readParamFile(certFile, 'certFile', adapter) }),
    ...(keyFile === undefined ? {} : { key: readParamFile(keyFile, 'keyFile', adapter) }),
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(servername === undefined ? {} : { servername }),
  };
}

/**
 * Reads the file that a URL's parameter names.
 *
 * @throws ConfigError that names the parameter
 */
export function readParamFile(file: string, parameter: string, adapter: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new ConfigError(`url.${parameter}`, `"${file}" cannot be read`, { adapter, cause });
  }
}
