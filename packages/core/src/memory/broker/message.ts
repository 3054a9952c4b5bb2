/** What a message is made of. Shared by every group, and never changed. */
export interface Content {
  readonly id: string | undefined;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  /** Milliseconds since the epoch, as are all times here. */
  readonly publishedAt: number | undefined;
  readonly expiresAt: number | undefined;
}

/** A message with its place in a topic's log. */
export interface StoredMessage {
  readonly content: Content;
  readonly position: number;
  readonly lane: number;
  /** Never lower than that of the message before it, so that a time can be looked up. */
  readonly storedAt: number;
}

/**
 * One group's own copy of a message: what moves between the backlog, members' hands, delays and dead letters. It is
 * in one of these places at a time.
 */
export interface Copy {
  readonly message: StoredMessage;
  /** Which attempt its next handler call is. */
  attempt: number;
  /** How often it has been handed out since it was made or given back. */
  deliveries: number;
  expiresAt: number | undefined;
  /** Handed out by `receiveAlone` only. */
  alone: boolean;
  /** The copy behind it in the line of its key. */
  next: Copy | undefined;
}

export function copyOf(message: StoredMessage): Copy {
  return {
    message,
    attempt: 1,
    deliveries: 0,
    expiresAt: message.content.expiresAt,
    alone: false,
    next: undefined,
  };
}

/** The content as the broker's own: what the publisher does to its bytes or headers afterwards changes nothing. */
export function ownContent(given: Content): Content {
  return {
    id: given.id,
    key: given.key,
    type: given.type,
    contentType: given.contentType,
    body: new Uint8Array(given.body),
    headers: Object.freeze({ ...given.headers }),
    publishedAt: given.publishedAt,
    expiresAt: given.expiresAt,
  };
}
