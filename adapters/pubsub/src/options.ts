import {
  ConfigError,
  checkOptions,
  type Duration,
  duration,
  param,
  parseBrokerUrl,
  readParamFile,
  readParams,
} from '@waybill/core/adapter';

/** A service account's key, as in its JSON file. */
export interface ServiceAccount {
  readonly client_email: string;
  readonly private_key: string;
}

export interface PubsubOptions {
  /** The Google Cloud project. Default: `GOOGLE_CLOUD_PROJECT` of the environment. */
  readonly project?: string;
  /**
   * `host:port` instead of the service: the emulator, or a private endpoint with `tls`. A host of googleapis.com is the
   * service itself in one region: `europe-west1-pubsub.googleapis.com:443`. Default: `PUBSUB_EMULATOR_HOST` of the
   * environment, else the service.
   */
  readonly endpoint?: string;
  /**
   * TLS to an `endpoint`; with `ca` as the authority in PEM. Then `keyFile` or `credentials` are used, where they are
   * given. Default false: an emulator, without credentials. The service itself always speaks TLS.
   */
  readonly tls?: boolean | { readonly ca: string | Uint8Array };
  /** File with the key of a service account. Default: the credentials that Google's libraries find by themselves. */
  readonly keyFile?: string;
  /** The key itself instead of a file. */
  readonly credentials?: ServiceAccount;
  /**
   * Groups that are made get subscriptions with exactly-once delivery: Pub/Sub redelivers nothing that was acked, and
   * says so when an ack came too late. Slower, and only within one region. Default false.
   */
  readonly exactlyOnce?: boolean;
  /**
   * How long topics that are made keep their messages for `seek` and for groups that start earlier than now; the service
   * bills what it keeps. 10 minutes to 31 days, or false for nothing. Default 1 day.
   */
  readonly retainFor?: Duration | false;
  /** How long a request may take before its outcome is unknown. Default 10 s. */
  readonly requestTimeout?: Duration;
}

/** Options with everything filled in. */
export interface Settings {
  readonly project: string;
  /** It is Google's own, with Google's certificates and credentials. */
  readonly service: boolean;
  /** `undefined`: the service as a whole. */
  readonly endpoint: { readonly host: string; readonly port: number } | undefined;
  readonly tls: boolean;
  readonly ca: Buffer | undefined;
  readonly keyFile: string | undefined;
  readonly credentials: ServiceAccount | undefined;
  readonly target: string;
  readonly exactlyOnce: boolean;
  /** Milliseconds, like all times here; `undefined`: topics keep nothing. */
  readonly retainFor: number | undefined;
  readonly requestTimeout: number;
}

const known: readonly (keyof PubsubOptions)[] = [
  'project',
  'endpoint',
  'tls',
  'keyFile',
  'credentials',
  'exactlyOnce',
  'retainFor',
  'requestTimeout',
];

const minute = 60_000;
const day = 24 * 60 * minute;

/** @throws ConfigError that names the option */
export function resolveOptions(options: PubsubOptions): Settings {
  checkOptions(options, known, 'pubsub');
  const project = options.project ?? process.env['GOOGLE_CLOUD_PROJECT'];
  if (project === undefined || !/^[a-z0-9][a-z0-9.:-]*$/.test(project)) {
    throw new ConfigError('pubsub.project', `${JSON.stringify(project)} is not a project; write pubsub://project-id`);
  }
  const endpoint = endpointOf(options.endpoint ?? (process.env['PUBSUB_EMULATOR_HOST'] || undefined));
  const { tls = false, retainFor = '1d', keyFile, credentials } = options;
  const service = endpoint === undefined || /(?:^|\.)googleapis\.com$/i.test(endpoint.host);
  if (service && (endpoint === undefined ? tls !== false : typeof tls === 'object')) {
    throw new ConfigError('pubsub.tls', 'is for an endpoint of your own; the service itself always speaks TLS');
  }
  if (keyFile !== undefined && credentials !== undefined) {
    throw new ConfigError('pubsub.keyFile', 'is given beside credentials; one of them is enough');
  }
  return {
    project,
    service,
    endpoint,
    tls: service || tls !== false,
    ca: typeof tls === 'object' ? Buffer.from(tls.ca) : undefined,
    keyFile,
    credentials,
    target: `pubsub://${project}${endpoint === undefined ? '' : `?endpoint=${endpoint.host}:${endpoint.port}`}`,
    exactlyOnce: options.exactlyOnce ?? false,
    retainFor: retainFor === false ? undefined : checkRetention(duration(retainFor, 'pubsub.retainFor')),
    requestTimeout: checkTimeout(duration(options.requestTimeout ?? '10s', 'pubsub.requestTimeout')),
  };
}

/** @throws ConfigError that names the parameter (CFG-01) */
export function optionsFromUrl(text: string): PubsubOptions {
  const url = parseBrokerUrl(text);
  if (url.user !== undefined || url.hosts.length > 1 || (url.path !== undefined && url.path !== '')) {
    throw new ConfigError('url', `"${url.shown}" holds more than a project; write pubsub://project?endpoint=host:port`);
  }
  const { caFile, tls, retainFor, ...rest } = readParams(url, {
    endpoint: param.text,
    tls: param.boolean,
    caFile: param.text,
    keyFile: param.text,
    exactlyOnce: param.boolean,
    retainFor: (value: string, field: string) => (value === 'false' ? (false as const) : duration(value, field)),
    requestTimeout: param.duration,
  });
  if (caFile !== undefined && tls !== true) throw new ConfigError('url.caFile', 'needs TLS; add tls=true');
  const [host] = url.hosts;
  return {
    ...rest,
    ...(retainFor === undefined ? {} : { retainFor }),
    ...(host === undefined ? {} : { project: host.host }),
    ...(caFile === undefined
      ? tls === undefined
        ? {}
        : { tls }
      : { tls: { ca: readParamFile(caFile, 'caFile', 'pubsub') } }),
  };
}

function endpointOf(text: string | undefined): { host: string; port: number } | undefined {
  if (text === undefined) return undefined;
  const match = /^(\[[0-9a-f:.]+\]|[^:/@[\]]+)(?::(\d{1,5}))?$/i.exec(text);
  if (match?.[1] === undefined) throw new ConfigError('pubsub.endpoint', `"${text}" is not host:port`);
  return { host: match[1], port: match[2] === undefined ? 443 : Number(match[2]) };
}

function checkRetention(ms: number): number {
  if (ms >= 10 * minute && ms <= 31 * day) return ms;
  throw new ConfigError(
    'pubsub.retainFor',
    `${ms} ms is not 10 minutes to 31 days, which Pub/Sub can keep messages for`,
  );
}

function checkTimeout(ms: number): number {
  if (ms >= 1_000 && ms <= 10 * minute) return ms;
  throw new ConfigError('pubsub.requestTimeout', `${ms} ms is not 1 second to 10 minutes`);
}
