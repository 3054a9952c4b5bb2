import { hash, randomBytes } from 'node:crypto';
import type { Claim } from '@waybill/core';

/** A claim on its way to a store. */
export interface Wanted {
  readonly claim: Claim;
  /** Scope and key as 32 bytes, so that any text fits and no two pairs look alike. */
  readonly id: Buffer;
  /** The same as text, for maps. */
  readonly name: string;
  /** Whose it is: nobody else's claim ever had this one, and no work but the one that comes runs under it. */
  readonly token: string;
}

export type Answer = 'won' | 'busy' | 'duplicate';

/**
 * What a store is made of: the claims of all processes, in one place, by the clock of that place. Answers stand in the
 * order of the question. Any method may reject: then nothing is known. No two of one question have the same id.
 */
export interface ClaimTable {
  /**
   * Puts each down for its lease, unless its outcome is remembered or it is held with another token. The same question
   * may arrive twice, and late: it never undoes a mark.
   */
  claim(wanted: readonly Wanted[]): Promise<readonly Answer[]>;
  /** Remembers each for its window; false where it was not held any more. */
  mark(held: readonly Wanted[]): Promise<readonly boolean[]>;
  /** Lets go of each that is still held. */
  release(held: readonly Wanted[]): Promise<void>;
  /** Holds each for one lease from now; false where it was not held any more. */
  renew(held: readonly Wanted[]): Promise<readonly boolean[]>;
  /** Deletes what has ended, this many at most, and says how many. Absent where that happens by itself. */
  clean?(most: number): Promise<number>;
}

/** The id of a claim. The length of the scope tells where it ends; 16 bits a unit, because not all text is UTF-8. */
export function claimId({ scope, key }: Claim): Buffer {
  return hash('sha256', Buffer.from(`${scope.length}:${scope}${key}`, 'utf16le'), 'buffer');
}

/** Tokens of one store: its own beginning and a number. */
export function tokens(): () => string {
  const start = randomBytes(12).toString('base64url');
  let count = 0;
  return () => `${start}.${(count++).toString(36)}`;
}

/** A text for a column that people read, not too long, and in ASCII: not every database takes everything else. */
export function readable(text: string, longest: number): string {
  // Before it is escaped, because a long one costs more to escape.
  const start = text.slice(0, longest).replaceAll('\0', '/').toWellFormed();
  return start.replace(/[^ -~]+/g, encodeURIComponent).slice(0, longest);
}
