import {
  Alarm,
  type Clock,
  ConfigError,
  type Delivery,
  Fifo,
  type Logger,
  nameOfGroup,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  sleep,
  type Timer,
  WaybillError,
} from '@waybill/core/adapter';
import { hopOf, WaitingRoom } from './delay.ts';
import { adapterName, isNotFound, isTransient, requestFailure } from './errors.ts';
import { Leases } from './leases.ts';
import type { Link } from './link.ts';
import { type Content, fromMessage, type Origin, PubsubDelivery, type ReceivedMessage } from './message.ts';
import type { GroupPlace } from './names.ts';
import { PullReader, type ReaderHost } from './reader.ts';
import type { Sender } from './sender.ts';
import { Settling } from './settling.ts';
import type { Standing, Topology } from './topology.ts';

/** How often a receiver looks whether its group still stands: nobody tells when a topic is deleted. */
const pulse = 15_000;
/** Milliseconds that close waits for the pulls that are under way. */
const closePatience = 3_000;
/** Milliseconds that a message lies here before others may have it. */
const longestIdle = 1_000;
/** Milliseconds for a renewal to get there. */
const renewalTime = 500;
/** Part of a lease that a renewal may take: where one gets no answer, there is time for two more. */
const renewalShare = 5;
/** Milliseconds that pulls may fail for reasons that pass by themselves, before that is told. */
const passing = 3_000;

export interface ReceiverParts {
  readonly source: Source;
  readonly events: ReceiverEvents;
  readonly place: GroupPlace;
  readonly standing: Standing;
  readonly link: Link;
  /** On the link, for its pulls; given back when it is closed. */
  readonly seat: number;
  readonly sender: Sender;
  readonly topology: Topology;
  /** Whether what was deleted is made again (LIFE-07). */
  readonly makes: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly closed: (receiver: PubsubReceiver) => void;
}

/** A message whose time has not come. */
interface Delayed {
  readonly native: ReceivedMessage;
  readonly content: Content;
  readonly origin: Origin;
  readonly dueAt: number;
  readonly bytes: number;
  readonly leaseUntil: number;
}

/** One member of a group: it pulls from the group's subscription and, without order, from that of its retries. */
export class PubsubReceiver implements Receiver, ReaderHost {
  readonly #parts: ReceiverParts;
  readonly #clock: Clock;
  readonly #leases: Leases;
  readonly #settling: Settling;
  readonly #readers: readonly PullReader[];
  readonly #ready = new Fifo<PubsubDelivery>();
  readonly #delayed: WaitingRoom<Delayed>;
  readonly #sweep: Alarm;
  readonly #unwatch: () => void;
  /**
   * Retries were there, and nobody had time for them before they had to be given back: they come before what is new, or
   * a slow member with a backlog would never get to them.
   */
  #retriesOwed = false;
  /** How many a `receive` waits for. */
  #hungry = 0;
  /** Whoever waits for something to change. */
  #waiters: (() => void)[] = [];
  /** Deliveries whose lease is being set before they are handed out. */
  #settingLeases = 0;
  #pulse: Timer | undefined;
  #repairing: Promise<void> | undefined;
  /** Readers whose pulls fail though the broker answers. */
  readonly #failing = new Set<PullReader>();
  #closing = false;
  #closed = false;

  constructor(parts: ReceiverParts) {
    this.#parts = parts;
    const { link, place, standing, events, clock, source, seat } = parts;
    this.#clock = clock;
    this.#leases = new Leases(link);
    this.#delayed = new WaitingRoom(clock, () => this.#look());
    this.#sweep = new Alarm(clock, () => this.#giveBackIdle());
    this.#readers = [
      new PullReader(place.subscription, standing.ackDeadline, link, seat, this),
      ...(place.retry === undefined ? [] : [new PullReader(place.retry.subscription, retryDeadline, link, seat, this)]),
    ];
    this.#settling = new Settling({
      group: source.group,
      place,
      clock,
      leases: this.#leases,
      sender: parts.sender,
      confirmsAcks: standing.exactlyOnce,
      lives: (delivery) => this.#lives(delivery),
      deadLettersStand: () => this.#deadLettersStand(),
      missing: () => void this.repair(),
    });
    this.#unwatch = link.watch({
      down: (error) => events.interrupted(error),
      up: () => {
        if (this.#failing.size === 0) events.restored();
        this.#look();
      },
    });
    events.assigned([place.subscription]);
    this.#armPulse();
  }

  /** The topic's name in the bus. */
  get topic(): string {
    return this.#parts.source.group.topic.name;
  }

  async receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    const look = (): void => this.#look();
    finish.addEventListener('abort', look, { once: true });
    try {
      for (;;) {
        const finishing = finish.aborted || this.#closing;
        if (!finishing || !this.#fetching) {
          const ready = this.#collect(max);
          if (finishing) this.#giveBackReady();
          if (ready.length > 0 || finishing) return ready;
          this.#pull(max);
          this.#hungry = max;
        } else this.#hungry = 0;
        await this.#change();
      }
    } finally {
      this.#hungry = 0;
      finish.removeEventListener('abort', look);
    }
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = await this.#settling.settle(batch);
    if (this.#hungry > 0 && this.#parts.source.group.topic.ordered) this.#readers[0]?.nudge(this.#hungry);
    return results;
  }

  async extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    const { lease } = this.#parts.source;
    const now = this.#clock.monotonic();
    const ours = deliveries.filter((one): one is PubsubDelivery => one instanceof PubsubDelivery && this.#lives(one));
    const ends = new Map<Delivery, number>(ours.map((one) => [one, one.leaseUntil]));
    const renewed = ours.filter(({ released }) => !released);
    const bySubscription = Map.groupBy(renewed, ({ origin }) => origin.subscription);
    await Promise.all(
      [...bySubscription].map(async ([subscription, some]) => {
        const answers = await this.#leases.setDeadline(
          subscription,
          some.map(({ ackId }) => ackId),
          Math.ceil(lease / 1_000),
          Math.min(lease / renewalShare, this.#parts.link.settings.requestTimeout),
        );
        for (let i = 0; i < some.length; i++) {
          const one = some[i] as PubsubDelivery;
          if (answers[i] === 'applied') one.leaseUntil = now + lease;
          if (answers[i] === 'lost') ends.delete(one);
          else ends.set(one, one.leaseUntil);
        }
      }),
    );
    return deliveries.map((one) => ends.get(one));
  }

  // The broker hands out nothing more of a key before what it handed out is settled: a lane pauses by itself.
  pauseLane(): void {}
  resumeLane(): void {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#closing = true;
    this.#pulse?.cancel();
    this.#unwatch();
    this.#look();
    const patience = new AbortController();
    await Promise.race([this.#leave(), sleep(this.#clock, closePatience, patience.signal)]);
    patience.abort();
    this.#delayed.stop();
    this.#sweep.stop();
    for (const reader of this.#readers) reader.stop();
    this.#parts.closed(this);
  }

  /** Looks whether the group stands, and makes again what does not; ends the receiver where that is not ours to do. */
  repair(): Promise<void> {
    this.#repairing ??= this.#repair().finally(() => {
      this.#repairing = undefined;
    });
    return this.#repairing;
  }

  // ReaderHost

  arrived(reader: PullReader, received: readonly ReceivedMessage[], startedAt: number): void {
    if (received.length > 0) this.#sort(reader, received, startedAt);
    if (this.#failing.delete(reader) && this.#failing.size === 0) this.#parts.events.restored();
    if (this.#closed) void this.#giveBackAll();
    this.#look();
  }

  changed(): void {
    this.#look();
  }

  missing(): void {
    void this.repair();
  }

  failed(reader: PullReader, cause: unknown, since: number): void {
    const { source, events, link } = this.#parts;
    // What is deleted is made again, as a rule before anybody need know.
    if ((isTransient(cause) || isNotFound(cause)) && since < passing) return;
    if (this.#failing.has(reader) || this.#closing || link.problem !== undefined) return;
    this.#failing.add(reader);
    if (this.#failing.size > 1) return;
    events.interrupted(
      requestFailure(cause, `${nameOfGroup(source.group)} cannot be read from ${reader.subscription}`),
    );
  }

  /** What may be handed out, what waits for its time, and what is not for this group. */
  #sort(reader: PullReader, received: readonly ReceivedMessage[], startedAt: number): void {
    const { group, lease } = this.#parts.source;
    const now = this.#clock.now();
    const monotonic = this.#clock.monotonic();
    const leaseUntil = startedAt + reader.deadline;
    const ready: PubsubDelivery[] = [];
    const strangers: string[] = [];
    const hops = new Map<number, string[]>();
    for (const native of received) {
      const content = fromMessage(native.message ?? {});
      const wait = (content.deliverAt ?? 0) - now;
      if (content.destination !== undefined && content.destination !== group.name) {
        strangers.push(native.ackId ?? '');
      } else if (wait <= 0 || group.topic.ordered) {
        ready.push(new PubsubDelivery(native, content, this.#laneOf(content), reader.origin, leaseUntil));
      } else if (this.#delayed.takes(wait, content.body.length)) {
        this.#delayed.add({
          native,
          content,
          origin: reader.origin,
          dueAt: monotonic + wait,
          bytes: content.body.length,
          leaseUntil,
        });
      } else {
        const seconds = hopOf(wait);
        const some = hops.get(seconds);
        if (some === undefined) hops.set(seconds, [native.ackId ?? '']);
        else some.push(native.ackId ?? '');
      }
    }
    if (strangers.length > 0) void this.#leases.acknowledge(reader.subscription, strangers);
    for (const [seconds, ackIds] of hops) void this.#leases.hand(reader.subscription, ackIds, seconds);
    if (ready.length === 0) return;
    // Others are to have these sooner than the subscription was made for.
    if (reader.deadline > lease) void this.#setLease(ready);
    else this.#add(ready);
  }

  #add(ready: readonly PubsubDelivery[]): void {
    const readyAt = this.#clock.monotonic();
    for (const one of ready) {
      one.readyAt = readyAt;
      this.#ready.push(one);
    }
    if (ready.length > 0) this.#sweep.at(readyAt + longestIdle);
  }

  async #setLease(deliveries: readonly PubsubDelivery[]): Promise<void> {
    this.#settingLeases++;
    await this.extend(deliveries);
    this.#settingLeases--;
    const least = this.#clock.monotonic() + this.#leastLease;
    // The broker hands the others out again.
    this.#add(deliveries.filter((one) => one.leaseUntil > least));
    if (this.#closed) void this.#giveBackAll();
    this.#look();
  }

  /** Milliseconds that have to be left of a lease: core renews it within a quarter of its length. */
  get #leastLease(): number {
    return this.#parts.source.lease / 4 + renewalTime;
  }

  /** Contract: a lane is an ordered piece. Here that is a key; without order there is one. */
  #laneOf(content: Content): string {
    const { source, place } = this.#parts;
    return source.group.topic.ordered && content.key !== undefined ? content.key : place.subscription;
  }

  #pull(max: number): void {
    const [main, retries] = this.#readers;
    if (retries !== undefined && this.#retriesOwed) {
      this.#retriesOwed = false;
      retries.pull(max);
    } else {
      retries?.pull(max);
      main?.pull(max);
    }
  }

  #collect(max: number): PubsubDelivery[] {
    const due = this.#delayed.takeDue();
    if (due.length > 0) {
      this.#add(
        due.map(
          ({ native, content, origin, leaseUntil }) =>
            new PubsubDelivery(native, content, this.#laneOf(content), origin, leaseUntil),
        ),
      );
    }
    const taken: PubsubDelivery[] = [];
    const short: PubsubDelivery[] = [];
    const now = this.#clock.monotonic();
    const least = now + this.#leastLease;
    while (taken.length < max) {
      const next = this.#ready.shift();
      if (next === undefined) break;
      if (!this.#lives(next)) continue;
      if (next.leaseUntil > least) taken.push(next);
      // One that lay here for too long comes again by itself.
      else if (next.leaseUntil > now + renewalTime) short.push(next);
    }
    if (short.length > 0) void this.#setLease(short);
    return taken;
  }

  #lives({ origin }: PubsubDelivery): boolean {
    return this.#readers.some((reader) => reader.origin === origin);
  }

  /** Whether something may still arrive that was asked for. */
  get #fetching(): boolean {
    return this.#settingLeases > 0 || this.#readers.some((reader) => reader.pulling);
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  #look(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }

  /** Lets others have what nobody here asks for. */
  #giveBackReady(): void {
    const given = this.#ready.takeWhere(() => true);
    if (given.length > 0) void this.#settling.settle(given.map((delivery) => ({ verb: 'abandon', delivery })));
  }

  /** What lies here for long goes to whoever has time for it. */
  #giveBackIdle(): void {
    const before = this.#clock.monotonic() - longestIdle;
    const idle = this.#ready.takeWhere((one) => one.readyAt <= before);
    if (idle.length > 0) {
      const retries = this.#parts.place.retry?.subscription;
      if (idle.some(({ origin }) => origin.subscription === retries)) this.#retriesOwed = true;
      for (const reader of this.#readers) reader.tooMuch();
      void this.#settling.settle(idle.map((delivery) => ({ verb: 'abandon', delivery })));
    }
    const next = this.#ready.peek();
    if (next !== undefined) this.#sweep.at(next.readyAt + longestIdle);
  }

  async #leave(): Promise<void> {
    while (this.#fetching) await this.#change();
    await this.#giveBackAll();
  }

  async #giveBackAll(): Promise<void> {
    const given = this.#ready.takeWhere(() => true);
    const now = this.#clock.monotonic();
    const delayed = Map.groupBy(this.#delayed.takeAll(), ({ origin, dueAt }) => {
      const seconds = Math.max(0, Math.ceil((dueAt - now) / 1_000));
      return `${seconds} ${origin.subscription}`;
    });
    await Promise.all([
      given.length === 0 ? undefined : this.#settling.settle(given.map((delivery) => ({ verb: 'abandon', delivery }))),
      ...[...delayed].map(([to, some]) => {
        const at = to.indexOf(' ');
        const ackIds = some.map(({ native }) => native.ackId ?? '');
        return this.#leases.hand(to.slice(at + 1), ackIds, Number(to.slice(0, at)));
      }),
    ]);
  }

  #armPulse(): void {
    if (this.#closing) return;
    this.#pulse = this.#clock.setTimeout(() => {
      void this.repair().finally(() => this.#armPulse());
    }, pulse);
  }

  async #repair(): Promise<void> {
    const { source, topology, events, logger, link, makes, place } = this.#parts;
    if (this.#closing || link.problem !== undefined) return;
    const { group } = source;
    try {
      const whole = await topology.wholeness(group);
      if (whole.main && whole.retries) return;
      // It may be us who removed it meanwhile.
      if (this.#closing) return;
      if (!makes) {
        const text = `${nameOfGroup(group)}: its topic or subscription was deleted; make it again, then subscribe`;
        this.#fail(new ConfigError('topology', text, { adapter: adapterName }));
        return;
      }
      await topology.makeAgain(group);
      for (const reader of this.#readers) {
        if (reader.subscription === place.subscription ? !whole.main : !whole.retries) reader.begin();
      }
      const what = whole.main ? 'retries' : 'topic or subscription';
      logger.warn(`pubsub: ${nameOfGroup(group)}: its ${what} was deleted, and was made again`);
      const lost = whole.main ? `subscription ${place.retry?.subscription} of its retries` : 'subscription';
      const text = `the ${lost} was deleted and made again; what it had not handed out is gone`;
      events.positionLost(place.subscription, text);
      this.#look();
    } catch (error) {
      // Somebody who deletes while we make it again has to come to an end first.
      const raced = WaybillError.is(error) && isNotFound(error.cause);
      if (WaybillError.is(error, 'CONFIG') && !raced && !this.#closing) this.#fail(error);
      else logger.debug(`pubsub: ${nameOfGroup(group)} cannot be looked at, tried again`, { error });
    }
  }

  #fail(error: WaybillError): void {
    this.#closing = true;
    this.#look();
    this.#parts.events.failed(error);
  }

  async #deadLettersStand(): Promise<WaybillError | undefined> {
    const { topology, source, makes, logger } = this.#parts;
    const { group } = source;
    try {
      if (await topology.hasDeadLetters(group)) return undefined;
      if (!makes) {
        const text = `${nameOfGroup(group)}: its dead letters are missing; make them with provision(): its messages stay unsettled until then`;
        return new ConfigError('topology', text, { adapter: adapterName });
      }
      await topology.makeDeadLetters(group);
      if (!group.temporary)
        logger.warn(`pubsub: ${nameOfGroup(group)}: its dead letters were missing, and were made again`);
      return undefined;
    } catch (error) {
      return requestFailure(error, `the dead letters of ${nameOfGroup(group)} cannot be looked at`);
    }
  }
}

/** Retries stand in a subscription of our own making. */
const retryDeadline = 10_000;
