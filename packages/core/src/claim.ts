/** A message's claim in the idempotency store: it lasts until somebody says how the attempt ended. */
export class RunningClaim {
  /** Resolves once the store has remembered a success, or let go of a failure; rejects when it could not. */
  readonly outcome: Promise<void>;
  /** What was said; the first word counts. */
  success: boolean | undefined;
  readonly #end: (success: boolean) => void;

  constructor(outcome: Promise<void>, end: (success: boolean) => void) {
    this.outcome = outcome;
    this.#end = end;
  }

  end(success: boolean): void {
    if (this.success !== undefined) return;
    this.success = success;
    this.#end(success);
  }
}
