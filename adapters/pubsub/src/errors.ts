import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';

export const adapterName = 'pubsub';

/** gRPC status codes that mean something to us. */
export const status = {
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

export function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'number' ? error.code : undefined;
}

export function isNotFound(error: unknown): boolean {
  return statusOf(error) === status.notFound;
}

/** The service's own words, without the code before them. */
export function textOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/^\d+ [A-Z_]+: /, '');
}

/** Whether the request surely never left: there was no connection to send it on. */
export function neverSent(error: unknown): boolean {
  return (
    statusOf(error) === status.unavailable && /No connection established|Name resolution failed/.test(textOf(error))
  );
}

/** Whether the same request may succeed a little later, as it is. */
export function isTransient(error: unknown): boolean {
  const code = statusOf(error);
  return (
    code === status.unavailable ||
    code === status.deadlineExceeded ||
    code === status.resourceExhausted ||
    code === status.aborted ||
    code === status.internal ||
    code === status.unknown ||
    code === status.cancelled
  );
}

/** Why a try to connect failed (LIFE-04). */
export function connectFailure(cause: unknown, target: string): ConnectionError {
  if (WaybillError.is(cause, 'CONNECTION')) return cause as ConnectionError;
  const code = statusOf(cause);
  const text = textOf(cause);
  const fail = (why: string, retryable: boolean): ConnectionError =>
    new ConnectionError(`cannot connect to ${target}: ${why}`, { adapter: adapterName, cause, retryable });
  if (code === status.unauthenticated) return fail(`the credentials were refused: ${text}`, false);
  if (code === status.notFound || code === status.permissionDenied) return fail(`access was refused: ${text}`, false);
  if (/default credentials|credential|ENOENT|invalid_grant|private key|keyFile/i.test(text) && code === undefined) {
    return fail(`${text}; set keyFile, GOOGLE_APPLICATION_CREDENTIALS, or an endpoint for the emulator`, false);
  }
  if (code === status.deadlineExceeded) return fail('there was no answer in time', true);
  if (/WRONG_VERSION_NUMBER|wrong version number/i.test(text)) {
    return fail(`TLS: the answer is not TLS; leave out tls=true for the emulator (${text})`, true);
  }
  if (/certificate|self.signed|unable to (?:get|verify)/i.test(text)) return fail(`TLS: ${text}`, true);
  return fail(text, true);
}

/** What a request ran into, once connected. */
export function requestFailure(cause: unknown, what: string): WaybillError {
  if (WaybillError.is(cause)) return cause;
  const details = { adapter: adapterName, cause };
  switch (statusOf(cause)) {
    case status.permissionDenied:
    case status.unauthenticated:
      return new ConfigError(
        'permissions',
        `${what}: ${textOf(cause)}; grant what docs/brokers/pubsub.md lists`,
        details,
      );
    case status.notFound:
    case status.invalidArgument:
    case status.alreadyExists:
    case status.failedPrecondition:
    case status.unimplemented:
      return new ConfigError('topology', `${what}: ${textOf(cause)}`, details);
    default:
      return new ConnectionError(`${what}: ${textOf(cause)}`, details);
  }
}
