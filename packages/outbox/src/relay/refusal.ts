import { WaybillError } from '@waybill/core/adapter';

/** What a send that failed says about trying again. */
export type Refusal =
  /** The broker could not be asked: it is no fault of the message. */
  | 'away'
  /** The broker said no; it may say yes later. */
  | 'refused'
  /** It will say no for ever. */
  | 'hopeless'
  /** The bus is closed: nothing can be sent any more. */
  | 'closed'
  /** We have called it off. */
  | 'cancelled';

export function refusalOf(error: unknown, signal: AbortSignal): Refusal {
  if (!WaybillError.is(error)) return 'refused';
  switch (error.code) {
    case 'PUBLISH_TIMEOUT':
    case 'CONNECT_TIMEOUT':
    case 'CONNECTION':
      return 'away';
    case 'CLOSED':
      return 'closed';
    case 'MESSAGE_TOO_LARGE':
    case 'INVALID_MESSAGE':
    case 'UNSUPPORTED':
      return 'hopeless';
    case 'PUBLISH':
      return signal.aborted && error.cause === signal.reason ? 'cancelled' : 'refused';
    default:
      return 'refused';
  }
}

const longest = 1_000;

/** As it is kept beside the message. Zeros are what PostgreSQL cannot keep in a text. */
export function textOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.slice(0, longest).toWellFormed().replaceAll('\0', '');
}
