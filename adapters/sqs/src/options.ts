import type { AgentOptions } from 'node:https';
import {
  ConfigError,
  checkOptions,
  type Duration,
  duration,
  hidePassword,
  param,
  parseBrokerUrl,
  readParams,
  tlsOf,
} from '@waybill/core/adapter';

/** What signs requests; the SDK's own identity type fits. */
export interface SqsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface SqsOptions {
  /** Default: where the AWS SDK finds it (`AWS_REGION`, the profile, …). */
  readonly region?: string;
  /** Another place than AWS, such as an emulator or a VPC endpoint; for SQS and SNS alike. */
  readonly endpoint?: string;
  /** Where SNS is, if it is not at `endpoint`. */
  readonly snsEndpoint?: string;
  /**
   * Default: where the AWS SDK finds them (environment, profile, container, instance role). A plain `http:` endpoint is
   * an emulator: there any credentials do, and none have to be found.
   */
  readonly credentials?: SqsCredentials | (() => Promise<SqsCredentials>);
  /** A profile of the shared configuration files. */
  readonly profile?: string;
  /** The account that the topics belong to: spares a look at the list of topics. */
  readonly account?: string;
  /**
   * `topic`: a topic is an SNS topic, a group is a queue subscribed to it. `queue`: a topic is one SQS queue without
   * SNS, and has one group. Default `topic`.
   */
  readonly fanOut?: 'topic' | 'queue';
  /**
   * How long a poll waits for a message, in whole seconds up to 20. Longer is fewer requests while there is nothing to
   * do; `close` waits for the polls that are out, because a poll that is aborted takes messages with it. Default 5 s.
   */
  readonly pollWait?: Duration;
  /** Most polls at once of one subscription, when there is much to do. Default 10. */
  readonly maxPolls?: number;
  /** How long a request may take before its outcome is unknown. Default 5 s. */
  readonly requestTimeout?: Duration;
  /** A KMS key for queues and topics that are made, by id, ARN or alias; default: SQS's own encryption. */
  readonly kmsKeyId?: string;
  /** How long SQS uses a data key before it asks KMS again. 1 min to 24 h; default SQS's 5 min. */
  readonly kmsReuse?: Duration;
  /** TLS with Node's options (`ca`, `cert`, `key`, …) where the defaults do not do. */
  readonly tls?: Pick<AgentOptions, 'ca' | 'cert' | 'key' | 'passphrase' | 'servername'>;
}

/** Options with everything filled in. */
export interface Settings {
  /** `undefined`: as the SDK finds it. */
  readonly region: string | undefined;
  readonly endpoint: string | undefined;
  readonly snsEndpoint: string | undefined;
  readonly credentials: SqsCredentials | (() => Promise<SqsCredentials>) | undefined;
  readonly profile: string | undefined;
  readonly account: string | undefined;
  readonly fanOut: 'topic' | 'queue';
  /** Seconds. */
  readonly pollWait: number;
  readonly maxPolls: number;
  /** Milliseconds. */
  readonly requestTimeout: number;
  readonly kmsKeyId: string | undefined;
  /** Seconds. */
  readonly kmsReuse: number | undefined;
  readonly tls: AgentOptions;
  /** Where it connects to, for logs and errors. */
  readonly target: string;
}

const known: readonly (keyof SqsOptions)[] = [
  'region',
  'endpoint',
  'snsEndpoint',
  'credentials',
  'profile',
  'account',
  'fanOut',
  'pollWait',
  'maxPolls',
  'requestTimeout',
  'kmsKeyId',
  'kmsReuse',
  'tls',
];

/** What an emulator is given: it checks nothing. */
const anybody: SqsCredentials = { accessKeyId: 'waybill', secretAccessKey: 'waybill' };

/** @throws ConfigError that names the option */
export function resolveOptions(options: SqsOptions): Settings {
  checkOptions(options, known, 'sqs');
  const endpoint = checkEndpoint(options.endpoint, 'endpoint');
  const { region, account, maxPolls = 10 } = options;
  if (region !== undefined && !/^[a-z0-9-]{1,64}$/.test(region)) {
    throw new ConfigError('sqs.region', `"${region}" is not a region such as eu-west-1`);
  }
  if (account !== undefined && !/^\d{12}$/.test(account)) {
    throw new ConfigError('sqs.account', `"${account}" is not an account of twelve digits`);
  }
  if (!Number.isInteger(maxPolls) || maxPolls < 1 || maxPolls > 50) {
    throw new ConfigError('sqs.maxPolls', `${maxPolls} is not a whole number from 1 to 50`);
  }
  const fanOut = options.fanOut ?? 'topic';
  if (fanOut !== 'topic' && fanOut !== 'queue') {
    throw new ConfigError('sqs.fanOut', `"${fanOut}" is none of topic, queue`);
  }
  const emulator = endpoint?.startsWith('http:') === true && process.env['AWS_ACCESS_KEY_ID'] === undefined;
  const credentials = options.credentials ?? (emulator && options.profile === undefined ? anybody : undefined);
  const shown = region ?? 'the default region';
  return {
    region,
    endpoint,
    snsEndpoint: checkEndpoint(options.snsEndpoint, 'snsEndpoint') ?? endpoint,
    credentials,
    profile: options.profile,
    account,
    fanOut,
    pollWait: seconds(options.pollWait ?? 5_000, 'pollWait', 1, 20),
    maxPolls,
    requestTimeout: checkTimeout(duration(options.requestTimeout ?? 5_000, 'sqs.requestTimeout')),
    kmsKeyId: options.kmsKeyId,
    kmsReuse: options.kmsReuse === undefined ? undefined : seconds(options.kmsReuse, 'kmsReuse', 60, 86_400),
    tls: options.tls ?? {},
    target: endpoint === undefined ? `sqs://${shown}` : `sqs://${shown} at ${endpoint}`,
  };
}

/** @throws ConfigError that names the parameter (CFG-01) */
export function optionsFromUrl(text: string): SqsOptions {
  const url = parseBrokerUrl(text);
  const { caFile, certFile, keyFile, passphrase, ...rest } = readParams(url, {
    endpoint: param.text,
    snsEndpoint: param.text,
    profile: param.text,
    account: param.text,
    fanOut: param.oneOf('topic', 'queue'),
    pollWait: param.duration,
    maxPolls: param.integer,
    requestTimeout: param.duration,
    kmsKeyId: param.text,
    kmsReuse: param.duration,
    caFile: param.text,
    certFile: param.text,
    keyFile: param.text,
    passphrase: param.text,
  });
  const [host, ...others] = url.hosts;
  if (others.length > 0 || host?.port !== undefined) {
    throw new ConfigError('url.host', 'is the region; write sqs://eu-west-1, and another place as ?endpoint=…');
  }
  if (url.path !== undefined && url.path !== '')
    throw new ConfigError('url.path', 'is not used; write sqs://eu-west-1');
  if (url.user !== undefined && url.password === undefined) {
    throw new ConfigError('url.user', 'is an access key without its secret; write sqs://key:secret@eu-west-1');
  }
  const tls = tlsOf({ caFile, certFile, keyFile, passphrase }, 'sqs');
  const { user, password } = url;
  return {
    ...rest,
    ...(host === undefined ? {} : { region: host.host }),
    ...(user === undefined || password === undefined
      ? {}
      : { credentials: { accessKeyId: user, secretAccessKey: password } }),
    ...(Object.keys(tls).length === 0 ? {} : { tls }),
  };
}

function checkEndpoint(given: string | undefined, field: string): string | undefined {
  if (given === undefined) return undefined;
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new ConfigError(`sqs.${field}`, `"${hidePassword(given)}" is not a URL such as http://localhost:4566`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new ConfigError(
      `sqs.${field}`,
      'holds a user; give an access key as sqs://key:secret@region or as credentials',
    );
  }
  return `${url.origin}${url.pathname === '/' ? '' : url.pathname}`;
}

function seconds(value: Duration, field: string, least: number, most: number): number {
  const ms = duration(value, `sqs.${field}`);
  if (ms % 1_000 === 0 && ms >= least * 1_000 && ms <= most * 1_000) return ms / 1_000;
  throw new ConfigError(
    `sqs.${field}`,
    `${ms} ms is not ${least} to ${most} whole seconds, which is what SQS counts in`,
  );
}

function checkTimeout(ms: number): number {
  if (ms >= 100 && ms <= 300_000) return ms;
  throw new ConfigError('sqs.requestTimeout', `${ms} ms is not from 100 ms to 5 min`);
}
