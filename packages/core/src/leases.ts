import type { Receiver } from './adapter.ts';
import type { Clock, Timer } from './clock.ts';
import { LeaseLostError, type WaybillError } from './errors.ts';
import type { Held } from './held.ts';
import type { Logger } from './logger.ts';

interface LeaseWatch {
  readonly receiver: Receiver;
  /** Milliseconds. */
  readonly lease: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hand: ReadonlySet<Held>;
  /** Topic and group, for texts. */
  readonly what: string;
  lost(held: readonly Held[], error: WaybillError): void;
}

/**
 * Keeps leases, and notices when they ran out unseen. A process can be stopped (a debugger, a frozen container, a
 * handler that blocks the event loop) for longer than its lease; when it goes on, others have its messages. So every
 * start of a handler and every settle asks `alive()` first, which knows by how late the last tick is.
 */
export class LeaseKeeper {
  readonly #watch: LeaseWatch;
  readonly #tick: number;
  #timer: Timer | undefined;
  #lastTick: number;
  #extending = false;

  constructor(watch: LeaseWatch) {
    this.#watch = watch;
    this.#tick = watch.lease / 4;
    this.#lastTick = watch.clock.monotonic();
    this.#arm();
  }

  stop(): void {
    this.#timer?.cancel();
  }

  /** False when the process was stopped for longer than the lease; then everything in hand has just been lost. */
  alive(): boolean {
    const silent = this.#watch.clock.monotonic() - this.#lastTick;
    if (silent <= this.#watch.lease) return true;
    this.#lastTick = this.#watch.clock.monotonic();
    const all = [...this.#watch.hand].filter((held) => held.lost === undefined);
    if (all.length > 0) {
      this.#watch.lost(
        all,
        new LeaseLostError(
          `${this.#watch.what}: the process stood still for ${Math.round(silent)} ms, longer than the lease of ${this.#watch.lease} ms`,
        ),
      );
    }
    return false;
  }

  /** False when this lease has run out; then the message has just been lost. */
  holds(held: Held): boolean {
    if (held.leaseUntil > this.#watch.clock.monotonic()) return true;
    this.#drop([held]);
    return false;
  }

  #arm(): void {
    this.#timer = this.#watch.clock.setTimeout(() => {
      this.alive();
      this.#lastTick = this.#watch.clock.monotonic();
      this.#dropExpired();
      if (this.#watch.receiver.extend !== undefined) void this.#extend(this.#watch.receiver.extend);
      this.#arm();
    }, this.#tick);
  }

  async #extend(extend: NonNullable<Receiver['extend']>): Promise<void> {
    if (this.#extending) return;
    const now = this.#watch.clock.monotonic();
    const due: Held[] = [];
    for (const held of this.#watch.hand) {
      // Renewed at half time, so that one failed renewal leaves room for another.
      if (held.lost === undefined && held.leaseUntil - now < this.#watch.lease / 2 + this.#tick) due.push(held);
    }
    if (due.length === 0) return;
    this.#extending = true;
    try {
      const ends = await extend.call(
        this.#watch.receiver,
        due.map((held) => held.delivery),
      );
      const gone: Held[] = [];
      for (let i = 0; i < due.length; i++) {
        const held = due[i] as Held;
        const end = ends[i];
        if (end !== undefined) held.leaseUntil = end;
        else if (held.state !== 'gone' && held.state !== 'settling' && held.lost === undefined) gone.push(held);
      }
      if (gone.length > 0) {
        this.#watch.lost(
          gone,
          new LeaseLostError(`${this.#watch.what}: the broker gave the message to another member`),
        );
      }
    } catch (error) {
      this.#watch.logger.debug(`${this.#watch.what}: leases could not be renewed, tried again`, { error });
    } finally {
      this.#extending = false;
    }
  }

  #dropExpired(): void {
    const now = this.#watch.clock.monotonic();
    const gone = [...this.#watch.hand].filter((held) => held.lost === undefined && held.leaseUntil <= now);
    if (gone.length > 0) this.#drop(gone);
  }

  #drop(gone: readonly Held[]): void {
    this.#watch.lost(gone, new LeaseLostError(`${this.#watch.what}: the lease ran out before it could be renewed`));
  }
}
