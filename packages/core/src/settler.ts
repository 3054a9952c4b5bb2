import type { Receiver, Settlement, SettleResult } from './adapter.ts';
import type { Clock, Timer } from './clock.ts';
import { diagnostics } from './diagnostics.ts';
import { ConnectionError, WaybillError } from './errors.ts';
import type { Held } from './held.ts';
import type { Logger } from './logger.ts';
import { backOff } from './retry.ts';

/** Batches under way at once: one is filled while another travels, and a slow copy does not hold up all acks. */
const maxInFlight = 4;
/** Deliveries in one batch. */
const maxBatch = 1_000;

interface Pending {
  readonly held: Held;
  readonly settlement: Settlement;
  readonly done: (result: 'applied' | 'lost') => void;
  tries: number;
}

interface Place {
  readonly adapter: string;
  readonly topic: string;
  readonly group: string;
}

/**
 * Brings settlements to the broker beside the handlers' work. Load forms the batches: what gathers while sends are
 * under way goes with the next one. What the broker could not do is repeated, with back-off, for as long as the
 * message is ours; the message stays unacked meanwhile (RETRY-09, DLQ-02).
 */
export class Settler {
  readonly #receiver: Receiver;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #place: Place;
  #pending: Pending[] = [];
  #inFlight = 0;
  #scheduled = false;
  #repeating: Pending[] = [];
  #repeatTimer: Timer | undefined;
  #open = 0;
  #stopped = false;
  #leaving = false;
  /** Open ones that have failed at least once. */
  #troubled = 0;
  /** Why the last try failed, while something is being repeated. */
  trouble: string | undefined;

  constructor(receiver: Receiver, clock: Clock, logger: Logger, place: Place) {
    this.#receiver = receiver;
    this.#clock = clock;
    this.#logger = logger;
    this.#place = place;
  }

  /** Settlements that have not ended. */
  get open(): number {
    return this.#open;
  }

  /** `done` is called once: `lost` also when the bus gives up on it while closing. */
  settle(held: Held, settlement: Settlement, done: (result: 'applied' | 'lost') => void): void {
    if (held.lost !== undefined || this.#stopped) {
      done('lost');
      return;
    }
    this.#open++;
    this.#pending.push({ held, settlement, done, tries: 0 });
    this.#schedule();
  }

  /** From now on an abandon gets one try: it is best effort, and close must not wait for it. */
  leave(): void {
    this.#leaving = true;
  }

  /** Gives up on what is open: the lease decides about it. */
  stop(): void {
    this.#stopped = true;
    this.#repeatTimer?.cancel();
    for (const one of [...this.#pending, ...this.#repeating]) this.#end(one, 'lost');
    this.#pending = [];
    this.#repeating = [];
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= maxInFlight || this.#pending.length === 0) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (this.#inFlight < maxInFlight && this.#pending.length > 0) {
        const batch = this.#pending.length <= maxBatch ? this.#pending : this.#pending.splice(0, maxBatch);
        if (batch === this.#pending) this.#pending = [];
        void this.#send(batch);
      }
    });
  }

  async #send(batch: Pending[]): Promise<void> {
    const ours = batch.filter((one) => one.held.lost === undefined);
    for (const one of batch) if (one.held.lost !== undefined) this.#end(one, 'lost');
    if (ours.length === 0) return;
    this.#inFlight++;
    let results: readonly SettleResult[] = [];
    let failure: unknown;
    try {
      results = await this.#receiver.settle(ours.map((one) => one.settlement));
    } catch (error) {
      failure = error;
    }
    this.#inFlight--;
    for (let i = 0; i < ours.length; i++) {
      const one = ours[i] as Pending;
      const result = results[i] ?? settleFailure(failure, this.#place);
      if (diagnostics.settle.hasSubscribers) this.#tell(one, result);
      if (result === 'applied' || result === 'lost') this.#end(one, result);
      else this.#repeat(one, result);
    }
    this.#schedule();
  }

  #tell({ held, settlement }: Pending, result: SettleResult): void {
    const { adapter, topic, group } = this.#place;
    const { id } = held.delivery;
    const about = { adapter, topic, group, id, verb: settlement.verb, attempt: held.attempt };
    const failed = result !== 'applied' && result !== 'lost';
    diagnostics.settle.publish(failed ? { ...about, result: 'failed', error: result } : { ...about, result });
  }

  #repeat(one: Pending, error: WaybillError): void {
    const given = this.#leaving && one.settlement.verb === 'abandon';
    if (one.held.lost !== undefined || this.#stopped || given) {
      this.#end(one, 'lost');
      return;
    }
    if (one.tries++ === 0) this.#troubled++;
    this.trouble = error.message;
    if (one.tries === 3) {
      this.#logger.warn(
        `topic "${this.#place.topic}", group "${this.#place.group}": "${one.settlement.verb}" of a message failed ${one.tries} times and is repeated; the message stays with the broker`,
        { reason: error.message },
      );
    }
    this.#repeating.push(one);
    this.#repeatTimer ??= this.#clock.setTimeout(
      () => {
        this.#repeatTimer = undefined;
        this.#pending = [...this.#repeating, ...this.#pending];
        this.#repeating = [];
        this.#schedule();
      },
      backOff(one.tries, { initial: 50, max: 5_000 }),
    );
  }

  #end(one: Pending, result: 'applied' | 'lost'): void {
    this.#open--;
    if (one.tries > 0 && --this.#troubled === 0) this.trouble = undefined;
    one.done(result);
  }
}

function settleFailure(cause: unknown, { adapter }: Place): WaybillError {
  if (WaybillError.is(cause)) return cause;
  const text = cause instanceof Error ? cause.message : 'the adapter gave no result';
  return new ConnectionError(text, { adapter, cause });
}
