/**
 * One member of a consumer group: joins, beats, joins again when others come or go, and hands units over in two steps
 * (see `assignment.ts`). The broker fences it: a member that was silent for a session is put out, and what it commits
 * after that is refused.
 */
import { backOff, type Clock, type Logger, sleep, type Timer } from '@waybill/core/adapter';
import { decodeAssignment, divide, encodeSubscription, type Move, PROTOCOL, type Sharing } from './assignment.ts';
import { type Driver, type GroupLink, KafkaFailure, type MemberRef, type TopicPartition } from './driver.ts';
import { asFailure } from './errors.ts';

export interface MemberEvents {
  /** These are ours now. */
  gained(units: readonly string[]): void;
  /** These are to go; resolves when they have been let go. */
  revoked(units: readonly string[]): Promise<void>;
  /** Everything that was ours may be somebody else's already. */
  lost(failure: KafkaFailure): void;
  /** The group was moved to these offsets, by `topic:partition`; the commits name the move. */
  moved(offsets: ReadonlyMap<string, number>, move: string): void;
  /** A topic is gone; resolves when it is there again, rejects when it cannot be made now. */
  missing(topic: string): Promise<void>;
  interrupted(failure: KafkaFailure): void;
  restored(): void;
  /** It can never join. */
  failed(failure: KafkaFailure): void;
}

export interface MemberOptions {
  readonly driver: Driver;
  readonly group: string;
  readonly topics: readonly string[];
  readonly unitOf: (partition: TopicPartition) => string;
  /** Milliseconds of silence after which the broker gives our units to others. */
  readonly session: number;
  /**
   * Milliseconds that the others wait for a member that does not join again before they go on without it. Longer than
   * a session, only the session counts.
   */
  readonly rebalance: number;
  readonly sharing: Sharing;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: MemberEvents;
}

/** How soon a member sees that another has come or gone; the broker counts sessions in seconds. */
const HEARTBEAT = 400;

/** How often the leader of the group looks whether topics have got more partitions. */
const LOOK = 15_000;

/** The same while one is missing and cannot be made again. */
const LOOK_AGAIN = 2_000;

const patience = { initial: 100, max: 2_000 };

/** Refusals that will be the same for ever. */
const final = new Set([
  'INCONSISTENT_GROUP_PROTOCOL',
  'INVALID_GROUP_ID',
  'INVALID_SESSION_TIMEOUT',
  'GROUP_AUTHORIZATION_FAILED',
  'TOPIC_AUTHORIZATION_FAILED',
  'GROUP_MAX_SIZE_REACHED',
  'AUTHENTICATION',
]);

export class Member {
  readonly #options: MemberOptions;
  readonly #link: GroupLink;
  readonly #owned = new Set<string>();
  readonly #revoking = new Set<string>();
  readonly #followed = new Set<string>();
  readonly #leaving = new AbortController();
  /** Aborts to end the wait between two heartbeats. */
  #soon = new AbortController();
  #id = '';
  #generation = -1;
  #leader = false;
  #rejoin = false;
  #down = false;
  /** In monotonic time, when the broker was last asked something that it answered as to a member. */
  #heard = 0;
  /** Until when, in monotonic time, the broker surely keeps our units for us. */
  #safeUntil = 0;
  #expiry: Timer | undefined;
  /** Of the partitions that were last divided. */
  #count = 0;
  #lookAt = 0;
  #done: Promise<void> = Promise.resolve();

  constructor(options: MemberOptions) {
    this.#options = options;
    const { driver, group, session, rebalance } = options;
    this.#link = driver.openGroup(group, { session, rebalance });
  }

  /** Resolves when it has joined for the first time; rejects when the group refuses it for good. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#done = this.#run(resolve, reject);
    });
  }

  /** Who we are to the broker; `undefined` while we are nobody. */
  get ref(): MemberRef | undefined {
    return this.#id === '' || this.#generation < 0 ? undefined : { id: this.#id, generation: this.#generation };
  }

  /**
   * Whether what was ours still is. A process that was stopped learns it here, before the broker can tell it: the
   * clock goes on while it stands still.
   */
  get alive(): boolean {
    if (this.#options.clock.monotonic() < this.#safeUntil) return true;
    this.#expire();
    return false;
  }

  /** Something has hinted that the broker knows better than we: ask at once. */
  check(): void {
    this.#soon.abort();
  }

  async close(): Promise<void> {
    if (this.#leaving.signal.aborted) return this.#done;
    this.#leaving.abort();
    this.#soon.abort();
    this.#expiry?.cancel();
    const id = this.#id;
    if (id !== '') {
      // A join under way waits at the broker for others; the leave has a connection of its own.
      await this.#link.leave(id).catch((error: unknown) => {
        this.#options.logger.debug(`kafka: leaving group ${this.#options.group}: ${asFailure(error).message}`);
      });
    }
    this.#link.close();
    await this.#done;
  }

  async #run(joined: () => void, refused: (failure: KafkaFailure) => void): Promise<void> {
    const { signal } = this.#leaving;
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.#join();
        failures = 0;
        joined();
        await this.#beat();
      } catch (error) {
        if (signal.aborted) break;
        const failure = asFailure(error);
        if (final.has(failure.code)) {
          refused(failure);
          this.#forget(failure);
          this.#options.events.failed(failure);
          break;
        }
        this.#trouble(failure);
        await sleep(this.#options.clock, backOff(++failures, patience), signal);
      }
    }
    this.#expiry?.cancel();
    this.#link.close();
    refused(new KafkaFailure('CLOSED', 'the member has left', { sent: false }));
  }

  /** What an error says about our membership. */
  #trouble(failure: KafkaFailure): void {
    switch (failure.code) {
      case 'REBALANCE_IN_PROGRESS':
      case 'ILLEGAL_GENERATION':
        return;
      case 'UNKNOWN_MEMBER_ID':
      case 'FENCED_INSTANCE_ID':
        this.#forget(failure);
        return;
      default:
        this.#link.moved();
        if (this.#down) return;
        this.#down = true;
        this.#options.events.interrupted(failure);
    }
  }

  async #join(): Promise<void> {
    const { topics, unitOf, sharing, session, clock, logger, group } = this.#options;
    this.#rejoin = false;
    // Waiting for the others is no silence.
    if (this.alive && !this.#down) this.#safeUntil = this.#heard + session;
    // What is being let go is still claimed: nobody else may have it yet.
    const claim = { units: [...this.#owned], generation: this.#generation };
    const answer = await this.#link.join(this.#id, PROTOCOL, encodeSubscription(topics, claim), (id) => {
      this.#id = id;
    });
    this.#id = answer.id;
    this.#generation = answer.generation;
    this.#leader = answer.leader === answer.id;
    this.#keptUntil(clock.monotonic());
    const assignments = this.#leader ? divide(answer.members, await this.#partitions(), unitOf, sharing) : [];
    const asked = clock.monotonic();
    const { partitions, moves } = decodeAssignment(await this.#link.sync(answer, assignments));
    this.#keptUntil(asked);
    logger.debug(`kafka: joined group ${group}, generation ${this.#generation}, ${partitions.length} partitions`);
    this.#alive();
    this.#take(new Set(partitions.map(unitOf)));
    for (const move of moves) this.#follow(move);
  }

  async #partitions(): Promise<TopicPartition[]> {
    const { driver, topics, clock } = this.#options;
    this.#lookAt = clock.monotonic() + LOOK;
    const found = await driver.describeTopics(topics);
    const partitions: TopicPartition[] = [];
    let missing: string | undefined;
    for (const topic of topics) {
      const known = found.get(topic) ?? [];
      if (!(known instanceof KafkaFailure)) for (const { partition } of known) partitions.push({ topic, partition });
      else if (known.code === 'UNKNOWN_TOPIC_OR_PARTITION') missing ??= topic;
      else throw known;
    }
    // With one of them the others are made again, too.
    if (missing !== undefined) void this.#restore(missing);
    this.#count = partitions.length;
    return partitions;
  }

  /** LIFE-07: what is made again is divided anew; meanwhile it has nothing to read. */
  async #restore(topic: string): Promise<void> {
    const { events, clock } = this.#options;
    try {
      await events.missing(topic);
      this.#joinAgain();
    } catch {
      this.#lookAt = clock.monotonic() + LOOK_AGAIN;
    }
  }

  #take(assigned: ReadonlySet<string>): void {
    const { events } = this.#options;
    const gone = [...this.#owned].filter((unit) => !assigned.has(unit) && !this.#revoking.has(unit));
    const gained = [...assigned].filter((unit) => !this.#owned.has(unit));
    for (const unit of gained) this.#owned.add(unit);
    if (gained.length > 0) events.gained(gained);
    this.#watch();
    if (gone.length > 0) void this.#letGo(gone);
  }

  /** The same move may be told again while whoever asked for it is still a member. */
  #follow(move: Move): void {
    if (this.#followed.has(move.id)) return;
    this.#followed.add(move.id);
    this.#options.events.moved(new Map(Object.entries(move.offsets)), move.id);
  }

  async #letGo(units: readonly string[]): Promise<void> {
    for (const unit of units) this.#revoking.add(unit);
    await this.#options.events.revoked(units);
    for (const unit of units) {
      // Not when everything was lost meanwhile, and perhaps gained anew.
      if (this.#revoking.delete(unit)) this.#owned.delete(unit);
    }
    this.#joinAgain();
  }

  /**
   * Beats until it is time to join again. The last beat is right before that: a join may have to wait for others, and
   * what it waits counts from there.
   */
  async #beat(): Promise<void> {
    const { clock, session } = this.#options;
    const { signal } = this.#leaving;
    while (!signal.aborted) {
      if (!this.#rejoin) await this.#pause(Math.min(HEARTBEAT, session / 4));
      const me = this.ref;
      if (signal.aborted || me === undefined) return;
      const asked = clock.monotonic();
      try {
        await this.#link.heartbeat(me);
      } catch (error) {
        const failure = asFailure(error);
        if (failure.code !== 'REBALANCE_IN_PROGRESS') throw failure;
        this.#heard = asked;
        return;
      }
      this.#keptUntil(asked);
      this.#alive();
      if (this.#rejoin) return;
      if (this.#leader && clock.monotonic() > this.#lookAt) void this.#look();
    }
  }

  /** Beside the heartbeats: a broker that does not answer must not cost the membership. */
  async #look(): Promise<void> {
    const before = this.#count;
    await this.#partitions().catch(() => {});
    if (before === this.#count) return;
    this.#joinAgain();
  }

  /**
   * The broker has counted us in when it was asked, or answered. From then on it puts us out after a session of
   * silence, or when a rebalance that began right after has waited long enough for us.
   */
  #keptUntil(heard: number): void {
    const { session, rebalance } = this.#options;
    this.#heard = heard;
    this.#safeUntil = heard + Math.min(session, rebalance);
  }

  #joinAgain(): void {
    this.#rejoin = true;
    this.#soon.abort();
  }

  async #pause(ms: number): Promise<void> {
    if (this.#soon.signal.aborted) this.#soon = new AbortController();
    await sleep(this.#options.clock, ms, this.#soon.signal);
  }

  #alive(): void {
    if (!this.#down) return;
    this.#down = false;
    this.#options.events.restored();
  }

  /** One timer that looks again at its end, because every heartbeat moves the end. */
  #watch(): void {
    const { clock } = this.#options;
    this.#expiry?.cancel();
    if (this.#leaving.signal.aborted || this.#owned.size === 0) return;
    this.#expiry = clock.setTimeout(
      () => {
        if (clock.monotonic() >= this.#safeUntil) this.#expire();
        this.#watch();
      },
      Math.max(250, this.#safeUntil - clock.monotonic()),
    );
  }

  #expire(): void {
    if (this.#owned.size === 0) return;
    const text = 'the broker was not heard of for so long that others may have taken over';
    this.#forget(new KafkaFailure('SESSION_EXPIRED', text, { sent: false }));
  }

  #forget(failure: KafkaFailure): void {
    if (failure.code === 'UNKNOWN_MEMBER_ID') this.#id = '';
    this.#generation = -1;
    this.#joinAgain();
    const had = this.#owned.size > 0;
    this.#owned.clear();
    this.#revoking.clear();
    if (had) this.#options.events.lost(failure);
  }
}
