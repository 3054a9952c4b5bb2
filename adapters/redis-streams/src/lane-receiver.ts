import { randomUUID } from 'node:crypto';
import {
  Alarm,
  type Clock,
  type ConnectionError,
  type Delivery,
  LeaseLostError,
  type Receiver,
  type Settlement,
  type SettleResult,
  WaybillError,
} from '@waybill/core/adapter';
import { BlockingReader } from './blocking-reader.ts';
import { adapterName, isMissing, NoAnswer, NotSent, noRoom, requestFailure } from './errors.ts';
import { temporaryExpiry } from './housekeeping.ts';
import { isAfter, largest } from './ids.ts';
import type { Arg, Link } from './link.ts';
import { deadLetterFields, type Entry, fromEntry } from './message.ts';
import type { GroupKeys } from './names.ts';
import {
  awayError,
  firstUnsettled,
  handName,
  type LinkListener,
  Losses,
  leaving,
  Portion,
  pulseOf,
  type ReceiverParts,
  retryStream,
  topicStream,
  type Unsettled,
  Wake,
  waitFor,
  whatOf,
} from './receiver-parts.ts';
import { asEntry, asList, asNumber, asStreams, asText } from './replies.ts';
import {
  consumerPrefix,
  keepTemporary,
  leaveLane,
  ownLane,
  pendingOfLane,
  present,
  readLane,
  readPendingOfLane,
  settleLane,
} from './scripts.ts';

/**
 * Milliseconds between two looks at the lanes in a cluster, where one read cannot wait for streams of several slots: the
 * shortest, doubled for each that finds nothing, up to the longest.
 */
const clusterPause = { shortest: 5, longest: 80 } as const;
/** Milliseconds that running handlers have when a lane is to be handed over. */
const handOverDeadline = 30_000;

interface LaneDelivery extends Delivery {
  leaseUntil: number;
  readonly stream: number;
  readonly entry: Entry;
  /** A settlement of it ended without an answer: when it is pending no more, it was done. */
  unsure?: boolean;
}

/**
 *     away ──taken──▶ ours ──asked to hand over──▶ leaving
 *      ▲               │                             │
 *      └──lost, left───┴─────────────────────────────┘
 */
type LaneState = 'away' | 'ours' | 'leaving';

/** One ordered piece of the topic, as this member sees it. */
class Lane {
  readonly name: string;
  readonly keys: GroupKeys;
  state: LaneState = 'away';
  /** In `clock.monotonic()`: until then nobody else has it. */
  until = 0;
  paused = false;
  /** What is pending in it may not all be in hand. */
  doubt = true;
  /** There may be more to read. */
  more = true;
  /** What was asked of it failed: nothing is read until it could be kept again. */
  ailing = false;
  /** The group is not there (LIFE-07). Only who may have a lane sees that, so its owner makes the group again. */
  missing = false;
  /** Pending and not in hand: to be handed out before anything new. While in doubt neither whole nor sorted. */
  backlog: Unsettled[] = [];
  readonly hand = new Map<string, LaneDelivery>();
  /** The last ids that the group was given; while it is away, up to where nothing was left unsettled. */
  lastId = '0-0';
  lastRetryId = '0-0';
  readonly losses: Losses;

  constructor(number: number, keys: GroupKeys, clock: Clock) {
    this.name = String(number);
    this.keys = keys;
    this.losses = new Losses(clock);
  }

  get readable(): boolean {
    return this.state === 'ours' && !this.paused && !this.ailing;
  }

  /** After what it begins when its group is made again. */
  get start(): string {
    const inHand = [...this.hand.values()].map(({ stream, entry }) => ({ stream, id: entry.id }));
    return firstUnsettled(this.lastId, [...inHand, ...this.backlog]);
  }

  /** Lets go of one that stays pending: it is handed out again before what comes after it, once the books are compared. */
  putBack(delivery: LaneDelivery): void {
    this.hand.delete(handName(delivery));
    this.backlog.push({ stream: delivery.stream, id: delivery.entry.id });
    this.doubt = true;
  }

  /** Its next owner begins with what is unsettled. */
  goAway(): void {
    this.lastId = this.start;
    this.state = 'away';
    this.paused = false;
    // Core may not have them yet, and must not start their handlers then (GUAR-02).
    for (const one of this.hand.values()) one.leaseUntil = 0;
    this.hand.clear();
    this.backlog = [];
  }
}

/**
 * One member of a group of an ordered topic: it has some of the lanes, each for itself alone. Whoever has a lane reads it
 * and settles in it by scripts that look first at who has it; so a member that lost a lane unseen takes nothing out of
 * it and settles nothing in it. What is pending belongs to the lane, and its next owner begins with that.
 */
export class LaneReceiver implements Receiver, LinkListener {
  readonly #parts: ReceiverParts;
  readonly #link: Link;
  readonly #me = `${consumerPrefix}${randomUUID()}`;
  readonly #lanes: readonly Lane[];
  readonly #alarm: Alarm;
  readonly #portion: Portion;
  readonly #what: string;
  readonly #wake = new Wake();
  #reader: BlockingReader | undefined;
  #waiting: Promise<void> | undefined;
  #waitFailure: unknown;
  #turn = 0;
  #emptyLooks = 0;
  #beating: Promise<void> | undefined;
  /** Connected, and nothing that was asked at the last sign of life was refused. */
  #isUp = true;
  #failure: WaybillError | undefined;
  #repairing: Promise<void> | undefined;
  #open = true;

  private constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.#link = parts.link;
    this.#lanes = parts.place.groups.map((keys, number) => new Lane(number, keys, parts.context.clock));
    this.#what = whatOf(parts.source);
    this.#portion = new Portion(parts.source.prefetchBytes);
    this.#alarm = new Alarm(parts.context.clock, () => this.#beat());
  }

  /** @throws ConnectionError */
  static async open(parts: ReceiverParts): Promise<LaneReceiver> {
    const receiver = new LaneReceiver(parts);
    const reader = await BlockingReader.open(parts, (error) => receiver.linkChanged(error));
    receiver.#reader = reader;
    const now = parts.context.clock.monotonic();
    try {
      await receiver.#pulse();
    } catch (error) {
      await reader.close();
      throw error;
    }
    receiver.#arm(now);
    return receiver;
  }

  // What core calls.

  async receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    const finished = (): void => this.#look();
    finish.addEventListener('abort', finished, { once: true });
    try {
      for (;;) {
        if (this.#failure !== undefined) throw this.#failure;
        if (finish.aborted || !this.#open) return [];
        const woken = this.#wake.promise;
        if (!this.#isConnected) {
          await woken;
          continue;
        }
        const got = await this.#readAll(max);
        if (got.length > 0) {
          this.#emptyLooks = 0;
          return got;
        }
        if (this.#waitFailure !== undefined) {
          const failure = this.#waitFailure;
          this.#waitFailure = undefined;
          if (!isMissing(failure)) throw failure;
          await this.#repair();
        }
        if (finish.aborted) return [];
        this.#waiting ??= this.#waitForNews().finally(() => {
          this.#waiting = undefined;
        });
        await Promise.race([this.#waiting, woken]);
      }
    } catch (error) {
      throw requestFailure(error, `${this.#what}: messages cannot be read`);
    } finally {
      finish.removeEventListener('abort', finished);
    }
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(batch.length).fill('lost');
    const byLane = new Map<Lane, number[]>();
    for (let i = 0; i < batch.length; i++) {
      const { delivery, verb } = batch[i] as Settlement;
      const lane = this.#lanes[Number(delivery.lane)] as Lane;
      if (lane.hand.get(handName(delivery as LaneDelivery)) !== delivery) continue;
      if (verb === 'abandon' || verb === 'giveBack') {
        lane.putBack(delivery as LaneDelivery);
        this.#wake.up();
        results[i] = 'applied';
      } else {
        const places = byLane.get(lane);
        if (places === undefined) byLane.set(lane, [i]);
        else places.push(i);
      }
    }
    await Promise.all([...byLane].map(([lane, places]) => this.#settleIn(lane, batch, places, results)));
    return results;
  }

  async extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    const now = this.#parts.context.clock.monotonic();
    return deliveries.map((one) => {
      const delivery = one as LaneDelivery;
      const lane = this.#lanes[Number(delivery.lane)] as Lane;
      // The pulse renews the lanes, and with them all that is in hand.
      return lane.hand.get(handName(delivery)) === delivery && lane.until > now ? lane.until : undefined;
    });
  }

  pauseLane(name: string): void {
    const lane = this.#lanes[Number(name)];
    if (lane !== undefined) lane.paused = true;
  }

  resumeLane(name: string): void {
    const lane = this.#lanes[Number(name)];
    if (lane === undefined) return;
    lane.paused = false;
    lane.more = true;
    this.#look();
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    this.#alarm.stop();
    this.#look();
    this.#parts.closed(this);
    const { clock } = this.#parts.context;
    // It may be taking lanes.
    await leaving(clock, this.#beating);
    // A lane in which a handler still runs is left to its lease.
    const left = this.#lanes.filter(({ state, hand }) => state !== 'away' && hand.size === 0);
    await leaving(clock, Promise.all(left.map((lane) => this.#leave(lane))));
    const [first] = this.#lanes;
    if (first !== undefined) await leaving(clock, this.#link.call(['ZREM', first.keys.members, this.#me]));
    await this.#reader?.close();
  }

  // What happens to the connections.

  linkChanged(error?: ConnectionError): void {
    if (!this.#open) return;
    // What a read brought last may have got lost with the connection.
    for (const lane of this.#lanes) lane.doubt = true;
    if (!this.#isConnected) this.#interrupt(error ?? awayError(this.#parts.settings));
    else {
      this.#beat();
      this.#wake.up();
    }
  }

  get #isConnected(): boolean {
    return this.#link.isUp && (this.#reader?.isUp ?? true);
  }

  #interrupt(error: WaybillError): void {
    if (!this.#isUp) return;
    this.#isUp = false;
    this.#parts.events.interrupted(error);
    this.#wake.up();
  }

  #recover(): void {
    if (this.#isUp || !this.#isConnected || !this.#open) return;
    this.#isUp = true;
    this.#parts.events.restored();
    this.#wake.up();
  }

  // Getting messages.

  /** From all lanes at once, from each its share, in turn so that none is always the first. */
  async #readAll(max: number): Promise<LaneDelivery[]> {
    const count = this.#lanes.length;
    const candidates: Lane[] = [];
    for (let i = 0; i < count && candidates.length < max; i++) {
      const lane = this.#lanes[(this.#turn + i) % count] as Lane;
      if (lane.readable && (lane.doubt || lane.backlog.length > 0 || lane.more)) candidates.push(lane);
    }
    this.#turn = (this.#turn + 1) % count;
    if (candidates.length === 0) return [];
    const share = Math.max(1, Math.floor(this.#portion.of(max) / candidates.length));
    const parts = await Promise.allSettled(candidates.map((lane) => this.#readOne(lane, share)));
    const got: LaneDelivery[] = [];
    let missing = false;
    parts.forEach((part, i) => {
      if (part.status === 'fulfilled') got.push(...part.value);
      else if (isMissing(part.reason)) missing = true;
      else {
        // The others go on; the next sign of life tells whether this one can.
        (candidates[i] as Lane).ailing = true;
        const { logger } = this.#parts.context;
        logger.debug(`${this.#what}, lane ${(candidates[i] as Lane).name}: cannot be read`, { error: part.reason });
      }
    });
    if (got.length === 0 && missing) await this.#repair();
    return got.filter((one) => this.#stands(one));
  }

  /** Other lanes may have been waited for since it was read. */
  #stands(delivery: LaneDelivery): boolean {
    const lane = this.#lanes[Number(delivery.lane)] as Lane;
    // Lost meanwhile: the next owner begins with it.
    if (lane.hand.get(handName(delivery)) !== delivery) return false;
    if (!lane.doubt) return true;
    // Something before it may have been let go since it was asked for, and has to come first (ORD-01).
    lane.putBack(delivery);
    return false;
  }

  async #readOne(lane: Lane, max: number): Promise<LaneDelivery[]> {
    try {
      if (lane.doubt) await this.#compareBooks(lane);
      if (lane.backlog.length > 0) return await this.#readPending(lane, max);
      return await this.#readNew(lane, max);
    } catch (error) {
      // The server may have handed out what never came.
      if (error instanceof NoAnswer) lane.doubt = true;
      lane.missing ||= isMissing(error);
      throw error;
    }
  }

  async #readNew(lane: Lane, max: number): Promise<LaneDelivery[]> {
    const { owner, stream, retry, group } = lane.keys;
    const reply = await this.#link.run(readLane, [owner, stream, retry], [this.#me, group, max]);
    if (!Array.isArray(reply)) {
      this.#lose(lane, 'another member has the lane');
      return [];
    }
    const found = asList(reply);
    if (found.length < max) lane.more = false;
    return this.#keep(lane, found);
  }

  async #compareBooks(lane: Lane): Promise<void> {
    const { owner, stream, retry, group } = lane.keys;
    lane.doubt = false;
    try {
      const reply = await this.#link.run(pendingOfLane, [owner, stream, retry], [this.#me, group]);
      if (!Array.isArray(reply)) {
        this.#lose(lane, 'another member has the lane');
        return;
      }
      const unread: (Unsettled & { readonly place: string })[] = [];
      for (const one of asList(reply)) {
        const [place, idReply, behind] = asList(one);
        const id = asText(idReply);
        const at = asNumber(place);
        if (lane.hand.has(`${at}:${id}`)) continue;
        // A redriven message stands behind what was there when it was redriven.
        unread.push({ stream: at, id, place: at === retryStream ? asText(behind) || '0-0' : id });
      }
      unread.sort((a, b) => {
        if (a.place === b.place) return a.stream - b.stream;
        return isAfter(a.place, b.place) ? 1 : -1;
      });
      lane.backlog = unread;
    } catch (error) {
      lane.doubt = true;
      throw error;
    }
  }

  async #readPending(lane: Lane, max: number): Promise<LaneDelivery[]> {
    const { owner, stream, retry, group } = lane.keys;
    const part = lane.backlog.slice(0, max);
    const args = part.flatMap((one): Arg[] => [one.stream, one.id]);
    const reply = await this.#link.run(readPendingOfLane, [owner, stream, retry], [this.#me, group, ...args]);
    if (!Array.isArray(reply)) {
      this.#lose(lane, 'another member has the lane');
      return [];
    }
    lane.backlog = lane.backlog.slice(part.length);
    const [found, deleted] = asList(reply);
    const gone = asList(deleted).length;
    if (gone > 0) {
      const what = `${gone} messages of ${this.#what} were deleted or trimmed from lane ${lane.name} before they were settled`;
      this.#parts.events.positionLost(lane.name, what);
    }
    return this.#keep(lane, asList(found));
  }

  #keep(lane: Lane, found: readonly unknown[]): LaneDelivery[] {
    // Lost while the answer was on its way: the next owner begins with it.
    if (lane.state !== 'ours') return [];
    const kept: LaneDelivery[] = [];
    for (const one of found) {
      const [place, id, fields] = asList(one);
      const stream = asNumber(place);
      const entry = asEntry(id, fields);
      if (stream === topicStream) lane.lastId = largest(lane.lastId, entry.id);
      else lane.lastRetryId = largest(lane.lastRetryId, entry.id);
      const name = handName({ stream, entry });
      if (lane.hand.has(name)) continue;
      const delivery: LaneDelivery = {
        ...fromEntry(entry, `${lane.name}/`),
        lane: lane.name,
        deliveries: undefined,
        leaseUntil: lane.until,
        stream,
        entry,
      };
      this.#portion.saw(delivery.body.byteLength);
      lane.hand.set(name, delivery);
      kept.push(delivery);
    }
    return kept;
  }

  /** Never rejects: it may end when nobody waits for it. */
  async #waitForNews(): Promise<void> {
    const { clock } = this.#parts.context;
    if (this.#link.isCluster) {
      const pause = Math.min(clusterPause.longest, clusterPause.shortest * 2 ** this.#emptyLooks++);
      await waitFor(clock, pause, this.#wake.promise);
      for (const lane of this.#lanes) lane.more = true;
      return;
    }
    const reader = this.#reader as BlockingReader;
    const lanes = this.#lanes.filter((lane) => lane.readable);
    if (lanes.length === 0) {
      await waitFor(clock, reader.patience, this.#wake.promise);
      return;
    }
    const streams = lanes.flatMap(({ keys }) => [keys.stream, keys.retry]);
    const after = lanes.flatMap(({ lastId, lastRetryId }) => [lastId, lastRetryId]);
    try {
      const reply = await reader.read(['XREAD', 'COUNT', 1, 'BLOCK', reader.patience, 'STREAMS', ...streams, ...after]);
      const news = new Set(asStreams(reply).map(({ key }) => key));
      // A seek is seen by nothing but a look.
      for (const lane of lanes) {
        if (news.size === 0 || news.has(lane.keys.stream) || news.has(lane.keys.retry)) lane.more = true;
      }
    } catch (error) {
      this.#waitFailure = error;
    }
  }

  // Settling.

  async #settleIn(
    lane: Lane,
    batch: readonly Settlement[],
    places: readonly number[],
    results: SettleResult[],
  ): Promise<void> {
    const { owner, stream, retry, deadLetters, group } = lane.keys;
    const args: Arg[] = [this.#me, group, `${lane.name}/`];
    for (const place of places) {
      const settlement = batch[place] as Settlement;
      const delivery = settlement.delivery as LaneDelivery;
      args.push(delivery.stream, delivery.entry.id);
      if (settlement.verb === 'deadLetter') {
        const fields = deadLetterFields(settlement.details);
        args.push('dead', fields.length, ...fields);
      } else args.push('ack', 0);
    }
    let letters = '';
    let failure: unknown;
    try {
      letters = asText(await this.#link.run(settleLane, [owner, stream, retry, deadLetters], args));
    } catch (error) {
      failure = error;
    }
    places.forEach((place, i) => {
      const delivery = (batch[place] as Settlement).delivery as LaneDelivery;
      const letter = letters[i];
      if (letter === undefined || letter === 'r') {
        if (failure instanceof NoAnswer) delivery.unsure = true;
        results[place] = requestFailure(failure ?? noRoom(), `${this.#what}: a message cannot be settled`);
        return;
      }
      lane.hand.delete(handName(delivery));
      if (letter === 'a' || (letter === 'n' && delivery.unsure === true)) results[place] = 'applied';
    });
  }

  // Having lanes.

  /** @throws what the pulse ran into */
  async #pulse(): Promise<void> {
    const { lease, group: ref } = this.#parts.source;
    const [first] = this.#lanes;
    if (first === undefined) return;
    if (ref.temporary) {
      await this.#link.run(keepTemporary, [this.#parts.place.topic.temporary], [first.keys.group, temporaryExpiry]);
    }
    // First what we have: others wait for it to run out.
    const had = this.#lanes.filter(({ state }) => state !== 'away');
    const kept = await Promise.allSettled(had.map((lane) => this.#keepLane(lane)));
    const members = asList(await this.#link.run(present, [first.keys.members], [this.#me, lease])).map(asText);
    const place = Math.max(0, members.indexOf(this.#me));
    const total = Math.max(1, members.length);
    const quota = Math.floor(this.#lanes.length / total) + (place < this.#lanes.length % total ? 1 : 0);

    let ours = this.#lanes.filter(({ state }) => state === 'ours').length;
    const taken: Lane[] = [];
    // Everybody begins elsewhere, so that they do not all ask for the same.
    const from = Math.floor((place * this.#lanes.length) / total);
    const away = [...this.#lanes.slice(from), ...this.#lanes.slice(0, from)].filter(({ state }) => state === 'away');
    while (ours < quota && away.length > 0 && this.#open) {
      const asked = away.splice(0, quota - ours);
      const answers = await Promise.all(asked.map((lane) => this.#takeLane(lane)));
      taken.push(...asked.filter((_, at) => answers[at]));
      ours = this.#lanes.filter(({ state }) => state === 'ours').length;
    }
    if (taken.length > 0) {
      this.#parts.events.assigned(taken.map(({ name }) => name));
      this.#look();
    }
    const spare = this.#lanes.filter(({ state }) => state === 'ours').sort((a, b) => a.hand.size - b.hand.size);
    for (const lane of spare.slice(0, Math.max(0, ours - quota))) void this.#handOver(lane);
    for (const one of kept) if (one.status === 'rejected') throw one.reason;
  }

  async #keepLane(lane: Lane): Promise<void> {
    const asked = this.#parts.context.clock.monotonic();
    let answer: number;
    try {
      answer = await this.#askForLane(lane);
    } catch (error) {
      lane.ailing = true;
      throw error;
    }
    if (answer === 1) {
      lane.until = Math.max(lane.until, asked + this.#parts.source.lease);
      if (lane.ailing) this.#look();
      lane.ailing = false;
    } else {
      this.#lose(lane, answer === 2 ? 'the lease of the lane had run out' : 'another member has the lane');
      // It is ours again at once, but whoever had it meanwhile may have gone on.
      if (answer === 2) await this.#leave(lane);
    }
  }

  async #takeLane(lane: Lane): Promise<boolean> {
    const asked = this.#parts.context.clock.monotonic();
    const answer = await this.#askForLane(lane);
    if (answer === 0) return false;
    lane.until = asked + this.#parts.source.lease;
    lane.state = 'ours';
    lane.paused = false;
    lane.doubt = true;
    lane.more = true;
    lane.ailing = false;
    return true;
  }

  /** 0: somebody else has it; 1: we had it; 2: we have it now. */
  async #askForLane(lane: Lane): Promise<number> {
    const { owner, stream, retry, group } = lane.keys;
    const { lease } = this.#parts.source;
    const asking = this.#link.run(ownLane, [owner, stream, retry], [this.#me, Math.ceil(lease), group]);
    const reply = asList(
      await asking.catch((error: unknown) => {
        lane.missing = isMissing(error);
        throw error;
      }),
    );
    const [answer, lastId, lastRetryId, pending, lost, first] = reply;
    if (asNumber(answer) === 0) return 0;
    if (lane.state === 'away') {
      lane.lastId = asText(lastId);
      lane.lastRetryId = asText(lastRetryId);
      // All that is known of what its last owner left, until the books are compared.
      lane.backlog = asText(pending) === '' ? [] : [{ stream: topicStream, id: asText(pending) }];
    }
    const loss = lane.losses.sentence(asNumber(lost), asText(first), `lane ${lane.name}`);
    if (loss !== undefined) this.#parts.events.positionLost(lane.name, `${this.#what} ${loss}`);
    return asNumber(answer);
  }

  /** A member has come that needs a share. */
  async #handOver(lane: Lane): Promise<void> {
    lane.state = 'leaving';
    lane.paused = false;
    await this.#parts.events.revoking([lane.name], handOverDeadline);
    if ((lane.state as LaneState) !== 'leaving' || !this.#open) return;
    if (lane.hand.size > 0) this.#lose(lane, 'the lane goes to another member');
    await this.#leave(lane).catch(() => {});
  }

  /** It goes to whoever asks first. */
  async #leave(lane: Lane): Promise<void> {
    lane.goAway();
    await this.#link.run(leaveLane, [lane.keys.owner], [this.#me]);
  }

  #lose(lane: Lane, why: string): void {
    if (lane.state === 'away') return;
    lane.goAway();
    const text = `${this.#what}, lane ${lane.name}: ${why}`;
    this.#parts.events.lost([lane.name], new LeaseLostError(text, { adapter: adapterName }));
  }

  #beat(): void {
    if (!this.#open) return;
    this.#beating ??= this.#giveSign().finally(() => {
      this.#beating = undefined;
    });
  }

  async #giveSign(): Promise<void> {
    const now = this.#parts.context.clock.monotonic();
    try {
      if (this.#isConnected) {
        await this.#pulse();
        this.#recover();
      }
    } catch (error) {
      await this.#afterFailedPulse(error);
    } finally {
      this.#arm(now);
    }
  }

  async #afterFailedPulse(failure: unknown): Promise<void> {
    if (!this.#open) return;
    let error = failure;
    if (isMissing(error)) {
      try {
        await this.#repair();
        return;
      } catch (why) {
        error = why;
      }
    }
    this.#parts.context.logger.debug(`${this.#what}: no sign of life could be given, tried again`, { error });
    // Of a cluster whose link stands, a node may be away; else that is the connection's matter.
    if (!this.#link.isCluster && (error instanceof NotSent || error instanceof NoAnswer)) return;
    this.#interrupt(requestFailure(error, `${this.#what}: not all of its lanes can be read`));
  }

  /** Counted from when the last pulse began, which may have taken its time. */
  #arm(since: number): void {
    const soonest = this.#parts.context.clock.monotonic() + 20;
    this.#alarm.at(Math.max(soonest, since + pulseOf(this.#parts.source.lease)));
  }

  /** The group was deleted under us: it is made again, or the receiver ends (LIFE-07). Rejects as `#remake` does. */
  #repair(): Promise<void> {
    this.#repairing ??= this.#remake().finally(() => {
      this.#repairing = undefined;
    });
    return this.#repairing;
  }

  /** @throws what stands in the way; the receiver has ended where that is for good */
  async #remake(): Promise<void> {
    const { events, remake } = this.#parts;
    const missing = this.#lanes.filter((lane) => lane.missing);
    try {
      await remake((number) => {
        const lane = this.#lanes[number];
        return lane?.missing ? lane.start : undefined;
      });
    } catch (error) {
      if (WaybillError.is(error, 'CONFIG')) {
        this.#failure = error;
        events.failed(error);
        this.#wake.up();
      }
      throw error;
    }
    for (const lane of missing) {
      lane.missing = false;
      this.#lose(lane, 'the group was deleted');
    }
    this.#wake.up();
  }

  /** Whoever waits looks at the lanes again. */
  #look(): void {
    this.#reader?.unblock();
    this.#wake.up();
  }
}
