import type { Delivery } from './adapter.ts';
import type { RunningClaim } from './claim.ts';
import type { WaybillError } from './errors.ts';
import type { MessageOwner, ReceivedMessage, Verdict } from './message.ts';

/**
 * Where a delivery in our hands stands.
 *
 *     ready ──▶ running ──▶ settling ──▶ gone
 *       ▲          │
 *       └─ waiting ◀┘        a retry in place: ordered topics, broadcasts
 *
 * It can be lost, and then is gone, from each of them.
 */
export type HeldState = 'ready' | 'running' | 'waiting' | 'settling' | 'gone';

/** What a delivery needs of the pipeline it is in. */
export interface HeldBy {
  decided(held: Held, verdict: Verdict, settled: (result: 'applied' | 'lost') => void): void;
  extended(held: Held, by: number): void;
  begun(held: Held): void;
  checkDelay(held: Held, after: number): void;
}

/** A delivery in this member's hands, from `receive` until it is settled or lost. */
export class Held implements MessageOwner {
  readonly delivery: Delivery;
  readonly bytes: number;
  readonly #by: HeldBy;
  state: HeldState = 'ready';
  /** Which attempt the next handler call is, or the running one. */
  attempt: number;
  /** When the client got it, in monotonic milliseconds. */
  readonly arrivedAt: number;
  /** When its first handler call in our hands began, in monotonic milliseconds. */
  calledAt: number | undefined;
  /** While waiting: when it may start again, in monotonic milliseconds. */
  dueAt = 0;
  /** End of a lease of kind `delivery`. */
  leaseUntil: number;
  /** Set once the message belongs to somebody else: nothing is settled after that (GUAR-02). */
  lost: WaybillError | undefined;
  /** Set once what was decided about it lets the next of its key start. */
  keyDone = false;
  /** The running attempt's claim, under idempotency. */
  claim: RunningClaim | undefined;
  /** The running attempt's message. */
  message: ReceivedMessage | undefined;

  constructor(by: HeldBy, delivery: Delivery, now: number) {
    this.#by = by;
    this.delivery = delivery;
    this.bytes = delivery.body.byteLength;
    this.attempt = delivery.attempt;
    this.arrivedAt = delivery.arrivedAt ?? now;
    this.leaseUntil = delivery.leaseUntil ?? Number.POSITIVE_INFINITY;
  }

  decided(verdict: Verdict, settled: (result: 'applied' | 'lost') => void): void {
    this.#by.decided(this, verdict, settled);
  }

  extended(by: number): void {
    this.#by.extended(this, by);
  }

  begun(): void {
    this.#by.begun(this);
  }

  checkDelay(after: number): void {
    this.#by.checkDelay(this, after);
  }
}
