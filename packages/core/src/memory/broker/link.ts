import { ClosedError, type ConnectionError, type WaybillError } from '../../errors.ts';
import type { Broker } from './broker.ts';
import type { Group } from './group.ts';

/** Milliseconds after which the groups of a broadcast go when their client is cut off (SUB-07). */
export const broadcastCleanup = 30_000;

export interface LinkEvents {
  cut(error: ConnectionError): void;
  mended(): void;
}

/** A client's way to the broker. */
export class Link {
  readonly broker: Broker;
  readonly client: string;
  /** Groups that go when this client does. */
  readonly temporary = new Set<Group>();
  readonly #events: LinkEvents;
  #cut: ConnectionError | undefined;
  #closed = false;

  constructor(broker: Broker, client: string, events: LinkEvents) {
    this.broker = broker;
    this.client = client;
    this.#events = events;
  }

  /** Why nothing gets through: a `ConnectionError` while it is cut, a `ClosedError` after `close`. */
  get problem(): WaybillError | undefined {
    return this.#closed ? new ClosedError(`the connection to ${this.broker.target}`) : this.#cut;
  }

  get open(): boolean {
    return this.problem === undefined;
  }

  /** @throws `problem` */
  check(): void {
    const { problem } = this;
    if (problem !== undefined) throw problem;
  }

  cut(error: ConnectionError): void {
    if (this.#cut !== undefined) return;
    this.#cut = error;
    const removeAt = this.broker.clock.monotonic() + broadcastCleanup;
    for (const group of this.temporary) group.removeAt = removeAt;
    if (this.temporary.size > 0) this.broker.wakeAt(removeAt);
    this.#events.cut(error);
  }

  mend(): void {
    if (this.#cut === undefined) return;
    this.#cut = undefined;
    for (const group of this.temporary) group.removeAt = Number.POSITIVE_INFINITY;
    this.#events.mended();
  }

  removeTemporary(group: Group): void {
    this.temporary.delete(group);
    if (!group.removed) group.topic.removeGroup(group.name);
  }

  close(): void {
    if (this.#closed) return;
    if (this.#cut === undefined) for (const group of this.temporary) this.removeTemporary(group);
    this.#closed = true;
    this.broker.disconnected(this);
  }
}
