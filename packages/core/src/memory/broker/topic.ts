import { Heap } from '../../heap.ts';
import { laneOf } from '../../wire.ts';
import type { Broker } from './broker.ts';
import { Group } from './group.ts';
import { Log } from './log.ts';
import { type Content, ownContent } from './message.ts';

/** A delayed publish. */
interface Delayed {
  readonly content: Content;
  /** In `clock.monotonic()`. */
  readonly at: number;
  /** Two of one time are stored in the order of their publishes. */
  readonly order: number;
}

/** A topic: a log of messages, and the groups that read it. */
export class Topic {
  readonly broker: Broker;
  readonly name: string;
  readonly ordered: boolean;
  /** How many ordered pieces it has; a topic without order is one. */
  readonly lanes: number;
  readonly log = new Log();
  readonly groups = new Map<string, Group>();
  readonly #delayed = new Heap<Delayed>((a, b) => a.at < b.at || (a.at === b.at && a.order < b.order));
  readonly #laneNames: readonly string[];
  #order = 0;

  constructor(broker: Broker, name: string, lanes: number | undefined) {
    this.broker = broker;
    this.name = name;
    this.ordered = lanes !== undefined;
    this.lanes = lanes ?? 1;
    this.#laneNames = Array.from({ length: this.lanes }, (_, lane) => String(lane));
  }

  /** Publishes that wait for their time. */
  get delayed(): number {
    return this.#delayed.size;
  }

  get laneNames(): readonly string[] {
    return this.#laneNames;
  }

  laneName(lane: number): string {
    return this.#laneNames[lane] as string;
  }

  /**
   * Stores a message and returns its position; one with a time to come is stored then, and has no position before.
   * Call `serve` after a batch.
   */
  publish(given: Content, deliverAt: number | undefined): number | undefined {
    const content = ownContent(given);
    const { clock } = this.broker;
    const wait = deliverAt === undefined ? 0 : deliverAt - clock.now();
    if (wait <= 0) return this.#store(content);
    const at = clock.monotonic() + wait;
    this.#delayed.push({ content, at, order: this.#order++ });
    this.broker.wakeAt(at);
    return undefined;
  }

  /** Hands what was stored to members that wait. */
  serve(): void {
    for (const group of this.groups.values()) group.serve();
    this.trim();
  }

  /** Forgets what every group has read, as far as retention allows. */
  trim(): void {
    let floor = this.log.end;
    for (const group of this.groups.values()) floor = Math.min(floor, group.next);
    this.log.trim(floor, this.broker.retention);
  }

  /** Forgets everything, read or not, and lets the groups know. */
  forget(): void {
    this.log.trim(this.log.end, { messages: 0, bytes: 0 });
    for (const group of this.groups.values()) group.jumpTo(this.log.first);
  }

  addGroup(name: string, temporary: boolean, start: number): Group {
    const group = new Group(this, name, temporary, start);
    this.groups.set(name, group);
    return group;
  }

  removeGroup(name: string): void {
    const group = this.groups.get(name);
    this.groups.delete(name);
    group?.remove();
  }

  /** Does what is due; returns when to look again. */
  tick(now: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (let first = this.#delayed.peek(); first !== undefined; first = this.#delayed.peek()) {
      if (first.at > now) {
        next = first.at;
        break;
      }
      this.#delayed.pop();
      this.#store(first.content);
    }
    for (const group of this.groups.values()) {
      if (group.removeAt <= now) this.removeGroup(group.name);
      else next = Math.min(next, group.tick(now));
    }
    return next;
  }

  #store(content: Content): number {
    const position = this.log.end;
    // A foreign message of an ordered topic may have no key; then any lane is right.
    const lane = content.key === undefined ? position % this.lanes : this.ordered ? laneOf(content.key, this.lanes) : 0;
    this.log.append(content, lane, this.broker.clock.now());
    return position;
  }
}
