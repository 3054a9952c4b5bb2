import {
  Alarm,
  type Delivery,
  type GroupRef,
  LeaseLostError,
  laneOf,
  nameOfGroup,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  type WaybillError,
} from '@waybill/core/adapter';
import { type CopyRow, noneDue, type Taken, take, takeAlone, viewGroup, type Wish } from './backlog.ts';
import type { Database } from './database.ts';
import { adapterName } from './errors.ts';
import { contentOf } from './message.ts';
import { type Handle, renew, settle } from './settling.ts';
import type { Store } from './store.ts';
import type { GroupRow, Topology } from './topology.ts';

/** A delivery of this broker: which handing-out of which copy it is. */
interface SqliteDelivery extends Delivery, Handle {
  readonly key: string | undefined;
}

/** What `message.native` is. */
export interface SqliteMessage {
  readonly position: number;
  /** Milliseconds since the epoch. */
  readonly storedAt: number;
}

/** Bodies that are handed out at once, at most: they are read while the event loop waits. */
const bytesAtOnce = 8 * 1_024 * 1_024;

/** Milliseconds: timers sleep with the machine and know of no jump of its clock, so what is due is looked at again. */
const longestWait = 30_000;

export interface ReceiverOptions {
  readonly store: Store;
  readonly topology: Topology;
  readonly source: Source;
  readonly events: ReceiverEvents;
  /** Whether a group that was deleted is made again (LIFE-07). */
  readonly makeGroups: boolean;
  /** Called once, at `close`. */
  readonly closed: (receiver: SqliteReceiver) => void;
}

/** One member of a group, as the bus holds it. */
export class SqliteReceiver implements Receiver {
  readonly #options: ReceiverOptions;
  readonly #ref: GroupRef;
  readonly #store: Store;
  readonly #events: ReceiverEvents;
  readonly #lanes: readonly string[];
  readonly #alarm: Alarm;
  readonly #stopListening: () => void;
  #group: GroupRow;
  /** Ends the wait of a `receive`. */
  #wake: (() => void) | undefined;
  #failure: WaybillError | undefined;
  #open = true;
  /** What the store had counted when no message was set apart, and until when none can come back. */
  #noneAlone = { changes: -1, until: 0 };

  /** @throws ConfigError when there is no such group */
  constructor(options: ReceiverOptions, database: Database) {
    const { store, topology, source, events } = options;
    this.#options = options;
    this.#ref = source.group;
    this.#store = store;
    this.#events = events;
    this.#group = topology.group(database, this.#ref);
    const { ordered, lanes } = topology.topic(database, this.#ref.topic.name);
    this.#lanes = Array.from({ length: ordered === 1 ? lanes : 1 }, (_, lane) => String(lane));
    this.#alarm = new Alarm(store.clock, () => this.#wakeUp());
    this.#stopListening = store.listen({
      interrupted: (error) => {
        events.interrupted(error);
        this.#wakeUp();
      },
      restored: (replaced) => this.#restored(replaced),
      changed: (topic) => {
        if (topic === undefined || topic === this.#group.topic) this.#wakeUp();
      },
    });
    events.assigned(this.#lanes);
  }

  get group(): GroupRow {
    return this.#group;
  }

  async receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    while (this.#open && !finish.aborted) {
      this.#check();
      const now = this.#store.clock.now();
      const view = this.#store.read((database) => viewGroup(database, this.#group.id));
      if (view === undefined) {
        await this.#groupRemoved();
        continue;
      }
      this.#noticeSeek(view.epoch);
      if (view.ready === 0 && view.later === 0 && view.next >= view.log_end && view.due > now) {
        await this.#wait(view.due === noneDue ? noneDue : Math.min(view.due - now, longestWait), finish);
        continue;
      }
      const deliveries = await this.#take(max, take);
      if (deliveries.length > 0) return deliveries;
    }
    return [];
  }

  async receiveAlone(): Promise<Delivery | undefined> {
    this.#check();
    const { changes, clock } = this.#store;
    const now = clock.now();
    if (!this.#open || (this.#noneAlone.changes === changes && now < this.#noneAlone.until)) return undefined;
    const view = this.#store.read((database) => viewGroup(database, this.#group.id));
    if (view === undefined) return undefined;
    if (view.alone === 0 && view.due > now) {
      this.#noneAlone = { changes, until: view.due };
      return undefined;
    }
    return (await this.#take(1, takeAlone))[0];
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const { id: group, topic } = this.#group;
    const { ordered } = this.#ref.topic;
    const place = { group, topic, ordered, now: this.#store.clock.now() };
    return await this.#store.write((database) => settle(database, place, batch, ({ delivery }) => handleOf(delivery)));
  }

  async extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    const { clock } = this.#store;
    const { lease } = this.#options.source;
    let until = 0;
    const renewed = await this.#store.writeLoosely((database) => {
      until = clock.monotonic() + lease;
      return renew(database, deliveries.map(handleOf), Math.ceil(clock.now() + lease));
    });
    return renewed.map((ours) => (ours ? until : undefined));
  }

  // Never called: what waits behind its key stays in the file, so nothing piles up in core.
  pauseLane(): void {}
  resumeLane(): void {}

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    this.#stopListening();
    this.#alarm.stop();
    this.#wakeUp();
    this.#options.closed(this);
  }

  async #take(
    max: number,
    how: (database: Database, group: number, wish: Wish) => Taken | undefined,
  ): Promise<SqliteDelivery[]> {
    const { clock } = this.#store;
    const { lease, prefetchBytes } = this.#options.source;
    const { id } = this.#group;
    let leaseUntil = 0;
    const taken = await this.#store.writeLoosely((database) => {
      const now = clock.now();
      leaseUntil = clock.monotonic() + lease;
      return how(database, id, {
        max,
        maxBytes: Math.min(bytesAtOnce, prefetchBytes),
        now,
        until: Math.ceil(now + lease),
      });
    });
    if (taken === undefined) return [];
    if (taken.lost !== undefined) this.#tellLost(taken.lost);
    return taken.copies.map((copy) => this.#deliveryOf(copy, leaseUntil));
  }

  #deliveryOf(copy: CopyRow, leaseUntil: number): SqliteDelivery {
    const { number, token, position, attempt, deliveries, stored_at: storedAt } = copy;
    const content = contentOf(copy, storedAt);
    const native: SqliteMessage = { position, storedAt };
    return {
      number,
      token,
      lane: this.#laneOf(content.key, position),
      id: content.id,
      key: content.key,
      type: content.type,
      contentType: content.contentType,
      body: content.body,
      headers: content.headers,
      publishedAt: content.publishedAt,
      expiresAt: copy.forever === 1 ? undefined : content.expiresAt,
      attempt,
      deliveries,
      alone: copy.alone === 1,
      position: String(position),
      leaseUntil,
      native,
    };
  }

  /** A foreign message of an ordered topic may have no key; then any lane is right. */
  #laneOf(key: string | undefined, position: number): string {
    const lanes = this.#lanes.length;
    const lane = lanes === 1 ? 0 : key === undefined ? position % lanes : laneOf(key, lanes);
    return this.#lanes[lane] as string;
  }

  #wait(ms: number, finish: AbortSignal): Promise<void> {
    this.#alarm.at(this.#store.clock.monotonic() + ms);
    return new Promise((resolve) => {
      const done = (): void => {
        finish.removeEventListener('abort', done);
        this.#wake = undefined;
        this.#alarm.off();
        resolve();
      };
      finish.addEventListener('abort', done, { once: true });
      this.#wake = done;
    });
  }

  #wakeUp(): void {
    this.#wake?.();
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#store.check();
  }

  /** The group was moved: what was in hand is read again, or skipped. */
  #noticeSeek(epoch: number): void {
    if (epoch === this.#group.epoch) return;
    this.#group = { ...this.#group, epoch };
    this.#events.lost(this.#lanes, this.#lost('the group was moved to another position'));
  }

  #restored(replaced: boolean): void {
    if (replaced) {
      // It may be an older copy of the file, in which what we have in hand was never handed out.
      this.#events.lost(this.#lanes, this.#lost('the file was replaced by another one'));
      try {
        const group = this.#store.read((database) => this.#options.topology.findGroup(database, this.#ref));
        if (group !== undefined) this.#group = group;
      } catch {
        return; // away again, and back again later
      }
    }
    if (this.#failure === undefined) this.#events.restored();
    this.#wakeUp();
  }

  /** The group was deleted under us: it is made again, or the receiver ends (LIFE-07). */
  async #groupRemoved(): Promise<void> {
    const { topology, makeGroups } = this.#options;
    const there = this.#store.read((database) => topology.findGroup(database, this.#ref));
    if (there === undefined && !makeGroups) {
      this.#events.lost(this.#lanes, this.#lost('the group was deleted'));
      this.#failure = topology.noGroup(this.#ref);
      this.#events.failed(this.#failure);
      return;
    }
    this.#group = there ?? (await this.#store.write((database) => topology.makeGroup(database, this.#ref, 'latest')));
    this.#events.lost(this.#lanes, this.#lost('the group was deleted'));
    this.#events.positionLost(
      '0',
      `${nameOfGroup(this.#ref)} was deleted and made again; what it had not settled is gone`,
    );
  }

  #tellLost({ count, from, to }: NonNullable<Taken['lost']>): void {
    this.#events.positionLost(
      '0',
      `${nameOfGroup(this.#ref)} lost ${count} messages that were removed before they were read: it went from position ${from} to ${to}`,
    );
  }

  #lost(why: string): LeaseLostError {
    const { topic, name } = this.#ref;
    return new LeaseLostError(`topic "${topic.name}", group "${name}": ${why}`, { adapter: adapterName });
  }
}

// Every delivery that comes back to a receiver is one that it gave out.
const handleOf = (delivery: Delivery): Handle => delivery as SqliteDelivery;
