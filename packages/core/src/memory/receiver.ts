import type { Delivery, GroupRef, Receiver, ReceiverEvents, Settlement, SettleResult, Source } from '../adapter.ts';
import { type ConnectionError, LeaseLostError, type WaybillError } from '../errors.ts';
import { nameOfGroup } from '../names.ts';
import type { Link } from './broker/link.ts';
import type { Member, MemoryDelivery } from './broker/member.ts';
import { noGroup } from './errors.ts';
import type { Topology } from './topology.ts';

/** A `receive` that waits. */
interface Waiting {
  resolve(deliveries: readonly Delivery[]): void;
  reject(error: WaybillError): void;
}

export interface ReceiverOptions {
  readonly topology: Topology;
  readonly source: Source;
  readonly events: ReceiverEvents;
  /** Whether a group that was deleted is made again (LIFE-07). */
  readonly makeGroups: boolean;
  /** Called once, at `close`. */
  readonly closed: (receiver: MemoryReceiver) => void;
}

/** One member of a group, as the bus holds it. */
export class MemoryReceiver implements Receiver {
  readonly #options: ReceiverOptions;
  readonly #ref: GroupRef;
  readonly #link: Link;
  readonly #events: ReceiverEvents;
  #member: Member;
  #waiting: Waiting | undefined;
  #failure: WaybillError | undefined;
  #open = true;

  /** @throws ConfigError when there is no such group */
  constructor(options: ReceiverOptions) {
    this.#options = options;
    this.#ref = options.source.group;
    this.#link = options.topology.link;
    this.#events = options.events;
    this.#member = this.#join();
  }

  receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    const problem = this.#problem();
    if (problem !== undefined) return Promise.reject(problem);
    if (finish.aborted || !this.#open) return Promise.resolve([]);
    const taken = this.#member.take(max);
    if (taken.length > 0) {
      this.#member.group.topic.trim();
      return Promise.resolve(taken);
    }
    return new Promise((resolve, reject) => {
      const finished = (): void => this.#stopWaiting()?.resolve([]);
      finish.addEventListener('abort', finished, { once: true });
      const done = (): void => finish.removeEventListener('abort', finished);
      this.#waiting = {
        resolve(deliveries) {
          done();
          resolve(deliveries);
        },
        reject(error) {
          done();
          reject(error);
        },
      };
      this.#member.group.wait(this.#member, max);
    });
  }

  async receiveAlone(): Promise<Delivery | undefined> {
    const problem = this.#problem();
    if (problem !== undefined) throw problem;
    return this.#open ? this.#member.takeAlone() : undefined;
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    this.#link.check();
    const results = batch.map((settlement): SettleResult => (this.#settleOne(settlement) ? 'applied' : 'lost'));
    this.#member.group.serve();
    return results;
  }

  async extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    this.#link.check();
    return deliveries.map((delivery) => this.#member.extend(tokenOf(delivery)));
  }

  pauseLane(lane: string): void {
    this.#member.pause(Number(lane));
  }

  resumeLane(lane: string): void {
    this.#member.resume(Number(lane));
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    this.#stopWaiting()?.resolve([]);
    const { group } = this.#member;
    this.#member.leave();
    if (group.temporary && this.#link.open) this.#link.removeTemporary(group);
    this.#options.closed(this);
  }

  // What happens to the connection.

  cut(error: ConnectionError): void {
    this.#stopWaiting()?.reject(error);
    this.#events.interrupted(error);
  }

  mended(): void {
    if (this.#member.group.removed) this.#groupRemoved();
    if (this.#failure === undefined) this.#events.restored();
  }

  #join(): Member {
    const group = this.#options.topology.group(this.#ref);
    const member = group.join(this.#options.source.lease, {
      dealt: (deliveries) => this.#stopWaiting()?.resolve(deliveries),
      lost: (lanes, why) => this.#events.lost(lanes, this.#lost(why)),
      positionLost: (what) => this.#events.positionLost(group.topic.laneName(0), what),
      removed: () => {
        if (this.#link.open) this.#groupRemoved();
      },
    });
    this.#events.assigned(group.topic.laneNames);
    return member;
  }

  /** The group was deleted under us: it is made again, or the receiver ends (LIFE-07). */
  #groupRemoved(): void {
    const { group } = this.#member;
    this.#stopWaiting()?.resolve([]);
    this.#events.lost(group.topic.laneNames, this.#lost('the group was deleted'));
    if (this.#options.makeGroups) {
      const made = this.#options.topology.makeGroup(this.#ref, 'latest');
      this.#member = this.#join();
      const what = `${nameOfGroup(made)} was deleted and made again; what it had not settled is gone`;
      this.#events.positionLost(made.topic.laneName(0), what);
    } else {
      this.#failure = noGroup(this.#link.broker.target, group.topic.name, group.name);
      this.#events.failed(this.#failure);
    }
  }

  #settleOne(settlement: Settlement): boolean {
    const token = tokenOf(settlement.delivery);
    switch (settlement.verb) {
      case 'ack':
        return this.#member.ack(token);
      case 'giveBack':
        return this.#member.giveBack(token, settlement.after, settlement.attempt, settlement.alone === true);
      case 'deadLetter':
        return this.#member.deadLetter(token, settlement.details);
      case 'abandon':
        return this.#member.abandon(token);
    }
  }

  #problem(): WaybillError | undefined {
    return this.#failure ?? this.#link.problem;
  }

  #stopWaiting(): Waiting | undefined {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    this.#member.group.stopWaiting(this.#member);
    return waiting;
  }

  #lost(why: string): LeaseLostError {
    const { topic, name } = this.#ref;
    return new LeaseLostError(`topic "${topic.name}", group "${name}": ${why}`, { adapter: 'memory' });
  }
}

// Every delivery that comes back to a receiver is one that it gave out.
const tokenOf = (delivery: Delivery): number => (delivery as MemoryDelivery).token;
