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
  /** Settled ones above the floor. */
  readonly #above = new Set<number>();

  /** Tags that are settled now by acks; each at most once over the window's life. */
  ack(tags: readonly number[]): AckPlan {
    const sorted = [...tags].sort((a, b) => a - b);
    let taken = 0;
    let upTo: number | undefined;
    for (;;) {
      const next = this.#floor + 1;
      if (sorted[taken] === next) {
        upTo = next;
        taken++;
      } else if (!this.#above.delete(next)) {
        break;
      }
      this.#floor = next;
    }
    const single = sorted.slice(taken);
    for (const tag of single) this.#above.add(tag);
    return { upTo, single };
  }

  /** A tag that was settled otherwise: given back to the queue. */
  settled(tag: number): void {
    this.#above.add(tag);
    while (this.#above.delete(this.#floor + 1)) this.#floor++;
  }
}
