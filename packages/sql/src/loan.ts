import { WaybillError } from '@waybill/core/adapter';

/**
 * A connection that is lent for one transaction: given back once, and at once when it breaks or the signal aborts. Then
 * whatever waits for it ends, though its answer may never come.
 */
export class Loan {
  readonly #giveBack: (destroy: boolean) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #broken = Promise.withResolvers<never>();
  readonly #giveUp = (): void => this.breakOff(this.#signal?.reason);
  #over = false;

  /** @param giveBack closes the connection, or leaves it to the next one */
  constructor(giveBack: (destroy: boolean) => void, signal: AbortSignal | undefined) {
    this.#giveBack = giveBack;
    this.#signal = signal;
    this.#broken.promise.catch(() => {});
    signal?.addEventListener('abort', this.#giveUp, { once: true });
    if (signal?.aborted) this.#giveUp();
  }

  get over(): boolean {
    return this.#over;
  }

  during<R>(step: Promise<R>): Promise<R> {
    return Promise.race([step, this.#broken.promise]);
  }

  breakOff(reason: unknown): void {
    this.end(true);
    this.#broken.reject(reason);
  }

  end(destroy: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#signal?.removeEventListener('abort', this.#giveUp);
    this.#giveBack(destroy);
  }

  /** Ends a transaction that failed. Resolves with why it did. */
  async undo(error: unknown, rollBack: () => Promise<unknown>): Promise<unknown> {
    if (this.#over) return error;
    // An answer that is only late would be the next one's: a BEGIN, for instance, that nobody ends.
    if (isLost(error)) {
      this.end(true);
      return error;
    }
    try {
      await this.during(rollBack());
      this.end(false);
      return error;
    } catch (failed) {
      this.end(true);
      // That the connection broke is why the work failed, whatever that says.
      return isLost(failed) ? failed : error;
    }
  }
}

function isLost(error: unknown): boolean {
  return WaybillError.is(error, 'CONNECTION');
}
