import { ConfigError, ConnectionError, type Outcome, PublishError, WaybillError } from '@waybill/core/adapter';

export const adapterName = 'sqs';

/** What a failed request says of itself, whoever made the error: the service, the SDK or Node. */
export interface Failure {
  /** The service's or Node's code, such as `QueueDoesNotExist` or `ECONNRESET`. */
  readonly code: string;
  readonly text: string;
  /** `away`: no answer. `busy`: asked too much, or the service's own fault. `refused`: by the request's own fault. */
  readonly kind: 'away' | 'busy' | 'refused';
  /** Whether the service may have done what it was asked for. */
  readonly outcome: Outcome;
}

/** Node's codes for a request that never left. */
const neverLeft = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'CredentialsProviderError',
  'TokenProviderError',
]);

/** What Node and the SDK say when no answer came. */
const noAnswer =
  /^(E[A-Z_]{3,}|ERR_|HPE_|UNABLE_)|CERT|SELF_SIGNED|TimeoutError|AbortError|ProviderError|socket hang up|timed out/;

const isTls = (code: string): boolean => /^ERR_(SSL|TLS|OSSL)|CERT|SELF_SIGNED|^EPROTO|^UNABLE_/.test(code);

const throttled =
  /Throttl|TooManyRequests|RequestLimit|SlowDown|Bandwidth|OverLimit|QueueDeletedRecently|PriorRequestNotComplete/i;
const stale = /Expired.*Token|RequestExpired|TokenRefresh/i;

/** Whether it says "not now": also of an entry of a batch, where AWS calls it the sender's fault. */
export const isThrottled = (code: string): boolean => throttled.test(code);

export function failureOf(error: unknown): Failure {
  const cause = rootOf(error);
  const code = codeOf(cause);
  const text = textOf(cause);
  const status = statusOf(error);
  if (status === undefined) {
    // Neither an answer nor a network that failed: the SDK refused the request.
    if (!noAnswer.test(code) && !noAnswer.test(text)) return { code, text, kind: 'refused', outcome: 'not-sent' };
    const unsent = neverLeft.has(code) || /without establishing a connection/.test(text) || isTls(code);
    return { code, text, kind: 'away', outcome: unsent ? 'not-sent' : 'unknown' };
  }
  if (status >= 500) return { code, text, kind: 'busy', outcome: 'unknown' };
  const again = status === 429 || isThrottled(code) || stale.test(code) || isClockCorrected(error);
  return { code, text, kind: again ? 'busy' : 'refused', outcome: 'not-sent' };
}

const missing = /^(QueueDoesNotExist|NotFound)(Exception)?$|NonExistentQueue$/;

/** Names of "there is no such queue or topic", in both protocols of the service. */
export function isMissing(error: unknown): boolean {
  return missing.test(failureOf(error).code);
}

/** Codes of receipt handles that are no use any more. */
export const deadHandle = /ReceiptHandle|MessageNotInflight|InvalidParameterValue/;

/**
 * What a request ran into, as Waybill says it. The SDK's own error stays outside: it holds the request, whose headers
 * may hold a session token.
 */
export function requestFailure(error: unknown, what: string): WaybillError {
  if (WaybillError.is(error)) return error;
  const failure = failureOf(error);
  const details = { adapter: adapterName, cause: plain(failure) };
  const why = failure.text.includes(failure.code) ? failure.text : `${failure.text} (${failure.code})`;
  if (failure.kind === 'refused') {
    if (isDenied(failure.code))
      return new ConfigError('permissions', `${what}: ${why}; grant the role what docs/brokers/sqs.md lists`, details);
    if (isCredentials(failure.code))
      return new ConnectionError(`${what}: ${why}; check the credentials`, { ...details, retryable: false });
    return new ConfigError('topology', `${what}: ${why}`, details);
  }
  return new ConnectionError(`${what}: ${why}`, details);
}

/** Why a try to connect failed (LIFE-04). */
export function connectFailure(error: unknown, target: string): ConnectionError {
  if (error instanceof ConnectionError) return error;
  const failure = failureOf(error);
  const { code, text } = failure;
  const fail = (why: string, retryable: boolean): ConnectionError =>
    new ConnectionError(`cannot connect to ${target}: ${why}`, {
      adapter: adapterName,
      cause: plain(failure),
      retryable,
    });
  if (code === 'CredentialsProviderError') return fail(`no credentials were found: ${text}`, false);
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'EPROTO') {
    return fail(`the answer is not TLS; does this port want http: instead of https:? (${code})`, false);
  }
  if (/Region is missing/.test(text)) return fail('no region is configured; write for example sqs://eu-west-1', false);
  if (failure.kind === 'away' && isTls(code)) return fail(`TLS: ${text} (${code})`, false);
  if (failure.kind === 'away' && (code === 'ETIMEDOUT' || code === 'TimeoutError'))
    return fail(`no answer in time: ${text}`, true);
  if (failure.kind === 'refused' && isCredentials(code))
    return fail(`the credentials were refused: ${text} (${code})`, false);
  const why = text.includes(code) ? text : `${text} (${code})`;
  return fail(why, failure.kind !== 'refused');
}

/** As the result of a publish that got no further. */
export function publishFailure(
  error: unknown,
  topic: string,
): { readonly retryable: boolean; readonly outcome: Outcome; readonly error: WaybillError } {
  if (WaybillError.is(error)) {
    return { retryable: error instanceof ConnectionError && error.retryable, outcome: 'not-sent', error };
  }
  const failure = failureOf(error);
  const known = requestFailure(error, `topic "${topic}" cannot be published to`);
  if (failure.kind === 'refused') return { retryable: false, outcome: 'not-sent', error: known };
  const { outcome } = failure;
  return {
    retryable: true,
    outcome,
    error: new PublishError(known.message, { adapter: adapterName, outcome, cause: plain(failure) }),
  };
}

/** The service answered, and did not like who asked: it is there all the same. */
export function isDenied(code: string): boolean {
  return /AccessDenied|AuthorizationError|UnauthorizedOperation|KmsAccessDenied|OptInRequired/i.test(code);
}

function isCredentials(code: string): boolean {
  return /InvalidClientTokenId|UnrecognizedClient|SignatureDoesNotMatch|InvalidAccessKeyId|InvalidSecurity|AuthFailure|IncompleteSignature|MissingAuthenticationToken|InvalidSignature/i.test(
    code,
  );
}

function plain({ code, text }: Failure): Error {
  const error = new Error(text);
  error.name = code;
  error.stack = `${code}: ${text}`;
  return error;
}

/** Node hides what happened to each address in an AggregateError. */
function rootOf(error: unknown): unknown {
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors[0];
  return error;
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return 'Error';
  if ('code' in error && typeof error.code === 'string' && error.code !== '') return error.code;
  const code = 'Code' in error && typeof error.Code === 'string' ? error.Code : error.name;
  // Some write the namespace before it: `com.amazonaws.sqs#QueueDoesNotExist`.
  return code.slice(code.lastIndexOf('#') + 1);
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.message === '' ? codeOf(error) : error.message;
}

/** Whether our clock is wrong, and the SDK has learned the service's time from this answer. */
export function isClockCorrected(error: unknown): boolean {
  return metadataOf(error)?.clockSkewCorrected === true;
}

function statusOf(error: unknown): number | undefined {
  return metadataOf(error)?.httpStatusCode;
}

interface Metadata {
  readonly httpStatusCode?: number;
  readonly clockSkewCorrected?: boolean;
}

function metadataOf(error: unknown): Metadata | undefined {
  if (typeof error !== 'object' || error === null || !('$metadata' in error)) return undefined;
  return error.$metadata as Metadata | undefined;
}
