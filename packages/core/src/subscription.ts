import type { Connection, GroupRef, Receiver, ReceiverEvents, Source } from './adapter.ts';
import { sleep } from './clock.ts';
import { diagnostics } from './diagnostics.ts';
import { duration } from './duration.ts';
import { ClosedError, type WaybillError } from './errors.ts';
import { handBytes, laneWindow, maxWaiting, Pipeline, type PipelineSetup } from './pipeline.ts';
import { backOff } from './retry.ts';
import type { CloseOptions, Subscription, SubscriptionState, SubscriptionStats } from './types.ts';

/** From each state, where it may go. Everything else that arrives is late news, and is ignored. */
const transitions: Record<SubscriptionState, readonly SubscriptionState[]> = {
  starting: ['running', 'recovering', 'closed', 'failed'],
  running: ['paused', 'recovering', 'draining', 'failed'],
  paused: ['running', 'recovering', 'draining', 'failed'],
  recovering: ['running', 'paused', 'draining', 'failed'],
  draining: ['closed'],
  closed: [],
  failed: [],
};

/** How often a member asks for messages that were set apart, in milliseconds. */
const alonePulse = 1_000;
/** So many failures in a row of `receive` are no passing trouble any more. */
const passing = 3;
/** Milliseconds after which a `receive` that has not failed is taken to work again. */
const calm = 10_000;

const defaultCloseTimeout = 25_000;

export interface SubscriptionSetup extends Omit<PipelineSetup, 'changed' | 'failed'> {
  readonly connection: Connection;
  readonly groupRef: GroupRef;
  /** Called once it has ended, however. */
  readonly ended: () => void;
}

/** One member of a group: its state, its receiver, and the loop that feeds the pipeline. */
export class Member implements Subscription, ReceiverEvents {
  readonly topic: string;
  readonly group: string;
  readonly closed: Promise<void>;
  readonly #setup: SubscriptionSetup;
  #state: SubscriptionState = 'starting';
  /** What the user wants while the broker lets us. */
  #wish: 'running' | 'paused' = 'running';
  #error: WaybillError | undefined;
  #positionLost: string | undefined;
  #fetchTrouble: string | undefined;
  #receiver: Receiver | undefined;
  #pipeline: Pipeline | undefined;
  #finish = new AbortController();
  #wake: (() => void) | undefined;
  #fetching: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #settleClosed: { resolve(): void; reject(error: WaybillError): void };

  private constructor(setup: SubscriptionSetup) {
    this.#setup = setup;
    this.topic = setup.topic;
    this.group = setup.group;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#settleClosed = { resolve, reject };
    // Somebody who does not watch `closed` has the log and `health()`; that must not end the process.
    promise.catch(() => {});
  }

  /** Joins the group, which has been provisioned. */
  static async join(setup: SubscriptionSetup): Promise<Member> {
    const member = new Member(setup);
    await member.#open();
    return member;
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** Why it is not simply running, for `health()`. */
  get problem(): string | undefined {
    return this.#error?.message ?? this.#fetchTrouble ?? this.#pipeline?.trouble ?? this.#positionLost;
  }

  get idle(): boolean {
    return this.#pipeline?.idle ?? true;
  }

  async pause(): Promise<void> {
    this.#checkOpen();
    this.#wish = 'paused';
    this.#fetchTrouble = undefined;
    this.#pipeline?.pause();
    this.#finishFetch();
    if (this.#state === 'running') this.#go('paused');
  }

  async resume(): Promise<void> {
    this.#checkOpen();
    this.#wish = 'running';
    if (this.#state === 'paused') this.#go('running');
    this.#pipeline?.resume();
  }

  stats(): SubscriptionStats {
    const pipeline = this.#pipeline;
    if (pipeline === undefined) throw new ClosedError(`the subscription of topic "${this.topic}"`);
    const { inFlight, buffered, heldBack } = pipeline;
    return { ...pipeline.counts, inFlight, buffered, heldBack };
  }

  async close(options: CloseOptions = {}): Promise<void> {
    const timeout = duration(options.timeout ?? defaultCloseTimeout, 'timeout');
    // Whoever closes again with less time means it: the bus, say, after a patient close of the subscription.
    if (this.#closing === undefined) this.#closing = this.#close(timeout);
    else this.#pipeline?.hurry(timeout);
    await this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // What the receiver says.

  assigned(lanes: readonly string[]): void {
    this.#setup.logger.debug(`${this.#what}: lanes assigned`, { lanes });
  }

  revoking(lanes: readonly string[], deadline: number): Promise<void> {
    return this.#pipeline?.revoke(lanes, deadline) ?? Promise.resolve();
  }

  lost(lanes: readonly string[], error: WaybillError): void {
    this.#pipeline?.loseLanes(lanes, error);
  }

  interrupted(error: WaybillError): void {
    if (this.#go('recovering', error)) {
      this.#error = error;
      this.#setup.logger.warn(`${this.#what}: interrupted, reconnecting`, { reason: error.message });
    }
  }

  restored(): void {
    if (this.#state !== 'recovering') return;
    this.#error = undefined;
    this.#go(this.#wish);
    this.#setup.logger.info(`${this.#what}: goes on`);
    this.#fetchTrouble = undefined;
    // Ends the wait after a failed receive, too.
    this.#finishFetch();
    this.#wakeUp();
  }

  positionLost(lane: string, what: string): void {
    this.#positionLost = what;
    this.#setup.logger.error(`${this.#what}: position lost: ${what}`, { lane });
  }

  /** The receiver has ended: what it gave can not be settled any more. */
  failed(error: WaybillError): void {
    this.#fail(error, 0);
  }

  #fail(error: WaybillError, timeout: number): void {
    if (!this.#go('failed', error)) return;
    this.#error = error;
    this.#setup.logger.error(`${this.#what}: the subscription has failed and is closed`, { error });
    this.#closing ??= this.#shutDown(timeout).finally(() => this.#settleClosed.reject(error));
  }

  get #what(): string {
    return `topic "${this.topic}", group "${this.group}"`;
  }

  async #open(): Promise<void> {
    const { connection, groupRef, settings, ordered } = this.#setup;
    const inHand = 2 * settings.concurrency * settings.batch.size;
    const source: Source = {
      group: groupRef,
      lease: settings.lease,
      prefetch: inHand + (ordered ? laneWindow : 0) + (this.#setup.inPlace ? maxWaiting : 0),
      prefetchBytes: handBytes,
      options: settings.brokerOptions,
    };
    const receiver = await connection.openReceiver(source, this);
    if (this.#error !== undefined && this.#state === 'failed') {
      await receiver.close();
      throw this.#error;
    }
    this.#receiver = receiver;
    this.#pipeline = new Pipeline(
      { ...this.#setup, changed: () => this.#wakeUp(), failed: (error) => this.#fail(error, defaultCloseTimeout) },
      this.#receiver,
    );
    if (this.#state === 'starting') this.#go('running');
    this.#fetching = Promise.all([this.#fetch(), this.#fetchAlone()]).then(() => {});
  }

  /** Feeds the pipeline for as long as the subscription lives. */
  async #fetch(): Promise<void> {
    const { clock, logger } = this.#setup;
    let failures = 0;
    while (this.#lives()) {
      const room = this.#wish === 'running' ? (this.#pipeline?.room ?? 0) : 0;
      if (room === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      // One that waits for messages does not fail any more, and may have nothing to return for long.
      const waits =
        failures === 0
          ? undefined
          : clock.setTimeout(() => {
              if (this.#state !== 'recovering') this.#fetches();
            }, calm);
      try {
        const deliveries = await this.#receiver?.receive(room, this.#finish.signal);
        if (failures > 0) this.#fetches();
        failures = 0;
        if (deliveries !== undefined && deliveries.length > 0) this.#pipeline?.take(deliveries);
      } catch (error) {
        waits?.cancel();
        failures++;
        logger.debug(`${this.#what}: receive failed, tried again`, { error });
        if (failures >= passing) this.#fetchesNot(error);
        // A close that came meanwhile has ended the wait before it began.
        if (this.#lives()) await sleep(clock, backOff(failures, { initial: 50, max: 5_000 }), this.#finish.signal);
      } finally {
        waits?.cancel();
      }
    }
  }

  /** An adapter tells of a connection that is away; a broker that answers and refuses is seen only here. */
  #fetchesNot(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    const known = this.#fetchTrouble !== undefined;
    this.#fetchTrouble = `nothing can be received: ${reason}`;
    if (!known) this.#setup.logger.warn(`${this.#what}: ${this.#fetchTrouble}`);
  }

  #fetches(): void {
    if (this.#fetchTrouble !== undefined) this.#setup.logger.info(`${this.#what}: messages are received again`);
    this.#fetchTrouble = undefined;
  }

  /** Asks now and then for messages that were set apart, when a handler is free for one (RETRY-07). */
  async #fetchAlone(): Promise<void> {
    const { clock, logger, ordered, groupRef } = this.#setup;
    const receiver = this.#receiver;
    const pipeline = this.#pipeline;
    if (receiver?.receiveAlone === undefined || pipeline === undefined || ordered || groupRef.temporary) return;
    while (this.#lives()) {
      let found = false;
      if (this.#state === 'running' && (await pipeline.reserveSlot())) {
        const delivery = await receiver.receiveAlone().catch((error: unknown) => {
          logger.debug(`${this.#what}: asking for messages set apart failed, tried again`, { error });
          return undefined;
        });
        pipeline.takeAlone(delivery);
        found = delivery !== undefined;
      }
      if (!found && this.#lives()) await sleep(clock, alonePulse, this.#finish.signal);
    }
  }

  #lives(): boolean {
    return this.#state === 'running' || this.#state === 'paused' || this.#state === 'recovering';
  }

  #wakeUp(): void {
    const wake = this.#wake;
    if (wake === undefined) return;
    if (this.#lives() && (this.#wish === 'paused' || (this.#pipeline?.room ?? 0) === 0)) return;
    this.#wake = undefined;
    wake();
  }

  /** Lets the fetch under way come back with what it has. */
  #finishFetch(): void {
    const current = this.#finish;
    this.#finish = new AbortController();
    current.abort();
  }

  async #close(timeout: number): Promise<void> {
    if (this.#state === 'starting') this.#go('closed');
    else this.#go('draining');
    await this.#shutDown(timeout);
    this.#go('closed');
    this.#settleClosed.resolve();
  }

  async #shutDown(timeout: number): Promise<void> {
    this.#finishFetch();
    this.#wakeUp();
    await this.#pipeline?.drain(timeout, this.#setup.stream, this.#fetching);
    await this.#receiver?.close();
    const { connection, groupRef, logger } = this.#setup;
    if (groupRef.temporary) {
      await connection.removeGroup(groupRef).catch((error: unknown) => {
        logger.warn(`${this.#what}: a broadcast's group could not be removed; the broker does it later`, { error });
      });
    }
    this.#setup.ended();
  }

  #go(to: SubscriptionState, error?: WaybillError): boolean {
    const from = this.#state;
    if (!transitions[from].includes(to)) return false;
    this.#state = to;
    if (diagnostics.subscription.hasSubscribers) {
      diagnostics.subscription.publish({
        adapter: this.#setup.adapter,
        topic: this.topic,
        group: this.group,
        from,
        to,
        error,
      });
    }
    return true;
  }

  #checkOpen(): void {
    if (!this.#lives()) throw new ClosedError(`the subscription of ${this.#what}`);
  }
}
