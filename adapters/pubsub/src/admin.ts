import {
  type Clock,
  type DeadLetterCount,
  type DeadLetterRecord,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  type Logger,
  nameOfGroup,
  type Position,
  type SettleResult,
  type Timer,
} from '@waybill/core/adapter';
import { status, statusOf } from './errors.ts';
import { Leases } from './leases.ts';
import type { Link } from './link.ts';
import { fromMessage, keyOf, type ReceivedMessage, redriveCopy, storedAt, toDeadLetter } from './message.ts';
import type { GroupPlace } from './names.ts';
import type { Parcel, Sender, Sent } from './sender.ts';
import { pullAll, type Survey, surveyFailure } from './survey.ts';
import type { Topology } from './topology.ts';

/** Most messages that are read to be counted. */
const countLimit = 10_000;
/** Most dead letters, and bytes of them, that a scan holds at once; among so many it knows which is older. */
const scanRoom = { count: 2_000, bytes: 32 * 1_024 * 1_024 };
/** Milliseconds that a scan keeps what it read from others at a time. */
const scanLease = 60_000;
/** Milliseconds: our clock and the broker's differ by less, as a rule. */
const skew = 5_000;

export interface AdminParts {
  readonly link: Link;
  readonly sender: Sender;
  readonly topology: Topology;
  readonly survey: Survey;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Looks at groups from outside: how much waits, and what is dead. */
export class Admin {
  readonly #parts: AdminParts;

  constructor(parts: AdminParts) {
    this.#parts = parts;
  }

  /** The service's own numbers are minutes old and elsewhere (Cloud Monitoring); so what is there is counted. */
  async lag(group: GroupRef): Promise<Lag> {
    const { survey, topology, clock } = this.#parts;
    const place = topology.placeOf(group);
    const count = { waiting: 0, delayed: 0 };
    const now = clock.now();
    const pairs = [place, ...(place.retry === undefined ? [] : [place.retry])];
    try {
      await Promise.all(
        pairs.map(({ subscription, topic }) => {
          let seen = 0;
          return survey.visit(subscription, topic, ({ message }) => {
            const { deliverAt = 0, destination } = fromMessage(message ?? {});
            if (destination === undefined || destination === group.name)
              count[deliverAt > now ? 'delayed' : 'waiting']++;
            return ++seen < countLimit;
          });
        }),
      );
    } catch (error) {
      throw surveyFailure(error, `${nameOfGroup(group)} has no lag to tell`);
    }
    // What is in hands counts as waiting: only the hands know.
    return { ...count, inFlight: 0, exact: false };
  }

  async seek(group: GroupRef, to: Position): Promise<void> {
    const { survey, topology } = this.#parts;
    const place = topology.placeOf(group);
    try {
      await survey.seek(place.subscription, place.topic, to);
    } catch (error) {
      throw surveyFailure(error, `${nameOfGroup(group)} cannot be moved`);
    }
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    const { survey, topology } = this.#parts;
    const place = topology.placeOf(group);
    const { subscription, topic } = place.deadLetters;
    const seen = new Set<string>();
    try {
      await survey.visit(subscription, topic, ({ message }) => seen.add(message?.messageId ?? '').size < countLimit);
      return { value: seen.size, exact: false };
    } catch (error) {
      if (statusOf(error) !== status.failedPrecondition) {
        throw surveyFailure(error, `${nameOfGroup(group)} has no dead letters to count`);
      }
    }
    // No snapshot can be made where the oldest is seven days old: so they are taken for a moment.
    return this.#countByTaking(new Scan(this.#parts, group, place));
  }

  async #countByTaking(scan: Scan): Promise<DeadLetterCount> {
    let value = 0;
    try {
      for (let read = Infinity; read > 0 && value < countLimit; value += read) {
        read = (await scan.next(scanRoom.count)).length;
      }
    } finally {
      await scan.close();
    }
    return { value, exact: false };
  }

  async openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    const { topology, link } = this.#parts;
    const place = topology.placeOf(group);
    const { subscription } = place.deadLetters;
    try {
      await link.call((one) => one.subscriber.getSubscription({ subscription }, one.once()));
    } catch (error) {
      throw surveyFailure(error, `${nameOfGroup(group)} has no dead letters to read`);
    }
    return new Scan(this.#parts, group, place);
  }
}

/**
 * Takes dead letters and keeps them until it is closed, when what is left goes back; meanwhile others do not see them.
 * The broker hands them out in no order, so as many as there is room for are read first, and the oldest come first.
 */
class Scan implements DeadLetterScan {
  readonly #parts: AdminParts;
  readonly #group: GroupRef;
  readonly #place: GroupPlace;
  readonly #leases: Leases;
  /** Ack ids of what is neither redriven nor purged. */
  readonly #held = new Map<string, { leaseUntil: number }>();
  /** Ack ids of what the broker has a copy of: it needs only its ack, however often that is tried. */
  readonly #redriven = new Set<string>();
  #unread: ReceivedMessage[] = [];
  /** Messages that were handed on: one that comes again is not another. */
  readonly #seen = new Set<string>();
  /** By the broker's clock: what comes later may be what was redriven and has died again, on and on. */
  readonly #until: number;
  #begun = false;
  #ended = false;
  #renewal: Timer | undefined;
  #closed = false;

  constructor(parts: AdminParts, group: GroupRef, place: GroupPlace) {
    this.#parts = parts;
    this.#group = group;
    this.#place = place;
    this.#leases = new Leases(parts.link);
    this.#until = parts.clock.now() + skew;
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    if (this.#unread.length === 0 && !this.#ended) {
      try {
        await this.#read();
      } catch (error) {
        throw surveyFailure(error, `dead letters of ${nameOfGroup(this.#group)} cannot be read`);
      }
    }
    return this.#unread.splice(0, max).map((native) => {
      this.#seen.add(native.message?.messageId ?? '');
      return toDeadLetter(native.message ?? {}, native);
    });
  }

  async redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(records.length).fill('lost');
    const ours: number[] = [];
    for (let i = 0; i < records.length; i++) if (this.#holds(records[i] as DeadLetterRecord)) ours.push(i);
    const isStored = (i: number): boolean => this.#redriven.has(ackIdOf(records[i] as DeadLetterRecord));
    const copied = ours.filter((i) => !isStored(i));
    const sent = await this.#parts.sender.send(copied.map((i) => this.#parcelOf(records[i] as DeadLetterRecord)));
    for (let n = 0; n < copied.length; n++) {
      const one = sent[n] as Sent;
      const i = copied[n] as number;
      if (one.status === 'stored') this.#redriven.add(ackIdOf(records[i] as DeadLetterRecord));
      else results[i] = one.error;
    }
    const stored = ours.filter(isStored);
    const acked = await this.#ack(stored.map((i) => records[i] as DeadLetterRecord));
    for (let n = 0; n < stored.length; n++) results[stored[n] as number] = acked[n] as SettleResult;
    return results;
  }

  async purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(records.length).fill('lost');
    const ours: number[] = [];
    for (let i = 0; i < records.length; i++) if (this.#holds(records[i] as DeadLetterRecord)) ours.push(i);
    const acked = await this.#ack(ours.map((i) => records[i] as DeadLetterRecord));
    for (let n = 0; n < ours.length; n++) results[ours[n] as number] = acked[n] as SettleResult;
    return results;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#ended = true;
    this.#unread = [];
    this.#renewal?.cancel();
    const left = [...this.#held.keys()];
    this.#held.clear();
    const { subscription } = this.#place.deadLetters;
    const redriven = left.filter((ackId) => this.#redriven.has(ackId));
    const given = left.filter((ackId) => !this.#redriven.has(ackId));
    await Promise.all([
      this.#leases.hand(subscription, given, 0),
      redriven.length === 0 ? undefined : this.#leases.acknowledge(subscription, redriven),
    ]);
  }

  async #read(): Promise<void> {
    const { link } = this.#parts;
    const { subscription } = this.#place.deadLetters;
    const read = new Map<string, ReceivedMessage>();
    let bytes = 0;
    let late = 0;
    const enough = (): boolean => read.size >= scanRoom.count || bytes >= scanRoom.bytes || late >= scanRoom.count;
    const visit = (received: ReceivedMessage): boolean => {
      const id = received.message?.messageId ?? '';
      if (this.#seen.has(id)) return true;
      // The first read is over before anything of it can die again.
      if (this.#begun && storedAt(received.message ?? {}) > this.#until) {
        late++;
        return !enough();
      }
      const before = read.get(id);
      if (before === undefined) bytes += received.message?.data?.length ?? 0;
      else this.#held.delete(before.ackId ?? '');
      read.set(id, received);
      return !enough();
    };
    // At once: what comes back while this still reads would be read for ever.
    await pullAll(link, subscription, visit, (received) => this.#keep(received.map(({ ackId }) => ackId ?? '')));
    this.#begun = true;
    this.#ended = read.size === 0 || !enough();
    this.#unread = [...read.values()].sort(older);
    this.#renewLater();
  }

  async #keep(ackIds: readonly string[]): Promise<void> {
    const leaseUntil = this.#parts.clock.monotonic() + scanLease;
    const { subscription } = this.#place.deadLetters;
    const results = await this.#leases.setDeadline(subscription, ackIds, scanLease / 1_000);
    for (let i = 0; i < ackIds.length; i++) {
      if (results[i] === 'applied') this.#held.set(ackIds[i] as string, { leaseUntil });
    }
  }

  #renewLater(): void {
    this.#renewal?.cancel();
    if (this.#held.size === 0 || this.#closed) return;
    this.#renewal = this.#parts.clock.setTimeout(() => {
      // Those that are settled meanwhile are not held any more.
      const held = [...this.#held.keys()];
      void this.#leases.setDeadline(this.#place.deadLetters.subscription, held, scanLease / 1_000).then((results) => {
        const leaseUntil = this.#parts.clock.monotonic() + scanLease * (2 / 3);
        for (let i = 0; i < held.length; i++) {
          const one = this.#held.get(held[i] as string);
          if (one !== undefined && results[i] === 'applied') one.leaseUntil = leaseUntil;
        }
        this.#renewLater();
      });
    }, scanLease / 3);
  }

  #holds(record: DeadLetterRecord): boolean {
    const held = this.#held.get(ackIdOf(record));
    return held !== undefined && held.leaseUntil > this.#parts.clock.monotonic();
  }

  #parcelOf(record: DeadLetterRecord): Parcel {
    const { retry, topic } = this.#place;
    const message = (record.native as ReceivedMessage).message ?? {};
    if (retry !== undefined) return { topic: retry.topic, message: redriveCopy(message, undefined) };
    // Behind what its key has waiting (ORD-04), which only the topic itself knows; other groups pass it over.
    const copy = redriveCopy(message, this.#group.name);
    const key = keyOf(copy);
    return { topic, message: this.#group.topic.ordered && key !== undefined ? { ...copy, orderingKey: key } : copy };
  }

  async #ack(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    if (records.length === 0) return [];
    const ackIds = records.map(ackIdOf);
    const results = await this.#leases.acknowledge(this.#place.deadLetters.subscription, ackIds);
    for (let i = 0; i < ackIds.length; i++) if (results[i] === 'applied') this.#held.delete(ackIds[i] as string);
    return results;
  }
}

const ackIdOf = (record: DeadLetterRecord): string => (record.native as ReceivedMessage).ackId ?? '';

/** By publish time, then by the broker's ids, which grow. */
function older(a: ReceivedMessage, b: ReceivedMessage): number {
  const [one, other] = [a.message ?? {}, b.message ?? {}];
  const [first, second] = [one.messageId ?? '', other.messageId ?? ''];
  return (
    storedAt(one) - storedAt(other) || first.length - second.length || (first < second ? -1 : first > second ? 1 : 0)
  );
}
