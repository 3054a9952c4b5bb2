import type { Lag } from '../../adapter.ts';
import { Heap } from '../../heap.ts';
import { nameOfGroup } from '../../names.ts';
import type { DeadLetterDetails } from '../../wire.ts';
import { type Backlog, PlainBacklog } from './backlog.ts';
import { DeadLetters } from './dead-letters.ts';
import { KeyedBacklog } from './keyed-backlog.ts';
import { Member, type MemberEvents } from './member.ts';
import { type Copy, copyOf } from './message.ts';
import type { Topic } from './topic.ts';

/** A copy that waits for its time. */
interface Delayed {
  readonly copy: Copy;
  /** In `clock.monotonic()`. */
  readonly at: number;
}

/**
 * A consumer group: it gets every message of its topic once, and its members share them.
 *
 *     backlog ──take──▶ a member's hands ──▶ settled, or dead letter
 *        ▲                   │
 *        └── delayed, alone ─┘  given back, abandoned, lease ended
 */
export class Group {
  readonly topic: Topic;
  readonly name: string;
  readonly temporary: boolean;
  readonly deadLetters = new DeadLetters();
  /** True once it has been deleted. */
  removed = false;
  /** When it goes unless its client comes back, in `clock.monotonic()`: for a broadcast's group (SUB-07). */
  removeAt = Number.POSITIVE_INFINITY;
  readonly #backlog: Backlog;
  readonly #delayed = new Heap<Delayed>((a, b) => a.at < b.at);
  readonly #alone = new Set<Copy>();
  readonly #members = new Set<Member>();
  /** Members that wait for deliveries, the longest first, and for how many. */
  readonly #waiting = new Map<Member, number>();
  #positionLost: string | undefined;

  constructor(topic: Topic, name: string, temporary: boolean, start: number) {
    this.topic = topic;
    this.name = name;
    this.temporary = temporary;
    this.#backlog = topic.ordered
      ? new KeyedBacklog(topic.log, start, topic.lanes)
      : new PlainBacklog(topic.log, start);
  }

  /** The topic's log is kept from here on. */
  get next(): number {
    return this.#backlog.next;
  }

  get lag(): Lag {
    let inFlight = 0;
    for (const member of this.#members) inFlight += member.inFlight;
    return {
      waiting: this.#backlog.size + this.#alone.size,
      delayed: this.#delayed.size + this.topic.delayed,
      inFlight,
      exact: true,
    };
  }

  // Members.

  /** @param lease milliseconds that a member may be silent about a delivery */
  join(lease: number, events: MemberEvents): Member {
    const member = new Member(this, lease, events);
    this.#members.add(member);
    if (this.#positionLost !== undefined) events.positionLost(this.#positionLost);
    this.#positionLost = undefined;
    return member;
  }

  left(member: Member): void {
    this.#waiting.delete(member);
    if (member.gone) this.#members.delete(member);
  }

  /** `events.dealt` is called once, with 1 to `max` deliveries, as soon as there are some. */
  wait(member: Member, max: number): void {
    this.#waiting.set(member, max);
  }

  stopWaiting(member: Member): void {
    this.#waiting.delete(member);
  }

  /** Deals to the members that wait: to each its share, so that the first does not take all. */
  serve(): void {
    for (const [member, max] of this.#waiting) {
      if (this.#backlog.size === 0) return;
      const share = Math.ceil(this.#backlog.size / this.#waiting.size);
      const dealt = member.take(Math.min(max, share));
      if (dealt.length === 0) continue;
      this.#waiting.delete(member);
      member.events.dealt(dealt);
    }
  }

  // What members do with copies. Whoever brings copies back calls `serve` when the whole batch is done.

  take(paused: ReadonlySet<number>): Copy | undefined {
    return this.#backlog.take(paused);
  }

  takeAlone(): Copy | undefined {
    for (const copy of this.#alone) {
      this.#alone.delete(copy);
      return copy;
    }
    return undefined;
  }

  release(copy: Copy): void {
    this.#backlog.release(copy);
  }

  restore(copy: Copy): void {
    if (copy.alone) this.#alone.add(copy);
    else this.#backlog.restore(copy);
  }

  /** On an ordered topic the copy's key waits with it. */
  restoreAfter(copy: Copy, after: number): void {
    if (after <= 0) {
      this.restore(copy);
      return;
    }
    const { broker } = this.topic;
    const at = broker.clock.monotonic() + after;
    this.#delayed.push({ copy, at });
    broker.wakeAt(at);
  }

  bury(copy: Copy, details: DeadLetterDetails): void {
    this.deadLetters.add(copy, details);
    this.#backlog.release(copy);
  }

  /** Puts a dead letter behind what its key has waiting, as a message that was never tried (DLQ-04). */
  redrive(entry: string): boolean {
    const letter = this.deadLetters.take(entry);
    if (letter === undefined) return false;
    this.#backlog.append({ ...copyOf(letter.copy.message), expiresAt: undefined });
    return true;
  }

  // The group as a whole.

  /** Does what is due; returns when to look again. */
  tick(now: number): number {
    let next = this.removeAt;
    for (const member of this.#members) {
      next = Math.min(next, member.expire(now));
      if (member.gone) this.#members.delete(member);
    }
    for (let first = this.#delayed.peek(); first !== undefined; first = this.#delayed.peek()) {
      if (first.at > now) {
        next = Math.min(next, first.at);
        break;
      }
      this.#delayed.pop();
      this.restore(first.copy);
    }
    this.serve();
    return next;
  }

  /**
   * Reads from this position on. Retries that are not due stay unless they are read again, and so does what members
   * have in hand. With `skip` what waits before the position is dropped.
   */
  moveTo(position: number, skip: boolean): void {
    const back = [...this.#members].flatMap((member) => member.rewound(position));
    const again = (copy: Copy): boolean => copy.message.position >= position;
    for (const { copy } of this.#delayed.takeWhere((one) => again(one.copy))) this.#backlog.release(copy);
    for (const copy of this.#alone) {
      if (!skip && !again(copy)) continue;
      this.#alone.delete(copy);
      this.#backlog.release(copy);
    }
    this.#backlog.moveTo(position, skip);
    for (const copy of back) this.restore(copy);
    this.serve();
  }

  /** What was not read yet before this position is no longer there (RET-02). */
  jumpTo(position: number): void {
    const from = this.#backlog.next;
    if (from >= position) return;
    this.#backlog.moveTo(position, false);
    const what = `${nameOfGroup(this)} lost ${position - from} messages that were trimmed before they were read: it went from position ${from} to ${position}`;
    const present = [...this.#members].filter((member) => !member.left);
    if (present.length === 0) this.#positionLost = what; // for the next who joins
    for (const member of present) member.events.positionLost(what);
  }

  /** Called once it is out of its topic. */
  remove(): void {
    this.removed = true;
    const members = [...this.#members];
    this.#members.clear();
    this.#waiting.clear();
    for (const member of members) member.events.removed();
  }
}
