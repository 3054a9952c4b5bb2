import { type Duration, duration } from './duration.ts';

/** Every way in which Waybill fails; a `switch` on it is exhaustive. */
export type ErrorCode =
  | 'CONNECTION'
  | 'CONNECT_TIMEOUT'
  | 'PUBLISH'
  | 'PUBLISH_TIMEOUT'
  | 'MESSAGE_TOO_LARGE'
  | 'INVALID_MESSAGE'
  | 'UNSUPPORTED'
  | 'CONFIG'
  | 'LEASE_LOST'
  | 'HANDLER_TIMEOUT'
  | 'ALREADY_SETTLED'
  | 'CLOSED'
  | 'REMOTE'
  | 'PERMANENT'
  | 'RETRY';

/** Whether a publish that failed can be with the broker all the same. */
export type Outcome = 'not-sent' | 'unknown';

// A brand, not a class: two copies of core in one process still know each other's errors.
const brand: unique symbol = Symbol.for('waybill.error') as never;

export interface ErrorDetails {
  readonly adapter?: string | undefined;
  readonly cause?: unknown;
}

/** The base of all errors that Waybill throws. */
export class WaybillError<Code extends ErrorCode = ErrorCode> extends Error {
  readonly code: Code;
  /** The adapter the error comes from, such as `kafka`; absent when core itself found the fault. */
  declare readonly adapter?: string;

  static {
    Object.defineProperty(WaybillError.prototype, brand, { value: true });
  }

  constructor(code: Code, message: string, details: ErrorDetails = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : undefined);
    this.name = new.target.name;
    this.code = code;
    if (details.adapter !== undefined) this.adapter = details.adapter;
  }

  /** True for an error of Waybill (of this code), also when it was thrown by another copy of the package. */
  static is<Code extends ErrorCode = ErrorCode>(error: unknown, code?: Code): error is WaybillError<Code> {
    if (typeof error !== 'object' || error === null || !(brand in error)) return false;
    return code === undefined || (error as unknown as WaybillError).code === code;
  }
}

/** The broker cannot be reached, refused us, or went away. `retryable` says whether another try may help. */
export class ConnectionError extends WaybillError<'CONNECTION'> {
  readonly retryable: boolean;
  constructor(message: string, details: ErrorDetails & { retryable?: boolean } = {}) {
    super('CONNECTION', message, details);
    this.retryable = details.retryable ?? true;
  }
}

/** `connect` did not succeed within `connectTimeout` (LIFE-04); `cause` is the last failure. */
export class ConnectTimeoutError extends WaybillError<'CONNECT_TIMEOUT'> {
  constructor(message: string, details: ErrorDetails = {}) {
    super('CONNECT_TIMEOUT', message, details);
  }
}

/** The broker refused a message, or it was cancelled; `outcome` says whether it can be stored all the same. */
export class PublishError extends WaybillError<'PUBLISH'> {
  readonly outcome: Outcome;
  constructor(message: string, details: ErrorDetails & { outcome: Outcome }) {
    super('PUBLISH', message, details);
    this.outcome = details.outcome;
  }
}

/** A publish was not confirmed within `publishTimeout` (PUB-06). */
export class PublishTimeoutError extends WaybillError<'PUBLISH_TIMEOUT'> {
  readonly outcome: Outcome;
  constructor(message: string, details: ErrorDetails & { outcome: Outcome }) {
    super('PUBLISH_TIMEOUT', message, details);
    this.outcome = details.outcome;
  }
}

/** A body over the adapter's `maxMessageBytes` (PUB-03); nothing was sent. */
export class MessageTooLargeError extends WaybillError<'MESSAGE_TOO_LARGE'> {
  /** Bytes of the body. */
  readonly size: number;
  /** Bytes that the adapter takes. */
  readonly limit: number;
  constructor(topic: string, size: number, limit: number, details: ErrorDetails = {}) {
    super(
      'MESSAGE_TOO_LARGE',
      `a message of ${size} bytes for topic "${topic}" is over the limit of ${limit} bytes; send less, or a reference to where the data is stored`,
      details,
    );
    this.size = size;
    this.limit = limit;
  }
}

/** Data, header, key, id, delay or expiry that cannot be published or read (PUB-10, SUB-10). */
export class InvalidMessageError extends WaybillError<'INVALID_MESSAGE'> {
  /** The part that is wrong, such as `data.total`, `headers.x-trace` or `key`. */
  readonly field: string;
  /** What the schema said, where a schema said it. */
  readonly issues: readonly { readonly message: string; readonly path: string }[];
  constructor(
    field: string,
    message: string,
    details: ErrorDetails & { issues?: readonly { readonly message: string; readonly path: string }[] } = {},
  ) {
    super('INVALID_MESSAGE', `${field}: ${message}`, details);
    this.field = field;
    this.issues = details.issues ?? [];
  }
}

/** An option asks for something that this broker has no way to do; thrown when it is asked for, never later. */
export class UnsupportedError extends WaybillError<'UNSUPPORTED'> {
  /** The capability that is false. */
  readonly capability: string;
  constructor(capability: string, adapter: string, reason: string, instead?: string) {
    super('UNSUPPORTED', `${adapter} does not support ${capability}: ${reason}${instead ? `; ${instead}` : ''}`, {
      adapter,
    });
    this.capability = capability;
  }
}

/** An option, URL, name or topology that is wrong; `field` names it. */
export class ConfigError extends WaybillError<'CONFIG'> {
  readonly field: string;
  constructor(field: string, message: string, details: ErrorDetails = {}) {
    super('CONFIG', `${field}: ${message}`, details);
    this.field = field;
  }
}

/** The reason of `message.signal` when the message now belongs to somebody else (ACK-04). */
export class LeaseLostError extends WaybillError<'LEASE_LOST'> {
  constructor(message: string, details: ErrorDetails = {}) {
    super('LEASE_LOST', message, details);
  }
}

/** The reason of `message.signal` when the attempt took longer than `timeout` (ACK-09). */
export class HandlerTimeoutError extends WaybillError<'HANDLER_TIMEOUT'> {
  constructor(message: string, details: ErrorDetails = {}) {
    super('HANDLER_TIMEOUT', message, details);
  }
}

/** A message was settled a second time (ACK-06). */
export class AlreadySettledError extends WaybillError<'ALREADY_SETTLED'> {
  constructor(message: string) {
    super('ALREADY_SETTLED', message);
  }
}

/** The bus or subscription is closed (LIFE-05). */
export class ClosedError extends WaybillError<'CLOSED'> {
  constructor(what: string) {
    super('CLOSED', `${what} is closed`);
  }
}

/** A responder's failure, as it arrived at the requester. */
export class RemoteError extends WaybillError<'REMOTE'> {
  constructor(message: string, details: ErrorDetails = {}) {
    super('REMOTE', message, details);
  }
}

/** Thrown by a handler: no retry can help, to the dead letters at once (RETRY-06). */
export class PermanentError extends WaybillError<'PERMANENT'> {
  constructor(message: string, details: ErrorDetails = {}) {
    super('PERMANENT', message, details);
  }
}

/** Thrown by a handler: try again, `after` this long instead of the policy's delay (RETRY-06). */
export class RetryError extends WaybillError<'RETRY'> {
  /** Milliseconds; absent: the policy's delay. */
  declare readonly after?: number;
  constructor(options: ErrorDetails & { after?: Duration; message?: string } = {}) {
    super('RETRY', options.message ?? 'the handler asked for a retry', options);
    if (options.after !== undefined) this.after = duration(options.after, 'after');
  }
}
