/** Sends that share a signal. Each listens to it, and a signal walks over its listeners to find one. */
const sendsPerSignal = 64;

/** Some sends, to be called off together. */
export class Lot {
  readonly controller = new AbortController();
  taken = 0;
  open = 0;
}

/** Calls off the sends that the broker has not got yet. */
export class Cancellation {
  readonly #lots = new Set<Lot>();
  #current = new Lot();

  /** For one more send; `done` when it has ended. */
  take(): Lot {
    if (this.#current.taken === sendsPerSignal) this.#current = new Lot();
    const lot = this.#current;
    if (lot.taken === 0) this.#lots.add(lot);
    lot.taken++;
    lot.open++;
    return lot;
  }

  done(lot: Lot): void {
    if (--lot.open === 0 && lot.taken === sendsPerSignal) this.#lots.delete(lot);
  }

  cancelAll(): void {
    const lots = [...this.#lots];
    this.#lots.clear();
    this.#current = new Lot();
    for (const lot of lots) lot.controller.abort();
  }
}
