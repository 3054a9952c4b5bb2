import type { Connection, DeadLetterCount, GroupRef } from './adapter.ts';
import type { Clock } from './clock.ts';
import type { Codec } from './codec.ts';
import type { DeadLetterReason } from './wire.ts';

/** A message that a group has given up on (DLQ-01). */
export interface DeadLetter {
  /** Its own id: two messages with one id are two entries. */
  readonly entry: string;
  /** The message's id; `undefined` on a foreign message without one. */
  readonly id: string | undefined;
  readonly topic: string;
  readonly group: string;
  readonly type: string | undefined;
  readonly key: string | undefined;
  readonly body: Uint8Array;
  /** As the content type says, without a look at the schema; `undefined` where the body does not decode. */
  readonly data: unknown;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly contentType: string | undefined;
  /** `undefined` on a foreign message whose broker does not say. */
  readonly publishedAt: Date | undefined;
  readonly reason: DeadLetterReason;
  readonly error: { readonly name: string; readonly message: string } | undefined;
  /** Handler calls that were made. */
  readonly attempts: number;
  /** When it became a dead letter. */
  readonly at: Date;
}

/** Which dead letters. With several of these, all of them have to fit. */
export type DeadLetterSelection =
  | 'all'
  | {
      /** Entry ids. */
      readonly ids?: readonly string[];
      readonly where?: (letter: DeadLetter) => boolean;
      /** The oldest ones, at most this many. */
      readonly limit?: number;
    };

/** A group's dead letters (DLQ-03). */
export interface DeadLetters {
  count(): Promise<DeadLetterCount>;
  /** The oldest first. `limit` default 100. */
  peek(options?: { readonly limit?: number; readonly where?: (letter: DeadLetter) => boolean }): Promise<DeadLetter[]>;
  /** Sends them to the group once more, attempts from 1, without expiry (DLQ-04). Resolves with how many. */
  redrive(select: DeadLetterSelection): Promise<number>;
  /** Deletes them. Resolves with how many. */
  purge(select: DeadLetterSelection): Promise<number>;
}

export interface DeadLettersContext {
  readonly connection: Pick<Connection, 'countDeadLetters' | 'openDeadLetters'>;
  /** The group as it stands on the broker: asked for at each call. */
  readonly group: () => Promise<GroupRef>;
  /** The topic's codec, else the bus's. */
  readonly codec: Codec;
  readonly clock: Clock;
}

export function deadLettersOf(_context: DeadLettersContext): DeadLetters {
  throw new Error('not yet');
}
