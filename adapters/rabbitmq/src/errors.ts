import { ConfigError, ConnectionError, WaybillError } from '@waybill/core/adapter';

export const adapterName = 'rabbitmq';

/** AMQP reply codes that mean something to us; amqplib puts them on its errors as `code`. */
export const reply = { accessRefused: 403, notFound: 404, locked: 405, preconditionFailed: 406, noRoute: 312 } as const;

export function replyCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'number' ? error.code : undefined;
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The broker's own words out of amqplib's text, without the AMQP method and code around them. */
export function brokerText(error: unknown): string {
  const text = textOf(error);
  return /with message "(.*)"$/s.exec(text)?.[1] ?? text;
}

/** Why a try to connect failed (LIFE-04). No text of amqplib or Node holds the password. */
export function connectFailure(cause: unknown, target: string, vhost: string): ConnectionError {
  if (cause instanceof ConnectionError) return cause;
  const text = textOf(cause);
  const fail = (why: string, retryable: boolean): ConnectionError =>
    new ConnectionError(`cannot connect to ${target}: ${why}`, { adapter: adapterName, cause, retryable });

  if (text.includes('ACCESS_REFUSED')) {
    return fail('the broker refused user and password (ACCESS_REFUSED); check both and the "auth" option', false);
  }
  if (text.startsWith('SASL mechanism')) return fail(`${text}; choose another "auth"`, false);
  // amqplib hides the text of a connection.close that answers connection.open.
  if (text.startsWith('Expected ConnectionOpenOk')) {
    return fail(`the broker refused vhost "${vhost}": it does not exist, or this user has no access to it`, false);
  }
  if (text.startsWith('Socket closed abruptly')) {
    return fail('the broker closed the connection during the handshake; does this port want TLS (amqps:)?', true);
  }
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER') {
    return fail('the answer is not TLS; does this port want amqp: instead of amqps:?', false);
  }
  if (/^ERR_(SSL|TLS|OSSL)|CERT|SELF_SIGNED|^EPROTO$/.test(code)) return fail(`TLS: ${text} (${code})`, false);
  return fail(text, true);
}

/** What a request to the broker ran into, once connected. */
export function requestFailure(cause: unknown, what: string): WaybillError {
  if (WaybillError.is(cause)) return cause;
  const code = replyCode(cause);
  const details = { adapter: adapterName, cause };
  if (code === reply.accessRefused) {
    return new ConfigError('permissions', `${what}: ${brokerText(cause)}; grant the user what it needs`, details);
  }
  if (code === reply.notFound || code === reply.preconditionFailed || code === reply.locked) {
    return new ConfigError('topology', `${what}: ${brokerText(cause)}`, details);
  }
  return new ConnectionError(`${what}: ${textOf(cause)}`, details);
}

/** The place for a copy is gone; it is made again, and the copy repeated. */
export function unroutable(what: 'delay' | 'dead letters' | 'group'): ConfigError {
  return new ConfigError('topology', `the queue for ${what === 'group' ? 'the group' : what} is missing`, {
    adapter: adapterName,
  });
}
