import { randomUUID } from 'node:crypto';
import {
  Alarm,
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
import { moveLimit, temporaryExpiry } from './housekeeping.ts';
import { isAfter } from './ids.ts';
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
  rarely,
  retryStream,
  topicStream,
  Wake,
  whatOf,
} from './receiver-parts.ts';
import { asEntry, asFound, asList, asNumber, asStreams, asText, type Found } from './replies.ts';
import { consumerPrefix, extend, leave, listOwn, pulse, readAlone, readOwn, settle, takeOver } from './scripts.ts';

/** A topic without order has one lane. */
const lane = '0';
/** The third of the group's streams, which only such a group has. */
const aloneStream = 3;
/** The server lists all groups of a stream or none: of more than these it is asked seldom (300 broadcasts: 1 ms a list). */
const fewGroups = 16;

interface StreamDelivery extends Delivery {
  leaseUntil: number;
  readonly stream: number;
  readonly entry: Entry;
  /** A settlement of it ended without an answer: when it is nobody's now, it was done. */
  unsure?: boolean;
}

/**
 * One member of a group of a topic without order.
 *
 * Its lease is its presence: a time on the server until which it is known to live, moved on by every pulse. What belongs
 * to a member whose time has passed is taken over by the others, and so is what a member has let go. What is ours by the
 * server's book and not in hand got lost on the way to us, and is read again.
 */
export class GroupReceiver implements Receiver, LinkListener {
  readonly #parts: ReceiverParts;
  readonly #link: Link;
  readonly #keys: GroupKeys;
  readonly #me = `${consumerPrefix}${randomUUID()}`;
  readonly #alarm: Alarm;
  readonly #what: string;
  readonly #losses: Losses;
  readonly #wake = new Wake();
  #reader: BlockingReader | undefined;
  /** All that was handed to us and is not settled, by stream and id; also what core has not asked for yet. */
  readonly #hand = new Map<string, StreamDelivery>();
  #buffer: StreamDelivery[] = [];
  #reading: Promise<void> | undefined;
  #readFailure: unknown;
  /** There may be something of ours that we have not seen. */
  #doubt = true;
  /** How much belongs to nobody. */
  #free = 0;
  /** The first that we have let go of, until nothing belongs to nobody. */
  #letGo: string | undefined;
  /** In `clock.monotonic()`: until then nobody takes over from us. */
  #presentUntil = 0;
  #nextPulse = 0;
  #nextRare = 0;
  #pulsing = false;
  #surplus = 0;
  #lastId = '0';
  /** When the group was made, by the server's clock. */
  #made: string | undefined;
  /** Groups that the stream has. */
  #groups = 0;
  #repairing: Promise<void> | undefined;
  readonly #portion: Portion;
  /** Connected, and the last sign of life was taken. */
  #isUp = true;
  #failure: WaybillError | undefined;
  #open = true;

  private constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.#link = parts.link;
    this.#keys = parts.place.groups[0] as GroupKeys;
    this.#what = whatOf(parts.source);
    this.#losses = new Losses(parts.context.clock);
    this.#portion = new Portion(parts.source.prefetchBytes);
    this.#alarm = new Alarm(parts.context.clock, () => void this.#beat());
  }

  /** @throws ConnectionError */
  static async open(parts: ReceiverParts): Promise<GroupReceiver> {
    const receiver = new GroupReceiver(parts);
    await receiver.#pulse();
    const reader = await BlockingReader.open(parts, (error) => receiver.linkChanged(error));
    receiver.#reader = reader;
    parts.events.assigned([lane]);
    receiver.#arm();
    return receiver;
  }

  // What core calls.

  async receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    const finished = (): void => {
      this.#reader?.unblock();
      this.#wake.up();
    };
    finish.addEventListener('abort', finished, { once: true });
    try {
      for (;;) {
        const woken = this.#wake.promise;
        if (this.#failure !== undefined) throw this.#failure;
        if (this.#buffer.length > 0) return this.#handOut(this.#buffer.splice(0, max));
        if (finish.aborted || !this.#open) break;
        if (this.#isUp) await this.#fill(max, woken);
        else await woken;
      }
      // What a read under way still brings is handed out as well, or let go.
      await this.#reading;
      const last = this.#handOut(this.#buffer.splice(0, max));
      void this.#letBufferGo();
      return last;
    } catch (error) {
      throw requestFailure(error, `${this.#what}: messages cannot be read`);
    } finally {
      finish.removeEventListener('abort', finished);
    }
  }

  async receiveAlone(): Promise<Delivery | undefined> {
    if (!this.#open || this.#failure !== undefined || !this.#isUp) return undefined;
    const { alone, members, group } = this.#keys;
    const inHand = [...this.#hand.values()].filter(({ stream }) => stream === aloneStream);
    const reply = asList(
      await this.#link.run(readAlone, [alone, members], [group, this.#me, ...inHand.map(({ entry }) => entry.id)]),
    );
    if (reply.length === 0) return undefined;
    const [id, deliveries, fields] = reply;
    const found: Found = {
      stream: aloneStream,
      entry: asEntry(id, fields),
      deliveries: asNumber(deliveries),
    };
    const [delivery] = this.#handOut(this.#keep([found]));
    return delivery;
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(batch.length).fill('lost');
    const args: Arg[] = [this.#keys.group, this.#me];
    const places: number[] = [];
    const { clock } = this.#parts.context;
    for (let i = 0; i < batch.length; i++) {
      const settlement = batch[i] as Settlement;
      const delivery = settlement.delivery as StreamDelivery;
      if (this.#hand.get(handName(delivery)) !== delivery) continue;
      places.push(i);
      args.push(delivery.stream, delivery.entry.id);
      if (settlement.verb === 'ack') args.push('ack', 0);
      else if (settlement.verb === 'abandon') args.push('free', 0);
      else if (settlement.verb === 'giveBack') {
        args.push('back', 3, settlement.after, settlement.attempt, settlement.alone === true ? '1' : '0');
        if (settlement.after > 0) this.#alarm.at(clock.monotonic() + settlement.after);
      } else {
        const fields = deadLetterFields(settlement.details);
        args.push('dead', fields.length, ...fields);
      }
    }
    if (places.length === 0) return results;
    const { stream, retry, alone, waiting, deadLetters } = this.#keys;
    let letters = '';
    let failure: unknown;
    try {
      letters = asText(await this.#link.run(settle, [stream, retry, alone, waiting, deadLetters], args));
    } catch (error) {
      failure = error;
    }
    places.forEach((place, i) => {
      results[place] = this.#settled(batch[place] as Settlement, letters[i], failure);
    });
    return results;
  }

  async extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    const { stream, retry, alone, members, group } = this.#keys;
    const { lease } = this.#parts.source;
    const args: Arg[] = [group, this.#me, lease];
    for (const delivery of deliveries as readonly StreamDelivery[]) args.push(delivery.stream, delivery.entry.id);
    const asked = this.#parts.context.clock.monotonic();
    const kept = asList(await this.#link.run(extend, [stream, retry, alone, members], args));
    this.#presentUntil = Math.max(this.#presentUntil, asked + lease);
    return deliveries.map((one, i) => {
      const delivery = one as StreamDelivery;
      const inHand = this.#hand.get(handName(delivery)) === delivery;
      if (inHand && asNumber(kept[i]) === 1) return asked + lease;
      // One that may be settled already stays until its settlement, which is repeated, has found out.
      if (inHand && delivery.unsure !== true) this.#hand.delete(handName(delivery));
      return undefined;
    });
  }

  // A topic without order has no lane that could wait for a key.
  pauseLane(): void {}
  resumeLane(): void {}

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    this.#alarm.stop();
    this.#reader?.unblock();
    this.#wake.up();
    const { clock } = this.#parts.context;
    await leaving(clock, this.#reading);
    this.#parts.closed(this);
    await this.#reader?.close();
    await this.#reading;
    await leaving(clock, this.#letBufferGo());
    const { stream, retry, alone, members, group } = this.#keys;
    await leaving(clock, this.#link.run(leave, [stream, retry, alone, members], [group, this.#me]));
  }

  // What happens to the connections.

  linkChanged(error?: ConnectionError): void {
    if (!this.#open) return;
    if (this.#isConnected) void this.#beat();
    else this.#interrupt(error ?? awayError(this.#parts.settings));
  }

  get #isConnected(): boolean {
    return this.#link.isUp && (this.#reader?.isUp ?? true);
  }

  #interrupt(error: WaybillError): void {
    this.#doubt = true;
    if (!this.#isUp) return;
    this.#isUp = false;
    this.#parts.events.interrupted(error);
    this.#wake.up();
  }

  #recover(): void {
    if (this.#isUp || !this.#isConnected || !this.#open) return;
    this.#isUp = true;
    this.#doubt = true;
    this.#parts.events.restored();
    this.#wake.up();
  }

  // Getting messages.

  /** Brings something into the buffer, or waits until there is something to look at. */
  async #fill(max: number, woken: Promise<void>): Promise<void> {
    const { clock } = this.#parts.context;
    if (this.#presentUntil <= clock.monotonic()) await this.#pulse();
    if (this.#readFailure !== undefined) {
      const failure = this.#readFailure;
      this.#readFailure = undefined;
      if (!isMissing(failure)) throw failure;
      await this.#repair();
      return;
    }
    try {
      if (this.#doubt && this.#reading === undefined) await this.#readOwn();
      else if (this.#free > 0) await this.#takeOver(max);
      else {
        this.#reading ??= this.#read(max).finally(() => {
          this.#reading = undefined;
        });
        await Promise.race([this.#reading, woken]);
      }
    } catch (error) {
      if (error instanceof NoAnswer) this.#doubt = true;
      if (!isMissing(error)) throw error;
      await this.#repair();
    }
  }

  /** Never rejects: it may end when nobody waits for it. */
  async #read(max: number): Promise<void> {
    const { stream, retry, group } = this.#keys;
    const reader = this.#reader as BlockingReader;
    const from = ['STREAMS', stream, retry, '>', '>'];
    try {
      const reply = await reader.read([
        'XREADGROUP',
        'GROUP',
        group,
        this.#me,
        'COUNT',
        this.#portion.of(max),
        'BLOCK',
        reader.patience,
        ...from,
      ]);
      for (const { key, entries } of asStreams(reply)) {
        const place = key === retry ? retryStream : topicStream;
        const last = entries.at(-1);
        if (place === topicStream && last !== undefined) this.#lastId = last.id;
        this.#buffer.push(...this.#keep(entries.map((entry) => ({ stream: place, entry, deliveries: 1 }))));
      }
    } catch (error) {
      if (error instanceof NoAnswer) this.#doubt = true;
      this.#readFailure = error;
    }
  }

  /** What is ours by the server's book and not in hand. While a read is under way nobody could say what got lost. */
  async #readOwn(): Promise<void> {
    const { stream, retry, group } = this.#keys;
    const own = asList(await this.#link.run(listOwn, [stream, retry], [group, this.#me]));
    const missing: Arg[] = [];
    for (const one of own) {
      const [place, id] = asList(one);
      if (!this.#hand.has(`${asNumber(place)}:${asText(id)}`)) missing.push(asNumber(place), asText(id));
    }
    for (let from = 0; from < missing.length; from += 500) {
      const part = missing.slice(from, from + 500);
      this.#takeIn(await this.#link.run(readOwn, [stream, retry], [group, this.#me, ...part]));
    }
    this.#doubt = false;
    this.#surplus = 0;
  }

  async #takeOver(max: number): Promise<void> {
    const { stream, retry, members, group } = this.#keys;
    const most = this.#portion.of(max);
    const reply = await this.#link.run(takeOver, [stream, retry, members], [group, this.#me, most]);
    const taken = this.#takeIn(reply);
    this.#free = taken < most ? 0 : Math.max(0, this.#free - taken);
  }

  /** Entries that were read by a script; returns how many. */
  #takeIn(reply: unknown): number {
    const [found, deleted] = asList(reply);
    const entries = asFound(found);
    this.#buffer.push(...this.#keep(entries));
    const gone = asList(deleted);
    if (gone.length > 0) {
      const what = `${gone.length} messages of ${this.#what} were deleted or trimmed from the stream before they were settled`;
      this.#parts.events.positionLost(lane, what);
    }
    return entries.length + gone.length;
  }

  /** Those that are in hand already are left out: two ways can lead to one entry. */
  #keep(found: readonly Found[]): StreamDelivery[] {
    const kept: StreamDelivery[] = [];
    for (const { stream, entry, deliveries } of found) {
      const name = handName({ stream, entry });
      if (this.#hand.has(name)) continue;
      const delivery: StreamDelivery = {
        ...fromEntry(entry, ''),
        lane,
        deliveries,
        alone: stream === aloneStream,
        leaseUntil: this.#presentUntil,
        stream,
        entry,
      };
      this.#portion.saw(delivery.body.byteLength);
      this.#hand.set(name, delivery);
      kept.push(delivery);
    }
    return kept;
  }

  /** The lease of all is that of our presence. */
  #handOut(deliveries: StreamDelivery[]): readonly Delivery[] {
    for (const delivery of deliveries) delivery.leaseUntil = this.#presentUntil;
    return deliveries;
  }

  async #letBufferGo(): Promise<void> {
    const rest = this.#buffer;
    this.#buffer = [];
    if (rest.length > 0) await this.settle(rest.map((delivery) => ({ verb: 'abandon', delivery })));
  }

  #settled(settlement: Settlement, letter: string | undefined, failure: unknown): SettleResult {
    const delivery = settlement.delivery as StreamDelivery;
    const name = handName(delivery);
    if (settlement.verb === 'abandon' && delivery.stream === topicStream) this.#rememberLetGo(delivery.entry.id);
    if (letter === 'r' || letter === undefined) {
      if (failure instanceof NoAnswer) delivery.unsure = true;
      if (settlement.verb === 'abandon') {
        // It gets one try; what is still ours then is found again.
        this.#hand.delete(name);
        this.#doubt = true;
      }
      return requestFailure(failure ?? noRoom(), `${this.#what}: a message cannot be settled`);
    }
    this.#hand.delete(name);
    if (letter === 'a') return 'applied';
    if (letter === 'n' && delivery.unsure === true) return 'applied';
    if (letter === 'g') {
      const what = `message ${delivery.entry.id} of ${this.#what} was deleted or trimmed from the stream before it could be copied`;
      this.#parts.events.positionLost(lane, what);
    }
    return 'lost';
  }

  /** Nobody has it in hand, so a group that is made again would begin behind it. */
  #rememberLetGo(id: string): void {
    if (this.#letGo === undefined || isAfter(this.#letGo, id)) this.#letGo = id;
  }

  // Signs of life.

  /** @throws what the pulse ran into */
  async #pulse(): Promise<void> {
    const { clock } = this.#parts.context;
    const { lease, group: ref } = this.#parts.source;
    const { stream, retry, alone, waiting, members, group } = this.#keys;
    const { delayed, temporary, facts } = this.#parts.place.topic;
    const asked = clock.monotonic();
    const rare = asked >= this.#nextRare;
    const look = rare || this.#groups <= fewGroups;
    const reply = asList(
      await this.#link.run(
        pulse,
        [stream, retry, alone, waiting, members, delayed, temporary, facts],
        [group, this.#me, lease, moveLimit, ref.temporary ? temporaryExpiry : 0, rare ? 1 : 0, look ? 1 : 0],
      ),
    );
    const [due, free, own, made, groups, lastId, lost, first] = reply;
    if (rare) this.#nextRare = asked + rarely;
    // While we were silent others may have taken what nobody has asked for yet; core looks after the rest.
    if (this.#presentUntil !== 0 && this.#presentUntil < asked) {
      for (const delivery of this.#buffer) this.#hand.delete(handName(delivery));
      this.#buffer = [];
      this.#doubt = true;
    }
    this.#presentUntil = Math.max(this.#presentUntil, asked + lease);
    if (look) {
      this.#groups = asNumber(groups);
      this.#lastId = asText(lastId);
    }
    this.#free = asNumber(free);
    this.#nextPulse = asked + pulseOf(lease);
    if (asNumber(due) >= 0) this.#nextPulse = Math.min(this.#nextPulse, clock.monotonic() + Math.max(1, asNumber(due)));
    const loss = look ? this.#losses.sentence(asNumber(lost), asText(first), 'the stream') : undefined;
    if (loss !== undefined) this.#parts.events.positionLost(lane, `${this.#what} ${loss}`);
    this.#compareBooks(asNumber(own));
    const holds = this.#hand.size > 0 || this.#letGo !== undefined;
    if (this.#made === undefined || !holds) this.#made = asText(made);
    // Deleted and made again by another member, which knows nothing of what is in our hands.
    else if (this.#made !== asText(made)) await this.#repair();
    // In doubt it may be ours still, unseen.
    else if (this.#free === 0 && !this.#doubt) this.#letGo = undefined;
    if (this.#free > 0 || this.#doubt) this.#wake.up();
  }

  /** Twice in a row more than we know of: something got lost on its way to us. */
  #compareBooks(own: number): void {
    this.#surplus = own > this.#hand.size ? this.#surplus + 1 : 0;
    if (this.#surplus < 3) return;
    this.#doubt = true;
    this.#reader?.unblock();
  }

  async #beat(): Promise<void> {
    if (this.#pulsing || !this.#open) return;
    this.#pulsing = true;
    try {
      if (this.#isConnected) {
        await this.#pulse();
        this.#recover();
      }
    } catch (error) {
      await this.#afterFailedPulse(error);
    } finally {
      this.#pulsing = false;
      this.#arm();
    }
  }

  async #afterFailedPulse(failure: unknown): Promise<void> {
    const { clock, logger } = this.#parts.context;
    this.#nextPulse = clock.monotonic() + pulseOf(this.#parts.source.lease);
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
    logger.debug(`${this.#what}: no sign of life could be given, tried again`, { error });
    // Without an answer that is the connection's matter, but of a cluster whose link stands a node may be away.
    if (!this.#link.isCluster && (error instanceof NotSent || error instanceof NoAnswer)) return;
    // What is refused to a pulse is refused to a read.
    this.#interrupt(requestFailure(error, `${this.#what}: nothing can be read`));
  }

  #arm(): void {
    const soonest = this.#parts.context.clock.monotonic();
    this.#alarm.at(this.#nextPulse > soonest ? this.#nextPulse : soonest + 50);
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
    const unsettled = [...this.#hand.values()].map(({ stream, entry }) => ({ stream, id: entry.id }));
    if (this.#letGo !== undefined) unsettled.push({ stream: topicStream, id: this.#letGo });
    const from = firstUnsettled(this.#lastId, unsettled);
    try {
      await remake(() => from);
    } catch (error) {
      if (WaybillError.is(error, 'CONFIG')) {
        this.#failure = error;
        events.failed(error);
        this.#wake.up();
      }
      throw error;
    }
    this.#made = undefined;
    this.#letGo = undefined;
    // Core may not have them yet, and must not start their handlers then (GUAR-02).
    for (const one of this.#hand.values()) one.leaseUntil = 0;
    this.#hand.clear();
    this.#buffer = [];
    this.#doubt = true;
    events.lost([lane], new LeaseLostError(`${this.#what}: the group was deleted`, { adapter: adapterName }));
    this.#wake.up();
  }
}
