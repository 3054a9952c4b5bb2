import type { Capabilities, Delivery, Receiver, Settlement } from './adapter.ts';
import { Alarm } from './alarm.ts';
import { type AttemptResult, runAttempt, storeAway } from './attempt.ts';
import type { Clock, Timer } from './clock.ts';
import type { Codec } from './codec.ts';
import { ClosedError, HandlerTimeoutError, UnsupportedError, type WaybillError } from './errors.ts';
import { waitBefore } from './handling.ts';
import { Held, type HeldBy } from './held.ts';
import { LeaseKeeper } from './leases.ts';
import type { Logger } from './logger.ts';
import type { ReceivedMessage, Verdict } from './message.ts';
import { Notices } from './notices.ts';
import { OrderedReady, type Ready, UnorderedReady } from './ready.ts';
import { Settler } from './settler.ts';
import type { SubscriptionSettings } from './subscribe-options.ts';
import type { TopicDefinition } from './topic.ts';
import { deadLetterDetails } from './verdict.ts';
import type { DeadLetterReason } from './wire.ts';

/** Followers of held keys that one lane may pile up before it waits (ORD-02). */
export const laneWindow = 256;
/** Messages that may wait in place for their retry at once; above it nothing more is fetched. */
export const maxWaiting = 1_000;
/** Settlements that may be on their way; above it no handler is started, so a broker that stalls stalls us. */
const maxSettling = 10_000;
/** Milliseconds after its last failure for which the idempotency store counts as away. */
const storeTroubleLasts = 15_000;
/** Bytes of bodies in hand; one message may always be held. */
export const handBytes = 32 * 1024 * 1024;

/** What a pipeline is made for. */
export interface PipelineSetup {
  readonly topic: string;
  readonly group: string;
  readonly definition: TopicDefinition;
  readonly codec: Codec;
  readonly settings: SubscriptionSettings;
  /** Whether a key has one attempt at a time. */
  readonly ordered: boolean;
  /** Whether a failed message is kept and tried again here: on ordered topics and for broadcasts. */
  readonly inPlace: boolean;
  readonly adapter: string;
  readonly capabilities: Capabilities;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether a message waits in a stream until somebody takes it, which is when its time begins. */
  readonly stream: boolean;
  /** Calls the user's handler with one attempt's messages. */
  readonly handle: (messages: readonly ReceivedMessage[], signal: AbortSignal | undefined) => unknown;
  /** There may be room for more, or something else worth a look. */
  readonly changed: () => void;
  /** A message comes again at this wall time, for `bus.idle()`. */
  readonly due: (at: number) => void;
  /** The subscription cannot go on (`invalid: 'stop'`). */
  readonly failed: (error: WaybillError) => void;
}

export type Counts = Record<
  | 'received'
  | 'acked'
  | 'retried'
  | 'deadLettered'
  | 'dropped'
  | 'duplicates'
  | 'unidentified'
  | 'expired'
  | 'givenBack',
  number
>;

/** What one call of the handler is about: one message, or a batch. */
export interface Unit {
  readonly helds: readonly Held[];
  /** When its time is up, in monotonic milliseconds. */
  deadline: number;
  /** Ends the attempt while its handler still runs. */
  end: ((result: AttemptResult) => void) | undefined;
  /** Aborts the signal of a batch. */
  abort: ((error: WaybillError) => void) | undefined;
}

/** Everything between `receive` and `settle`: deliveries in hand, who may start, attempts, and what becomes of them. */
export class Pipeline implements HeldBy {
  readonly setup: PipelineSetup;
  readonly counts: Counts = {
    received: 0,
    acked: 0,
    retried: 0,
    deadLettered: 0,
    dropped: 0,
    duplicates: 0,
    unidentified: 0,
    expired: 0,
    givenBack: 0,
  };
  readonly #receiver: Receiver;
  readonly #hand = new Set<Held>();
  readonly #ready: Ready;
  readonly #notices: Notices<'retry' | 'dead letter' | 'dropped'>;
  readonly #settler: Settler;
  readonly #leases: LeaseKeeper;
  readonly #alarm: Alarm;
  readonly #units = new Set<Unit>();
  readonly #waiting = new Set<Held>();
  readonly #pausedLanes = new Set<string>();
  readonly #revoking = new Set<string>();
  readonly #unitOf = new Map<Held, Unit>();
  #bytes = 0;
  #mode: 'open' | 'paused' | 'draining' = 'open';
  #reserved = 0;
  #drainUntil = Number.POSITIVE_INFINITY;
  #drainTimer: Timer | undefined;
  #outOfTime = false;
  #storeTrouble: { readonly text: string; readonly at: number } | undefined;
  #gatheringSince: number | undefined;
  #watchers: (() => void)[] = [];

  constructor(setup: PipelineSetup, receiver: Receiver) {
    this.setup = setup;
    this.#receiver = receiver;
    const { clock, logger } = setup;
    this.#ready = setup.ordered ? new OrderedReady() : new UnorderedReady();
    this.#settler = new Settler(receiver, clock, logger, setup);
    this.#notices = new Notices(logger, clock);
    this.#alarm = new Alarm(clock, () => this.#onAlarm());
    this.#leases = new LeaseKeeper({
      receiver,
      lease: setup.settings.lease,
      clock,
      logger,
      hand: this.#hand,
      what: this.what,
      lost: (held, error) => {
        if (setup.ordered) for (const one of held) this.#abandonBuffered((other) => sameKey(one, other));
        this.#lose(held, error);
        // The adapter may still count them as ours, where the broker was more patient than our clock.
        void receiver.settle(held.map(({ delivery }) => ({ verb: 'abandon', delivery }))).catch(() => {});
      },
    });
  }

  /** Names the subscription in texts. */
  get what(): string {
    return `topic "${this.setup.topic}", group "${this.setup.group}"`;
  }

  /** Deliveries that may be received now. */
  get room(): number {
    const { settings } = this.setup;
    if (this.#mode !== 'open' || this.#bytes >= handBytes || this.#waiting.size >= maxWaiting) return 0;
    if (this.#settler.open >= maxSettling) return 0;
    const limit = 2 * settings.concurrency * settings.batch.size;
    const room = limit - this.#ready.startable - this.#unitOf.size;
    // Fetching by ones would cost more than it brings: a quarter must be free, or nothing be left to start.
    return room >= limit / 4 || this.#ready.startable === 0 ? Math.max(0, room) : 0;
  }

  get idle(): boolean {
    return this.#hand.size === 0 && this.#units.size === 0 && this.#settler.open === 0;
  }

  /** Whether handlers may start. */
  get open(): boolean {
    return this.#mode === 'open';
  }

  /** Keeps a handler slot free for `takeAlone`, once there is one; false when no handler may start. */
  async reserveSlot(): Promise<boolean> {
    this.#reserved++;
    while (this.#mode === 'open' && this.#slotsUsed > this.setup.settings.concurrency) {
      await new Promise<void>((resolve) => this.#watchers.push(resolve));
    }
    if (this.#mode === 'open') return true;
    this.#reserved--;
    return false;
  }

  get #slotsUsed(): number {
    return this.#units.size + this.#reserved;
  }

  /** Why the subscription does not get on as it should, for its health. */
  get trouble(): string | undefined {
    if (this.#waiting.size >= maxWaiting) {
      return `${maxWaiting} messages wait for their retry in this member; nothing more is fetched meanwhile`;
    }
    return this.#settler.trouble ?? this.#lastingStoreTrouble;
  }

  /** The idempotency store or inbox could not be asked (IDEM-06); `undefined` once it answers again. */
  storeTrouble(error: unknown): void {
    if (error === undefined) {
      this.#storeTrouble = undefined;
      return;
    }
    const what = this.setup.settings.inbox === undefined ? 'idempotency store' : 'inbox';
    const text = `the ${what} fails: ${error instanceof Error ? error.message : String(error)}`;
    if (this.#lastingStoreTrouble === undefined) {
      this.setup.logger.warn(`${this.what}: ${text}; messages are given back`);
    }
    this.#storeTrouble = { text, at: this.setup.clock.monotonic() };
  }

  /** Somebody else may have got what was given back: without another failure nobody here would ever see that all is well. */
  get #lastingStoreTrouble(): string | undefined {
    if (this.#storeTrouble === undefined) return undefined;
    const { text, at } = this.#storeTrouble;
    return this.setup.clock.monotonic() - at < storeTroubleLasts ? text : undefined;
  }

  get inFlight(): number {
    return this.#unitOf.size;
  }
  get buffered(): number {
    return this.#ready.size + this.#waiting.size;
  }
  get heldBack(): number {
    return this.#ready.heldBack();
  }

  take(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const held = this.#keep(delivery);
      if (this.#revoking.has(delivery.lane) || this.#goesBack()) this.abandon(held);
      else {
        this.#ready.add(held);
        this.#watchLane(delivery.lane);
      }
    }
    this.pump();
  }

  /** Starts one that was set apart, at once: its delivery counts as an attempt (RETRY-07). */
  takeAlone(delivery: Delivery | undefined): void {
    this.#reserved--;
    if (delivery === undefined) {
      this.pump(); // something may have come in for the slot meanwhile
      return;
    }
    const held = this.#keep(delivery);
    if (this.#mode !== 'open') this.abandon(held);
    else this.#start([held]);
  }

  pump(): void {
    const { concurrency } = this.setup.settings;
    while (this.#mode === 'open' && this.#slotsUsed < concurrency && this.#settler.open < maxSettling) {
      const unit = this.#nextUnit();
      if (unit === undefined) break;
      if (this.#leases.alive()) this.#start(unit);
    }
    this.setup.changed();
  }

  /** Starts nothing more. Buffered messages stay, or go back where their lease would run out meanwhile (SUB-08). */
  pause(): void {
    this.#mode = 'paused';
    this.#changed();
    if (this.#goesBack()) this.#abandonBuffered(() => true);
  }

  resume(): void {
    this.#mode = 'open';
    this.pump();
  }

  /** Resolves when nothing of these lanes is in hand, at the latest at the deadline. */
  async revoke(lanes: readonly string[], deadline: number): Promise<void> {
    for (const lane of lanes) {
      this.#revoking.add(lane);
      this.#pausedLanes.delete(lane);
    }
    const of = (held: Held): boolean => lanes.includes(held.delivery.lane);
    this.#abandonBuffered(of);
    await this.#until(() => !some(this.#hand, of), deadline);
    for (const lane of lanes) this.#revoking.delete(lane);
  }

  loseLanes(lanes: readonly string[], error: WaybillError): void {
    for (const lane of lanes) this.#pausedLanes.delete(lane);
    this.#lose(
      [...this.#hand].filter((held) => lanes.includes(held.delivery.lane)),
      error,
    );
  }

  /**
   * Ends: buffered messages go back at once, and so does what a fetch under way still brings; running handlers and
   * their settlements may finish until the time-out (LIFE-01, LIFE-02). With `giveBackRunning` what runs and is undecided goes back as well.
   */
  async drain(timeout: number, giveBackRunning: boolean, fetched: Promise<void>): Promise<void> {
    this.#mode = 'draining';
    this.#settler.leave();
    this.#changed();
    this.#abandonBuffered(() => true);
    if (giveBackRunning) {
      for (const unit of [...this.#units]) unit.end?.('give-back');
    }
    let fetching = true;
    void fetched.then(() => {
      fetching = false;
      this.#changed();
    });
    this.hurry(timeout);
    const done = (): boolean => !fetching && this.#units.size === 0 && this.#settler.open === 0;
    while (!done() && !this.#outOfTime) await new Promise<void>((resolve) => this.#watchers.push(resolve));
    if (!done()) {
      const error = new ClosedError(`the subscription of ${this.what}`);
      for (const held of this.#unitOf.keys()) held.message?.abort(error);
      for (const unit of this.#units) unit.abort?.(error);
      this.setup.logger.warn(
        `${this.what}: closed with ${this.#unitOf.size} messages in handlers; they are delivered again after their lease`,
      );
    }
    this.#drainTimer?.cancel();
    this.#settler.stop();
    this.#leases.stop();
    this.#alarm.stop();
  }

  /** Draining has this long from now on, unless it had less. */
  hurry(timeout: number): void {
    const { clock } = this.setup;
    const until = clock.monotonic() + timeout;
    if (until >= this.#drainUntil) return;
    this.#drainUntil = until;
    this.#drainTimer?.cancel();
    this.#drainTimer = clock.setTimeout(() => {
      this.#outOfTime = true;
      this.#changed();
    }, timeout);
  }

  // What the attempt asks of the pipeline.

  /** True while the message is ours. */
  alive(held: Held): boolean {
    return this.#leases.alive() && held.lost === undefined && this.#leases.holds(held);
  }

  /** The time of an attempt begins now. */
  startTime(unit: Unit): void {
    const { clock, settings } = this.setup;
    if (settings.timeout !== Number.POSITIVE_INFINITY) this.#expireAt(unit, clock.monotonic() + settings.timeout);
  }

  /** The handler has the messages from now on, or whoever reads the stream. */
  called(unit: Unit): void {
    for (const held of unit.helds) held.calledAt ??= this.setup.clock.monotonic();
    this.startTime(unit);
  }

  #expireAt(unit: Unit, deadline: number): void {
    unit.deadline = deadline;
    // Beyond it the broker would take the message away, and its attempts would be counted anew: for ever.
    for (const held of unit.helds) unit.deadline = Math.min(unit.deadline, this.#keptUntil(held));
    this.#alarm.at(unit.deadline);
  }

  /** Until when one whose retries wait here can be kept; `Infinity` for every other. */
  #keptUntil({ calledAt }: Held): number {
    const { inPlace, capabilities, clock } = this.setup;
    return inPlace ? (calledAt ?? clock.monotonic()) + capabilities.lease.maxHandling : Number.POSITIVE_INFINITY;
  }

  /**
   * Whether it waited for so long that the broker may take it from its handler. Not in order: there it cannot go back
   * alone.
   */
  isStale({ arrivedAt, calledAt }: Held): boolean {
    const { ordered, capabilities, settings, clock } = this.setup;
    const { maxHandling } = capabilities.lease;
    if (ordered || calledAt !== undefined || maxHandling === Number.POSITIVE_INFINITY) return false;
    return clock.monotonic() - arrivedAt > Math.max(maxHandling - settings.timeout, waitBefore(maxHandling));
  }

  /** The handler has returned (or does not count any more), and everything of the unit is decided. */
  finished(unit: Unit): void {
    this.#units.delete(unit);
    for (const held of unit.helds) {
      this.#unitOf.delete(held);
      held.message?.end();
      held.message = undefined;
      if (held.state === 'waiting') this.#alarm.at(held.dueAt);
      this.#letKeyGoOn(held);
    }
    this.#changed();
    this.pump();
  }

  count(name: keyof Counts): void {
    this.counts[name]++;
  }

  /** Carries out what was decided about a message. */
  carryOut(held: Held, verdict: Verdict, settled: (result: 'applied' | 'lost') => void = ignore): void {
    if (verdict.verb === 'ack') {
      this.settle(held, { verb: 'ack', delivery: held.delivery }, 'acked', settled);
    } else if (verdict.verb === 'reject') {
      this.exhaust(held, 'rejected', verdict.error, held.attempt, settled);
    } else {
      const { retry } = this.setup.settings;
      if (held.attempt >= retry.attempts) this.exhaust(held, 'exhausted', verdict.error, held.attempt, settled);
      else {
        const after = verdict.after ?? retry.delayAfter(held.attempt, verdict.error);
        const unsupported = this.#tooLong(held, after);
        // Nobody is left to throw to, and no delay is clamped.
        if (unsupported !== undefined) {
          if (verdict.error !== undefined) this.#tellFailure(held, verdict.error, unsupported.message);
          this.exhaust(held, 'exhausted', this.#blame(verdict, unsupported), held.attempt, settled);
        } else {
          this.#tellRetry(held, verdict.error, after);
          this.again(held, after, held.attempt + 1, 'retried', settled);
        }
      }
    }
  }

  #tellRetry(held: Held, error: unknown, after: number): void {
    // Asked for by `message.retry()`: no failure.
    if (error !== undefined) this.#tellFailure(held, error, `the next comes in ${Math.round(after)} ms`);
  }

  #tellFailure(held: Held, error: unknown, next: string): void {
    const { attempts } = this.setup.settings.retry;
    const text = `${this.what}: message ${nameOf(held)}: attempt ${held.attempt} of ${attempts} failed, ${next}`;
    this.#notices.tell('retry', text, { error });
  }

  /** What a dead letter tells of a retry that cannot be: the delay, where it was asked for; else why the handler failed. */
  #blame({ error, after }: Extract<Verdict, { verb: 'retry' }>, unsupported: UnsupportedError): unknown {
    return this.setup.inPlace && after === undefined ? (error ?? unsupported) : unsupported;
  }

  /** Lets go of a message as it came. */
  abandon(held: Held): void {
    this.#waiting.delete(held);
    this.settle(held, { verb: 'abandon', delivery: held.delivery }, 'givenBack');
  }

  /** Lets a message come again after a while: as its next attempt, or with its attempt unchanged. */
  again(
    held: Held,
    after: number,
    attempt: number,
    count: 'retried' | 'givenBack',
    settled: (result: 'applied' | 'lost') => void = ignore,
  ): void {
    if (!this.setup.inPlace) {
      this.setup.due(this.setup.clock.now() + after);
      this.settle(held, { verb: 'giveBack', delivery: held.delivery, after, attempt }, count, settled);
      // The broker keeps the key waiting; what we have of it already goes back behind.
      if (this.setup.ordered) this.#abandonBuffered((other) => sameKey(held, other));
      return;
    }
    if (held.lost !== undefined) {
      settled('lost');
      return;
    }
    if (this.#goesBack() || this.#revoking.has(held.delivery.lane)) {
      this.abandon(held);
    } else {
      this.counts[count]++;
      held.state = 'waiting';
      held.attempt = attempt;
      held.dueAt = this.setup.clock.monotonic() + after;
      this.#waiting.add(held);
      this.#alarm.at(held.dueAt);
    }
    settled('applied');
  }

  /** No attempt is left, or none can help: to the dead letters, or dropped (RETRY-01, DLQ-01). */
  exhaust(
    held: Held,
    reason: DeadLetterReason,
    error: unknown,
    attempts: number,
    settled: (result: 'applied' | 'lost') => void = ignore,
  ): void {
    const { settings, clock, topic, group } = this.setup;
    const tell = (what: 'dead letter' | 'dropped'): void =>
      this.#notices.tell(what, `${this.what}: message ${nameOf(held)}: ${what} (${reason})`, { attempts, error });
    if (settings.whenExhausted === 'drop') {
      tell('dropped');
      this.settle(held, { verb: 'ack', delivery: held.delivery }, 'dropped', settled);
      return;
    }
    tell('dead letter');
    const details = deadLetterDetails({ reason, error, attempts, at: clock.now(), topic, group });
    this.settle(held, { verb: 'deadLetter', delivery: held.delivery, details }, 'deadLettered', settled);
  }

  settle(
    held: Held,
    settlement: Settlement,
    count: keyof Counts | undefined,
    settled: (result: 'applied' | 'lost') => void = ignore,
  ): void {
    if (!this.alive(held)) {
      settled('lost');
      return;
    }
    held.state = 'settling';
    // An acked message's successor need not wait for the broker: a crash brings both back, in order.
    held.keyDone = settlement.verb === 'ack' || settlement.verb === 'abandon';
    this.#settler.settle(held, settlement, (result) => {
      if (result === 'applied' && count !== undefined) this.counts[count]++;
      if (held.state !== 'gone') this.#gone(held);
      // Lost meanwhile; a drain still waits for the settlement itself.
      else this.#changed();
      settled(result);
      this.pump();
    });
    this.#letKeyGoOn(held);
  }

  // HeldBy: what a message's methods come to.

  decided(held: Held, verdict: Verdict, settled: (result: 'applied' | 'lost') => void): void {
    if (this.awaitsEnd(verdict)) {
      settled('applied');
      return;
    }
    const { claim } = held;
    claim?.end(verdict.verb === 'ack');
    if (claim === undefined || verdict.verb !== 'ack') this.carryOut(held, verdict, settled);
    else {
      // The ack follows the mark: without it a duplicate could run.
      claim.outcome.then(
        () => this.carryOut(held, verdict, settled),
        (error: unknown) => {
          storeAway(this, held, error);
          settled('lost');
        },
      );
    }
  }

  /**
   * Whether the end of the attempt carries a decision out: a retry in place cannot begin while the attempt still runs,
   * and an ack follows the commit of an inbox, which the handler cannot wait for.
   */
  awaitsEnd({ verb }: Verdict): boolean {
    return (verb === 'retry' && this.setup.inPlace) || (verb === 'ack' && this.setup.settings.inbox !== undefined);
  }

  extended(held: Held, by: number): void {
    const unit = this.#unitOf.get(held);
    if (unit === undefined || unit.deadline === Number.POSITIVE_INFINITY) return;
    this.#expireAt(unit, this.setup.clock.monotonic() + by);
  }

  begun(held: Held): void {
    const unit = this.#unitOf.get(held);
    if (unit !== undefined) this.called(unit);
  }

  checkDelay(held: Held, after: number): void {
    const unsupported = this.#tooLong(held, after);
    if (unsupported !== undefined) throw unsupported;
  }

  #tooLong(held: Held, after: number): UnsupportedError | undefined {
    const { adapter, capabilities, inPlace, clock } = this.setup;
    if (inPlace) {
      if (clock.monotonic() + after < this.#keptUntil(held)) return undefined;
      const { maxHandling } = capabilities.lease;
      const why = `a retry in ${Math.round(after)} ms comes after the ${maxHandling} ms for which one member can keep a message`;
      return new UnsupportedError('maxHandling', adapter, why);
    }
    if (after <= capabilities.maxDelay) return undefined;
    const why = `${after} ms is beyond the longest delay of ${capabilities.maxDelay} ms`;
    return new UnsupportedError('maxDelay', adapter, why);
  }

  /** Whether what is not started is let go: while draining, and while held where its lease would run out. */
  #goesBack(): boolean {
    return this.#mode === 'draining' || (this.#mode === 'paused' && this.setup.capabilities.lease.kind === 'delivery');
  }

  #keep(delivery: Delivery): Held {
    const held = new Held(this, delivery, this.setup.clock.monotonic());
    this.#hand.add(held);
    this.#bytes += held.bytes;
    this.counts.received++;
    return held;
  }

  #nextUnit(): Held[] | undefined {
    const { size, wait } = this.setup.settings.batch;
    if (this.#ready.startable === 0) {
      this.#gatheringSince = undefined;
      return undefined;
    }
    if (wait > 0 && this.#ready.startable < size) {
      const now = this.setup.clock.monotonic();
      this.#gatheringSince ??= now;
      const until = this.#gatheringSince + wait;
      if (now < until) {
        this.#alarm.at(until);
        return undefined;
      }
    }
    this.#gatheringSince = undefined;
    const unit: Held[] = [];
    while (unit.length < size) {
      const held = this.#ready.next();
      if (held === undefined) break;
      unit.push(held);
    }
    return unit;
  }

  #start(helds: readonly Held[]): void {
    const ours = helds.filter((held) => held.lost === undefined);
    if (ours.length === 0) return;
    const unit: Unit = { helds: ours, deadline: Number.POSITIVE_INFINITY, end: undefined, abort: undefined };
    this.#units.add(unit);
    for (const held of ours) {
      held.state = 'running';
      this.#unitOf.set(held, unit);
      this.#watchLane(held.delivery.lane);
    }
    void runAttempt(this, unit);
  }

  #abandonBuffered(which: (held: Held) => boolean): void {
    for (const held of this.#ready.takeWhere(which)) this.abandon(held);
    for (const held of [...this.#waiting].filter(which)) this.abandon(held);
  }

  #lose(helds: readonly Held[], error: WaybillError): void {
    if (helds.length === 0) return;
    const lost = new Set(helds);
    for (const held of helds) {
      held.lost = error;
      held.message?.abort(error);
      const unit = this.#unitOf.get(held);
      unit?.abort?.(error);
    }
    this.#ready.takeWhere((held) => lost.has(held));
    for (const held of helds) this.#gone(held);
    this.#changed();
    this.pump();
  }

  #gone(held: Held): void {
    if (held.state === 'gone') return;
    held.state = 'gone';
    this.#waiting.delete(held);
    if (this.#hand.delete(held)) this.#bytes -= held.bytes;
    held.keyDone = true;
    this.#letKeyGoOn(held);
    this.#changed();
  }

  /** The next of a key starts when this one is decided and its handler has ended; or when it is not ours any more. */
  #letKeyGoOn(held: Held): void {
    if (!held.keyDone || (this.#unitOf.has(held) && held.lost === undefined)) return;
    this.#ready.release(held);
    this.#watchLane(held.delivery.lane);
  }

  /** A lane whose held keys have piled up a window of followers waits; it goes on at half of it. */
  #watchLane(lane: string): void {
    if (!this.setup.ordered) return;
    const blocked = this.#ready.blocked(lane);
    if (blocked >= laneWindow && !this.#pausedLanes.has(lane)) {
      this.#pausedLanes.add(lane);
      this.#receiver.pauseLane(lane);
    } else if (blocked <= laneWindow / 2 && this.#pausedLanes.delete(lane)) {
      this.#receiver.resumeLane(lane);
    }
  }

  #onAlarm(): void {
    const now = this.setup.clock.monotonic();
    for (const held of this.#waiting) {
      // One whose unit still runs is looked at again when that has ended.
      if (this.#unitOf.has(held)) continue;
      if (held.dueAt <= now) {
        this.#waiting.delete(held);
        held.state = 'ready';
        this.#ready.again(held);
      } else this.#alarm.at(held.dueAt);
    }
    for (const unit of [...this.#units]) {
      if (unit.deadline <= now) {
        const { settings, capabilities } = this.setup;
        const over = unit.helds.some((held) => this.#keptUntil(held) <= now)
          ? `the ${capabilities.lease.maxHandling} ms for which one member can keep a message`
          : `its time-out of ${settings.timeout} ms`;
        const error = new HandlerTimeoutError(`${this.what}: the handler took longer than ${over}`);
        unit.deadline = Number.POSITIVE_INFINITY;
        for (const held of unit.helds) held.message?.abort(error);
        unit.abort?.(error);
        unit.end?.({ error });
      } else if (unit.deadline !== Number.POSITIVE_INFINITY) this.#alarm.at(unit.deadline);
    }
    this.pump();
  }

  #changed(): void {
    if (this.#watchers.length === 0) return;
    const watchers = this.#watchers;
    this.#watchers = [];
    for (const look of watchers) look();
  }

  /** Waits for a condition of the hand; false when the time ran out first. */
  #until(done: () => boolean, ms: number): Promise<boolean> {
    if (done()) return Promise.resolve(true);
    return new Promise((resolve) => {
      let over = false;
      const timer = this.setup.clock.setTimeout(() => {
        over = true;
        resolve(false);
      }, ms);
      const look = (): void => {
        if (over) return;
        if (done()) {
          timer.cancel();
          resolve(true);
        } else this.#watchers.push(look);
      };
      this.#watchers.push(look);
    });
  }
}

const ignore = (): void => {};

function sameKey(a: Held, b: Held): boolean {
  return a.delivery.key !== undefined && a.delivery.key === b.delivery.key && a.delivery.lane === b.delivery.lane;
}

function some<T>(items: Iterable<T>, fits: (item: T) => boolean): boolean {
  for (const item of items) if (fits(item)) return true;
  return false;
}

const nameOf = ({ delivery }: Held): string => delivery.id ?? delivery.position ?? 'without id';
