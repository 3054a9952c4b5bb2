/** What is to be sent for a set of acks: one frame for a whole run of tags, and one for each beyond a gap. */
export interface AckPlan {
  /** Ack this tag and every lower one. */
  readonly upTo: number | undefined;
  readonly single: readonly number[];
}

/**
 * Which delivery tags of a channel are settled. A multiple ack also acks every lower tag that is still open, so it may
 * reach only as far as no message is in hand.
 */
export class AckWindow {
  /** Every tag up to this one is settled. */
  #floor = 0;
  /**
   * Runs of settled tags above the floor, by their first tag and by their last: behind a message that is handled for
   * long there are millions, and never more runs than messages in hand.
   */
  readonly #lastOf = new Map<number, number>();
  readonly #firstOf = new Map<number, number>();

  /** Tags that are settled now by acks; each at most once over the window's life. */
  ack(tags: readonly number[]): AckPlan {
    const sorted = [...tags].sort((a, b) => a - b);
    let taken = 0;
    let upTo: number | undefined;
    while (sorted[taken] === this.#floor + 1) {
      upTo = sorted[taken++] as number;
      this.settled(upTo);
    }
    const single = sorted.slice(taken);
    for (const tag of single) this.settled(tag);
    return { upTo, single };
  }

  /** A tag that is settled, by an ack or given back to the queue. */
  settled(tag: number): void {
    let first = tag;
    let last = tag;
    const before = this.#firstOf.get(tag - 1);
    if (before !== undefined) {
      this.#firstOf.delete(tag - 1);
      first = before;
    }
    const behind = this.#lastOf.get(tag + 1);
    if (behind !== undefined) {
      this.#lastOf.delete(tag + 1);
      last = behind;
    }
    if (first === this.#floor + 1) {
      this.#floor = last;
      this.#firstOf.delete(last);
    } else {
      this.#lastOf.set(first, last);
      this.#firstOf.set(last, first);
    }
  }
}
