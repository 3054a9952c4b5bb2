import { Alarm, backOff, systemClock as clock, sleep } from '@waybill/core/adapter';
import type { SqlDatabase } from '@waybill/sql';
import { laneCount } from '../lanes.ts';
import type { Statements } from '../statements.ts';

export interface ShareEvents {
  /** These lanes are ours from now on. */
  gained(): void;
  /** These lanes belong to somebody else, or their rows have changed under us: nothing read of them counts. */
  lost(lanes: readonly number[]): void;
  /** Too many for us: to be given back with `giveBack` as soon as nothing of them is in hand. */
  shed(lanes: readonly number[]): void;
  /** The lease ran out before it could be renewed: others may have taken over. */
  expired(): void;
  /** The lease counts from now. */
  renewed(): void;
  recovered(): void;
  trouble(error: unknown): void;
}

/** A relay that misses two heartbeats in a row still has its lanes. */
const beatsPerLease = 3;
/** Milliseconds between two looks for lanes while others hold more than they should. */
const eagerness = 1_000;

/**
 * One relay's part of the lanes. It is known to the others by a row with a lease, counts the living, and takes or
 * gives back lanes until each has its part. Nothing but the database's clock decides who lives; the own clock only
 * makes sure that we stop before our lease has ended there.
 */
export class Share {
  /** What is ours, and may be read: the fence of each lane. */
  readonly held = new Map<number, number>();
  readonly relay: string;
  readonly #database: SqlDatabase;
  readonly #statements: Statements;
  readonly #lease: number;
  readonly #events: ShareEvents;
  readonly #shedding = new Set<number>();
  readonly #stop = new AbortController();
  readonly #expiry = new Alarm(clock, () => this.#expire());
  #wake = new AbortController();
  #leaseUntil = 0;
  #part = laneCount;
  #beating: Promise<void> = Promise.resolve();

  constructor(relay: string, database: SqlDatabase, statements: Statements, lease: number, events: ShareEvents) {
    this.relay = relay;
    this.#database = database;
    this.#statements = statements;
    this.#lease = lease;
    this.#events = events;
  }

  /** Whether what is held is surely still ours. */
  get alive(): boolean {
    return clock.monotonic() < this.#leaseUntil;
  }

  /** @throws what the database says */
  async start(): Promise<void> {
    await this.#beat();
    this.#beating = this.#keepBeating();
  }

  /** Looks at once instead of at the next heartbeat. */
  hurry(): void {
    this.#wake.abort();
  }

  async giveBack(lanes: readonly number[]): Promise<void> {
    if (lanes.length === 0) return;
    await this.#statements.giveBack(this.#database, this.relay, lanes);
    for (const lane of lanes) this.#shedding.delete(lane);
  }

  /** Renews nothing any more. What is held is left for the lease to end, or for `giveBack`. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.hurry();
    this.#expiry.stop();
    await this.#beating;
  }

  async #keepBeating(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      const usual = this.#lease / beatsPerLease;
      // With fewer than its part a relay waits for others to let go. An answer may also come when the lease is over.
      const eager = this.held.size + this.#shedding.size < this.#part || !this.alive;
      const wait =
        failures > 0 ? backOff(failures, { initial: 100, max: usual / 2 }) : eager ? Math.min(usual, eagerness) : usual;
      await sleep(clock, wait, this.#wake.signal);
      if (this.#wake.signal.aborted) this.#wake = new AbortController();
      if (this.#stop.signal.aborted) return;
      try {
        await this.#beat();
        if (failures > 0) this.#events.recovered();
        failures = 0;
      } catch (error) {
        failures++;
        this.#events.trouble(error);
      }
    }
  }

  async #beat(): Promise<void> {
    await this.#renew();
    const part = this.#part;
    const all = this.held.size + this.#shedding.size;
    if (all < part && !this.#stop.signal.aborted) {
      const claimed = await this.#statements.claim(this.#database, this.relay, this.#lease, part - all);
      if (claimed > 0) await this.#renew();
    } else if (this.held.size > part) {
      // The highest ones: those that came last, as a rule.
      const surplus = [...this.held.keys()].sort((a, b) => b - a).slice(0, this.held.size - part);
      for (const lane of surplus) {
        this.held.delete(lane);
        this.#shedding.add(lane);
      }
      this.#events.shed(surplus);
    }
  }

  async #renew(): Promise<void> {
    const began = clock.monotonic();
    const { lanes, living, earlier } = await this.#statements.heartbeat(this.#database, this.relay, this.#lease);
    this.#part = partOf(living, earlier);
    this.#leaseUntil = began + this.#lease;
    this.#expiry.off();
    this.#expiry.at(this.#leaseUntil);

    const ours = new Map(lanes.map(({ lane, fence }) => [lane, fence]));
    const lost: number[] = [];
    for (const [lane, fence] of this.held) {
      if (ours.get(lane) === fence) continue;
      this.held.delete(lane);
      lost.push(lane);
    }
    for (const lane of this.#shedding) if (!ours.has(lane)) this.#shedding.delete(lane);
    if (lost.length > 0) this.#events.lost(lost);
    let gained = false;
    for (const [lane, fence] of ours) {
      if (this.held.has(lane) || this.#shedding.has(lane)) continue;
      this.held.set(lane, fence);
      gained = true;
    }
    if (gained) this.#events.gained();
    this.#events.renewed();
  }

  #expire(): void {
    if (!this.alive) this.#events.expired();
  }
}

/** All parts together are all lanes: once everybody has theirs, nobody looks for more. */
function partOf(living: number, earlier: number): number {
  return Math.floor(laneCount / living) + (earlier < laneCount % living ? 1 : 0);
}
