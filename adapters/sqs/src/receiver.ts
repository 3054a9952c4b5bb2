import type { Message } from '@aws-sdk/client-sqs';
import {
  Alarm,
  backOff,
  type Clock,
  ConnectionError,
  type Delivery,
  Fifo,
  Heap,
  type Logger,
  nameOfGroup,
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  sleep,
  type Timer,
  WaybillError,
} from '@waybill/core/adapter';
import { maxEntries } from './batches.ts';
import { adapterName, failureOf, isMissing, requestFailure } from './errors.ts';
import type { Link, LinkListener } from './link.ts';
import { deliveriesOf, fromMessage } from './message.ts';
import { type Poll, type Requests, waitHere } from './requests.ts';
import { guard, Settling, type SqsDelivery, visibilityOf } from './settling.ts';
import type { GroupPlace } from './topology.ts';

/** Looks for messages that others have set apart, in a lease: their holders may have died. Our own we look for at once. */
const aloneLooks = 2;
/** Between tries to make a group again, and between one that helped nothing and the next. */
const repairAgain = { initial: 500, max: 10_000 } as const;
/** Polls in a row that fail by no fault of the request until that counts as an interruption. */
const troubleAfter = 3;
/** Milliseconds that a member that leaves waits for what it has to give back. */
const closePatience = 3_000;

export interface ReceiverParts {
  readonly source: Source;
  readonly events: ReceiverEvents;
  readonly place: GroupPlace;
  readonly link: Link;
  readonly requests: Requests;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Makes the group again after something of it was deleted. @throws ConfigError where that is not ours to do */
  readonly repair: () => Promise<GroupPlace>;
  readonly closed: (receiver: SqsReceiver) => void;
}

interface Waiter {
  readonly max: number;
  resolve(deliveries: readonly Delivery[]): void;
  reject(error: WaybillError): void;
}

/** A request for messages that has no answer yet. */
interface Asked {
  /** Since when the answer may have lain unread, in `clock.monotonic()`. */
  since: number | undefined;
}

interface Early {
  readonly at: number;
  readonly delivery: SqsDelivery;
}

interface Received {
  readonly messages: readonly Message[];
  /** When SQS gave them at the earliest, but for what the visibility covers. */
  readonly at: number;
}

/** One member of a group: the polls of its queue, and what becomes of their messages. */
export class SqsReceiver implements Receiver, LinkListener {
  readonly receiveAlone?: () => Promise<Delivery | undefined>;
  readonly #parts: ReceiverParts;
  readonly #settling: Settling;
  #place: GroupPlace;
  /** Received, and not handed out yet. */
  readonly #ready = new Fifo<SqsDelivery>();
  /** Received a moment before their time. */
  readonly #early = new Heap<Early>((a, b) => a.at < b.at);
  readonly #alarm: Alarm;
  #waiter: Waiter | undefined;
  /** Polls that are out, and what they may bring. */
  #polls = 0;
  #asked = 0;
  /** Requests for messages that are out, and when this process was last seen to run meanwhile. */
  readonly #out = new Set<Asked>();
  #ranAt = 0;
  #watch: Timer | undefined;
  /** Until when polls whose connection was lost may still be out at SQS. */
  #deadUntil = 0;
  /** Polls to have out at once: more while they come back full, one when there is nothing to do. */
  #wanted = 1;
  /** A poll has just brought something: those of other members go first. */
  #yielding = false;
  /** Nobody asks for messages at the moment; what comes in goes back. */
  #resting = false;
  /** Polls that have failed since the last that did not. */
  #failures = 0;
  /** SQS answers our polls with errors, and core knows. */
  #troubled = false;
  /** Times that the group was made again since a poll last found its queue. */
  #repairs = 0;
  #closing = false;
  #repairing: Promise<void> | undefined;
  #lookAloneAt = 0;

  constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.#place = parts.place;
    const { source, requests, clock, link, events } = parts;
    this.#alarm = new Alarm(clock, () => this.#ring());
    this.#settling = new Settling({
      source,
      requests,
      clock,
      place: () => this.#place,
      deadPolls: () => Math.max(0, this.#deadUntil - clock.monotonic()),
      missing: () => void this.repair(),
    });
    if (parts.place.aloneUrl !== undefined) this.receiveAlone = () => this.#getAlone();
    link.listen(this);
    if (link.problem !== undefined) events.interrupted(link.problem);
    events.assigned([parts.place.queueUrl]);
  }

  receive(max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    if (this.#closing || finish.aborted) return Promise.resolve([]);
    this.#resting = false;
    const ready = this.#take(max);
    if (ready.length > 0) return Promise.resolve(ready);
    return new Promise((resolve, reject) => {
      const done = (): void => {
        finish.removeEventListener('abort', rest);
        this.#waiter = undefined;
      };
      const rest = (): void => {
        done();
        resolve([]);
        this.#rest();
      };
      finish.addEventListener('abort', rest, { once: true });
      this.#waiter = {
        max,
        resolve: (deliveries) => {
          done();
          resolve(deliveries);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      };
      this.#fill();
    });
  }

  async settle(batch: readonly Settlement[]): Promise<readonly SettleResult[]> {
    const results = await this.#settling.settle(batch);
    if (batch.some((one) => one.verb === 'giveBack' && one.alone === true)) this.#lookAloneAt = 0;
    return results;
  }

  extend(deliveries: readonly Delivery[]): Promise<readonly (number | undefined)[]> {
    return this.#settling.extend(deliveries as readonly SqsDelivery[]);
  }

  // SQS hands out nothing more of a message group while one of it is in hand: nothing piles up.
  pauseLane(): void {}
  resumeLane(): void {}

  async close(): Promise<void> {
    this.#closing = true;
    this.#alarm.stop();
    this.#parts.link.unlisten(this);
    this.#waiter?.resolve([]);
    // Without an answer what is left comes back when its lease ends.
    const patience = new AbortController();
    await Promise.race([this.#releaseAll(), sleep(this.#parts.clock, closePatience, patience.signal)]);
    patience.abort();
    this.#parts.closed(this);
  }

  /** Makes the group again after something of it was deleted, or ends the receiver where that is not ours to do. */
  repair(): Promise<void> {
    this.#repairing ??= this.#repair().finally(() => {
      this.#repairing = undefined;
      this.#fill();
    });
    return this.#repairing;
  }

  // LinkListener

  interrupted(error: WaybillError): void {
    if (!this.#closing) this.#parts.events.interrupted(error);
  }

  restored(): void {
    if (this.#closing) return;
    this.#failures = 0;
    this.#troubled = false;
    this.#parts.events.restored();
    this.#fill();
  }

  /** Has as many polls out as there is work for, and never for more messages than are asked for. */
  #fill(): void {
    const waiter = this.#waiter;
    if (waiter === undefined || this.#closing || this.#yielding || this.#repairing !== undefined) return;
    if (this.#parts.link.problem !== undefined) return; // goes on when the services are back
    const { prefetch } = this.#parts.source;
    const most = Math.min(this.#wanted, this.#parts.link.settings.maxPolls);
    while (this.#polls < most) {
      // What waits here for its time takes no room in core; but it is bounded, too.
      const room = Math.min(waiter.max - this.#asked, Math.max(prefetch, maxEntries) - this.#early.size - this.#asked);
      if (room <= 0) return;
      void this.#poll(Math.min(room, maxEntries));
    }
  }

  async #poll(max: number): Promise<void> {
    const { clock, link, source } = this.#parts;
    const waitSeconds = link.settings.pollWait;
    const ends = clock.monotonic() + waitSeconds * 1_000;
    this.#polls++;
    this.#asked += max;
    let failure: unknown;
    let received: Received = { messages: [], at: 0 };
    const { queueUrl } = this.#place;
    try {
      received = await this.#ask(queueUrl, { max, waitSeconds, visibility: visibilityOf(source.lease) });
    } catch (error) {
      failure = error;
      this.#deadUntil = Math.max(this.#deadUntil, ends);
    }
    this.#polls--;
    this.#asked -= max;
    if (failure !== undefined) return this.#failed(failure);
    this.#repairs = 0;
    this.#failures = 0;
    if (this.#troubled && !this.#closing) {
      this.#troubled = false;
      this.#parts.events.restored();
    }
    const { messages } = received;
    if (messages.length > 0) this.#yield();
    if (messages.length === max) this.#wanted = Math.min(this.#wanted * 2, link.settings.maxPolls);
    else if (messages.length === 0) this.#wanted = Math.max(1, this.#wanted >> 1);
    this.#arrived(received, queueUrl);
  }

  async #ask(queueUrl: string, poll: Poll): Promise<Received> {
    const { clock, requests } = this.#parts;
    const asked: Asked = { since: undefined };
    this.#runs();
    this.#out.add(asked);
    this.#watch ??= this.#watchOut();
    try {
      const messages = await requests.receive(queueUrl, poll);
      this.#runs();
      return { messages, at: asked.since ?? clock.monotonic() };
    } finally {
      this.#out.delete(asked);
      if (this.#out.size === 0) {
        this.#watch?.cancel();
        this.#watch = undefined;
      }
    }
  }

  /** Twice in the time that SQS hides a message longer than we count on. */
  #watchOut(): Timer {
    return this.#parts.clock.setTimeout(() => {
      this.#runs();
      this.#watch = this.#watchOut();
    }, guard / 2);
  }

  /**
   * A process that was stopped reads an answer long after SQS has given it, and what is in it is hidden since then
   * (GUAR-02).
   */
  #runs(): void {
    const now = this.#parts.clock.monotonic();
    if (now - this.#ranAt > guard) for (const asked of this.#out) asked.since ??= this.#ranAt;
    this.#ranAt = now;
  }

  /** Lets a member that came away with nothing ask first: else the quicker one would get everything. */
  #yield(): void {
    if (this.#yielding) return;
    this.#yielding = true;
    setImmediate(() =>
      setImmediate(() => {
        this.#yielding = false;
        // Handlers may have ended meanwhile: core asks again, for as many as it has room for now.
        if (this.#polls === 0) this.#waiter?.resolve([]);
        else this.#fill();
      }),
    );
  }

  #failed(error: unknown): void {
    if (this.#closing) return;
    if (isMissing(error)) {
      void this.repair();
      return;
    }
    const { kind } = failureOf(error);
    // The link says when the services are back.
    if (kind === 'away') return;
    const failure = requestFailure(error, `${nameOfGroup(this.#parts.source.group)} cannot be read`);
    this.#failures++;
    if (kind === 'refused' || this.#failures >= troubleAfter) this.#tellTrouble(failure);
    // Core asks again, with back-off.
    this.#waiter?.reject(failure);
  }

  #tellTrouble(error: WaybillError): void {
    if (this.#troubled || this.#closing) return;
    this.#troubled = true;
    this.#parts.events.interrupted(error);
  }

  #arrived({ messages, at }: Received, queueUrl: string): void {
    if (messages.length > 0) {
      const { clock, link } = this.#parts;
      const now = clock.now();
      const hops: { delivery: SqsDelivery; left: number }[] = [];
      for (const message of messages) {
        const { deliverAt, delivery } = this.#delivery(message, at, queueUrl, false);
        const left = deliverAt === undefined ? 0 : deliverAt - now;
        if (left <= 0) this.#ready.push(delivery);
        else if (left <= waitHere) this.#wait(delivery, clock.monotonic() + left);
        else if (delivery.until > clock.monotonic()) hops.push({ delivery, left });
      }
      if (hops.length > 0) void link.finish(this.#settling.hop(hops));
    }
    if (this.#resting || this.#closing) void this.#releaseAll();
    else this.#answer();
  }

  #wait(delivery: SqsDelivery, at: number): void {
    this.#early.push({ at, delivery });
    this.#alarm.at(at);
  }

  #answer(): void {
    const waiter = this.#waiter;
    if (waiter === undefined) {
      this.#keepForNow();
      return;
    }
    const ready = this.#take(waiter.max);
    if (ready.length > 0) waiter.resolve(ready);
    else this.#fill();
  }

  #take(max: number): SqsDelivery[] {
    const now = this.#parts.clock.monotonic();
    const taken: SqsDelivery[] = [];
    while (taken.length < max) {
      const delivery = this.#ready.shift();
      if (delivery === undefined) break;
      // One that has waited for too long is somebody else's by now.
      if (delivery.until > now) taken.push(delivery);
    }
    this.#keepForNow();
    return taken;
  }

  /** Core is busy. What it does not ask for in time goes to others. */
  #keepForNow(): void {
    const oldest = this.#ready.peek();
    if (oldest !== undefined) this.#alarm.at(oldest.until - this.#parts.source.lease / 2);
  }

  #ring(): void {
    const { clock, source } = this.#parts;
    const now = clock.monotonic();
    for (let first = this.#early.peek(); first !== undefined; first = this.#early.peek()) {
      if (first.at > now) {
        this.#alarm.at(first.at);
        break;
      }
      this.#early.pop();
      this.#ready.push(first.delivery);
    }
    if (this.#resting) {
      void this.#releaseAll();
      return;
    }
    if (this.#waiter === undefined) {
      const old = this.#ready.takeWhere(({ until }) => until - now <= source.lease / 2);
      if (old.length > 0) void this.#settling.release(old);
    }
    this.#answer();
  }

  /** Nobody wants messages for now: what is here goes back at once. */
  #rest(): void {
    this.#resting = true;
    void this.#releaseAll();
  }

  async #releaseAll(): Promise<void> {
    const early = this.#early.takeWhere(() => true).map(({ delivery }) => delivery);
    const all = [...this.#ready.takeWhere(() => true), ...early];
    if (all.length > 0) await this.#settling.release(all);
  }

  async #getAlone(): Promise<Delivery | undefined> {
    const { clock, source, link } = this.#parts;
    const { aloneUrl } = this.#place;
    const now = clock.monotonic();
    if (this.#closing || aloneUrl === undefined || now < this.#lookAloneAt || link.problem !== undefined)
      return undefined;
    this.#lookAloneAt = now + source.lease / aloneLooks;
    try {
      const poll = { max: 1, waitSeconds: 0, visibility: visibilityOf(source.lease) };
      const { messages, at } = await this.#ask(aloneUrl, poll);
      const [message] = messages;
      if (message === undefined) return undefined;
      this.#lookAloneAt = 0; // there may be more
      return this.#delivery(message, at, aloneUrl, true).delivery;
    } catch (error) {
      if (isMissing(error)) void this.repair();
      throw requestFailure(error, 'messages set apart cannot be read');
    }
  }

  #delivery(
    message: Message,
    receivedAt: number,
    queueUrl: string,
    alone: boolean,
  ): { deliverAt: number | undefined; delivery: SqsDelivery } {
    const { deliverAt, destination: _, ...content } = fromMessage(message);
    const { source } = this.#parts;
    const until = receivedAt + source.lease;
    const delivery: SqsDelivery = {
      ...content,
      lane: (source.group.topic.ordered ? message.Attributes?.MessageGroupId : undefined) ?? queueUrl,
      deliveries: deliveriesOf(message),
      leaseUntil: until,
      native: message,
      queueUrl,
      receiptHandle: message.ReceiptHandle ?? '',
      receivedAt,
      until,
      copied: false,
      ...(alone ? { alone } : {}),
    };
    return { deliverAt, delivery };
  }

  async #repair(): Promise<void> {
    const { clock, link, logger, source } = this.#parts;
    const what = nameOfGroup(source.group);
    // AWS tells the name of a deleted queue for up to a minute: it is then found, and still not there.
    if (this.#repairs > 0) {
      this.#tellTrouble(new ConnectionError(`${what}: its queue is not there yet`, { adapter: adapterName }));
      await sleep(clock, backOff(this.#repairs, repairAgain), link.closing);
    }
    this.#repairs++;
    for (let tries = 1; !this.#closing; tries++) {
      try {
        this.#place = await this.#parts.repair();
        logger.warn(`sqs: something of ${what} was deleted, and was made again`);
        break;
      } catch (error) {
        const failure = WaybillError.is(error) ? error : requestFailure(error, `${what} cannot be made again`);
        if (failure.code !== 'CONNECTION') return this.#end(failure);
        this.#tellTrouble(failure);
        logger.debug(`sqs: ${what} cannot be made again, tried again`, { error });
        await sleep(clock, backOff(tries, repairAgain), link.closing);
      }
    }
  }

  #end(error: WaybillError): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#waiter?.resolve([]);
    this.#parts.events.failed(error);
  }
}
