import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';

export const adapterName = 'redis-streams';

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A call that ended without an answer: the server may have done it. */
export class NoAnswer extends Error {
  constructor(what: string, cause?: unknown) {
    super(what, { cause });
    this.name = 'NoAnswer';
  }
}

/** A call that was never written to the socket. */
export class NotSent extends Error {
  constructor(what: string) {
    super(what);
    this.name = 'NotSent';
  }
}

/** What the server answered when it refused a call. */
export class ServerError extends Error {
  constructor(what: string) {
    super(what);
    this.name = 'ServerError';
  }
}

/** A copy that a script could not store, mostly because memory is full; the message is where it was. */
export function noRoom(): ServerError {
  return new ServerError('the server took no copy of the message; is its memory full?');
}

/** The stream or its group is gone (LIFE-07). A master that becomes a replica ends blocked reads with UNBLOCKED, too. */
export function isMissing(error: unknown): boolean {
  const text = textOf(error);
  return text.includes('NOGROUP') || text.startsWith('UNBLOCKED the stream key');
}

/**
 * Replies after which nothing was done, and the same may succeed later: a fail-over under way, data still being loaded,
 * memory full.
 */
const passing = /^(-?)(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|OOM|BUSY|NOREPLICAS|MISCONF|MOVED|ASK)\b/;

export function isPassing(error: unknown): boolean {
  return passing.test(textOf(error));
}

/** What a request to the server ran into, once connected. */
export function requestFailure(cause: unknown, what: string): WaybillError {
  if (WaybillError.is(cause)) return cause;
  const text = textOf(cause);
  const details = { adapter: adapterName, cause };
  if (/^(NOPERM|NOAUTH)\b/.test(text)) {
    return new ConfigError('permissions', `${what}: ${text}; grant the user what it needs`, details);
  }
  if (text.startsWith('WRONGTYPE')) {
    return new ConfigError('topology', `${what}: a key of this name is not a stream (${text})`, details);
  }
  if (isMissing(cause)) return new ConfigError('topology', `${what}: ${text}`, details);
  if (text.startsWith('CROSSSLOT')) {
    return new ConfigError(
      'names',
      `${what}: its keys lie in different slots of the cluster; give the topic's key a hash tag, as in "{orders}"`,
      details,
    );
  }
  return new ConnectionError(`${what}: ${text}`, details);
}

/** Why a try to connect failed (LIFE-04). No text of ioredis or Node holds the password. */
export function connectFailure(cause: unknown, target: string): ConnectionError {
  if (cause instanceof ConnectionError) return cause;
  const text = textOf(cause);
  const fail = (why: string, retryable: boolean): ConnectionError =>
    new ConnectionError(`cannot connect to ${target}: ${why}`, { adapter: adapterName, cause, retryable });

  if (/^(WRONGPASS|NOAUTH|NOPERM)\b/.test(text)) {
    return fail(`the server refused user and password (${text}); check both`, false);
  }
  if (/DB index is out of range|invalid DB index/i.test(text)) {
    return fail(`the server has no database of this number (${text})`, false);
  }
  if (/cluster support disabled/.test(text)) return fail(`${text}; this is no cluster, leave out mode=cluster`, false);
  if (/unknown command.*sentinel/i.test(text))
    return fail(`${text}; this is no Sentinel, leave out mode=sentinel`, false);
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG') {
    return fail('the answer is not TLS; does this port want redis: instead of rediss:?', false);
  }
  if (/^ERR_(SSL|TLS|OSSL)|CERT|SELF_SIGNED|^EPROTO$/.test(code)) return fail(`TLS: ${text} (${code})`, false);
  return fail(text, true);
}
