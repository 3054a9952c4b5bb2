/**
 * What stands on a message beside its body. Brokers with a field of their own for one of these use it; the rest
 * travels in headers with this prefix, named in one place so that members of adjacent versions can share a group.
 */
export const headerPrefix = 'waybill-';

/** Waybill's own headers; values are text, times are milliseconds since the epoch in decimal. */
export const wireHeaders = {
  id: 'waybill-id',
  key: 'waybill-key',
  type: 'waybill-type',
  contentType: 'waybill-content-type',
  publishedAt: 'waybill-published-at',
  expiresAt: 'waybill-expires-at',
  deliverAt: 'waybill-deliver-at',
  /** The attempt that the next handler call is; absent means 1. */
  attempt: 'waybill-attempt',
  /** Where a waiting message goes when its time has come. */
  destination: 'waybill-destination',
  deadLetterEntry: 'waybill-dl-entry',
  deadLetterReason: 'waybill-dl-reason',
  deadLetterErrorName: 'waybill-dl-error-name',
  deadLetterErrorMessage: 'waybill-dl-error-message',
  deadLetterAttempts: 'waybill-dl-attempts',
  deadLetterAt: 'waybill-dl-at',
  deadLetterTopic: 'waybill-dl-topic',
  deadLetterGroup: 'waybill-dl-group',
} as const;

/** Why a message is a dead letter. */
export type DeadLetterReason =
  /** The last attempt failed. */
  | 'exhausted'
  /** The handler said that no retry helps: `PermanentError` or `reject()`. */
  | 'rejected'
  /** The body does not decode or fails the schema. */
  | 'invalid'
  /** An event type that the topic does not list. */
  | 'unknown-type'
  /** Its process died in every attempt. */
  | 'crashed';

/** What a dead letter tells beside the message itself (DLQ-01). */
export interface DeadLetterDetails {
  /** Its own id: two messages with one id are two entries. */
  readonly entry: string;
  readonly reason: DeadLetterReason;
  readonly errorName: string | undefined;
  /** Cut to 1,024 characters, so that it fits wherever the message fitted. */
  readonly errorMessage: string | undefined;
  /** Handler calls that were made. */
  readonly attempts: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly topic: string;
  readonly group: string;
}

export function deadLetterHeaders(details: DeadLetterDetails): Record<string, string> {
  const headers: Record<string, string> = {
    [wireHeaders.deadLetterEntry]: details.entry,
    [wireHeaders.deadLetterReason]: details.reason,
    [wireHeaders.deadLetterAttempts]: String(details.attempts),
    [wireHeaders.deadLetterAt]: String(details.at),
    [wireHeaders.deadLetterTopic]: details.topic,
    [wireHeaders.deadLetterGroup]: details.group,
  };
  if (details.errorName !== undefined) headers[wireHeaders.deadLetterErrorName] = details.errorName;
  if (details.errorMessage !== undefined) headers[wireHeaders.deadLetterErrorMessage] = details.errorMessage;
  return headers;
}

/** Reads the details back; sensible values stand in for what a foreign hand left out. */
export function readDeadLetterHeaders(headers: Readonly<Record<string, string>>, entry: string): DeadLetterDetails {
  return {
    entry: headers[wireHeaders.deadLetterEntry] ?? entry,
    reason: (headers[wireHeaders.deadLetterReason] as DeadLetterReason | undefined) ?? 'rejected',
    errorName: headers[wireHeaders.deadLetterErrorName],
    errorMessage: headers[wireHeaders.deadLetterErrorMessage],
    attempts: integer(headers[wireHeaders.deadLetterAttempts]) ?? 0,
    at: integer(headers[wireHeaders.deadLetterAt]) ?? 0,
    topic: headers[wireHeaders.deadLetterTopic] ?? '',
    group: headers[wireHeaders.deadLetterGroup] ?? '',
  };
}

/** A whole number from a header, `undefined` for anything else: headers can be anybody's. */
export function integer(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** Splits what arrived into the user's headers and our own. */
export function splitHeaders(all: Readonly<Record<string, string>>): {
  user: Record<string, string>;
  own: Record<string, string>;
} {
  const user: Record<string, string> = {};
  const own: Record<string, string> = {};
  for (const name of Object.keys(all)) {
    (name.startsWith(headerPrefix) ? own : user)[name] = all[name] as string;
  }
  return { user, own };
}

/** Java's murmur2 over UTF-8, as the Kafka clients partition by key: one answer to "which lane has this key". */
export function murmur2(data: Uint8Array): number {
  const length = data.length;
  const m = 0x5bd1e995;
  let h = 0x9747b28c ^ length;
  const words = length >> 2;
  for (let i = 0; i < words; i++) {
    const at = i << 2;
    let k =
      ((data[at] as number) & 0xff) |
      (((data[at + 1] as number) & 0xff) << 8) |
      (((data[at + 2] as number) & 0xff) << 16) |
      (((data[at + 3] as number) & 0xff) << 24);
    k = Math.imul(k, m);
    k ^= k >>> 24;
    k = Math.imul(k, m);
    h = Math.imul(h, m) ^ k;
  }
  const tail = words << 2;
  const left = length & 3;
  if (left === 3) h ^= ((data[tail + 2] as number) & 0xff) << 16;
  if (left >= 2) h ^= ((data[tail + 1] as number) & 0xff) << 8;
  if (left >= 1) {
    h ^= (data[tail] as number) & 0xff;
    h = Math.imul(h, m);
  }
  h ^= h >>> 13;
  h = Math.imul(h, m);
  h ^= h >>> 15;
  return h;
}

const utf8 = new TextEncoder();

/** The lane of a key, by the Java client's rule: `(murmur2(key) & 0x7fffffff) % lanes`. */
export function laneOf(key: string, lanes: number): number {
  return (murmur2(utf8.encode(key)) & 0x7fffffff) % lanes;
}
