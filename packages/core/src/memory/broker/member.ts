import type { Delivery } from '../../adapter.ts';
import type { DeadLetterDetails } from '../../wire.ts';
import type { Group } from './group.ts';
import type { Copy } from './message.ts';

/** A delivery of this broker: its token says which handing-out of the message it is. */
export interface MemoryDelivery extends Delivery {
  readonly token: number;
}

/** What the broker tells a member. */
export interface MemberEvents {
  /** There is something for a member that waits. */
  dealt(deliveries: readonly MemoryDelivery[]): void;
  /** Everything in hand of these lanes belongs to others now. */
  lost(lanes: readonly string[], why: string): void;
  positionLost(what: string): void;
  /** The group was deleted. */
  removed(): void;
}

/** Nobody listens any more. */
const nobody: MemberEvents = { dealt() {}, lost() {}, positionLost() {}, removed() {} };

interface Lease {
  readonly copy: Copy;
  until: number;
}

/** One member of a group, and what it has in hand. */
export class Member {
  readonly group: Group;
  events: MemberEvents;
  /** Milliseconds. */
  readonly #lease: number;
  /** By token, in the order in which they end: all leases of a member are equally long, and a renewed one goes last. */
  readonly #leases = new Map<number, Lease>();
  readonly #paused = new Set<number>();
  /** Whether it takes no more; leases it still has run on. */
  left = false;

  constructor(group: Group, lease: number, events: MemberEvents) {
    this.group = group;
    this.events = events;
    this.#lease = lease;
  }

  get inFlight(): number {
    return this.#leases.size;
  }

  /** Whether it has left and nothing of it is to be kept. */
  get gone(): boolean {
    return this.left && this.#leases.size === 0;
  }

  take(max: number): MemoryDelivery[] {
    const until = this.#leaseEnd();
    const taken: MemoryDelivery[] = [];
    while (taken.length < max) {
      const copy = this.group.take(this.#paused);
      if (copy === undefined) break;
      taken.push(this.#lend(copy, until));
    }
    return taken;
  }

  takeAlone(): MemoryDelivery | undefined {
    const copy = this.group.takeAlone();
    return copy && this.#lend(copy, this.#leaseEnd());
  }

  // Settling. `false`: the delivery is not this member's any more, and nothing was done (GUAR-02).

  ack(token: number): boolean {
    const copy = this.#end(token);
    if (copy === undefined) return false;
    this.group.release(copy);
    return true;
  }

  giveBack(token: number, after: number, attempt: number, alone: boolean): boolean {
    const copy = this.#end(token);
    if (copy === undefined) return false;
    copy.attempt = attempt;
    copy.deliveries = 0;
    copy.alone = alone;
    this.group.restoreAfter(copy, after);
    return true;
  }

  deadLetter(token: number, details: DeadLetterDetails): boolean {
    const copy = this.#end(token);
    if (copy === undefined) return false;
    this.group.bury(copy, details);
    return true;
  }

  abandon(token: number): boolean {
    const copy = this.#end(token);
    if (copy === undefined) return false;
    this.group.restore(copy);
    return true;
  }

  /** The new end of the lease; `undefined` where it is lost. */
  extend(token: number): number | undefined {
    const lease = this.#leases.get(token);
    if (lease === undefined) return undefined;
    lease.until = this.#leaseEnd();
    this.#leases.delete(token);
    this.#leases.set(token, lease);
    return lease.until;
  }

  /** Takes back what was kept for too long; returns when the next lease ends. */
  expire(now: number): number {
    for (const [token, lease] of this.#leases) {
      if (lease.until > now) return lease.until;
      this.#leases.delete(token);
      this.group.restore(lease.copy);
    }
    return Number.POSITIVE_INFINITY;
  }

  /**
   * The group reads again from this position on: what is in hand from there on is dropped. A lane is lost as a whole:
   * what else is in hand of those lanes is returned, to be restored.
   */
  rewound(position: number): Copy[] {
    const lanes = new Set<number>();
    for (const { copy } of this.#leases.values()) {
      if (copy.message.position >= position) lanes.add(copy.message.lane);
    }
    const back: Copy[] = [];
    if (lanes.size === 0) return back;
    for (const [token, { copy }] of this.#leases) {
      if (!lanes.has(copy.message.lane)) continue;
      this.#leases.delete(token);
      if (copy.message.position >= position) this.group.release(copy);
      else back.push(copy);
    }
    this.events.lost(
      [...lanes].map((lane) => this.group.topic.laneName(lane)),
      'the group was moved to another position',
    );
    return back;
  }

  pause(lane: number): void {
    this.#paused.add(lane);
  }

  resume(lane: number): void {
    if (this.#paused.delete(lane)) this.group.serve();
  }

  /** Takes no more. What it still has in hand is left to the leases. */
  leave(): void {
    this.left = true;
    this.events = nobody;
    this.group.left(this);
  }

  #leaseEnd(): number {
    const { broker } = this.group.topic;
    const end = broker.clock.monotonic() + this.#lease;
    broker.wakeAt(end);
    return end;
  }

  #lend(copy: Copy, until: number): MemoryDelivery {
    const { topic } = this.group;
    const { content, position, lane, storedAt } = copy.message;
    const token = topic.broker.nextToken();
    copy.deliveries++;
    this.#leases.set(token, { copy, until });
    return {
      token,
      lane: topic.laneName(lane),
      id: content.id,
      key: content.key,
      type: content.type,
      contentType: content.contentType,
      // A copy, as from the wire: what one handler does to its bytes, no other sees.
      body: new Uint8Array(content.body),
      headers: content.headers,
      // A foreign message has the broker's own time (SUB-09).
      publishedAt: content.publishedAt ?? storedAt,
      expiresAt: copy.expiresAt,
      attempt: copy.attempt,
      deliveries: copy.deliveries,
      alone: copy.alone,
      position: String(position),
      leaseUntil: until,
      native: copy.message,
    };
  }

  /** Ends a lease early. */
  #end(token: number): Copy | undefined {
    const lease = this.#leases.get(token);
    if (lease === undefined) return undefined;
    this.#leases.delete(token);
    return lease.copy;
  }
}
