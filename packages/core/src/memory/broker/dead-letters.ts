import type { DeadLetterDetails } from '../../wire.ts';
import type { Copy } from './message.ts';

export interface DeadLetter {
  readonly copy: Copy;
  readonly details: DeadLetterDetails;
  /** Counts up, so that a walk knows where to end. */
  readonly number: number;
}

/** A group's dead letters by entry id, oldest first. */
export class DeadLetters {
  readonly #letters = new Map<string, DeadLetter>();
  #count = 0;

  get size(): number {
    return this.#letters.size;
  }

  add(copy: Copy, details: DeadLetterDetails): void {
    this.#letters.delete(details.entry); // so that a second one of that id stands last, where its number belongs
    this.#letters.set(details.entry, { copy, details, number: ++this.#count });
  }

  /** Takes an entry out; `undefined` when somebody else was quicker. */
  take(entry: string): DeadLetter | undefined {
    const letter = this.#letters.get(entry);
    this.#letters.delete(entry);
    return letter;
  }

  /** Those that are there now; what is taken out meanwhile is left out, what is added is not visited. */
  *walk(): Generator<DeadLetter, undefined> {
    const last = this.#count;
    for (const letter of this.#letters.values()) {
      if (letter.number > last) return;
      yield letter;
    }
  }
}
