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
  type Receiver,
  type ReceiverEvents,
  type Settlement,
  type SettleResult,
  type Source,
  sleep,
  WaybillError,
} from '@waybill/core/adapter';
import { maxEntries } from './batches.ts';
import { adapterName, failureOf, isMissing, requestFailure } from './errors.ts';
import type { Link, LinkListener } from './link.ts';
import { deliveriesOf, fromMessage } from './message.ts';
import type { Requests } from './requests.ts';
import { Settling, type SqsDelivery, visibilityOf } from './settling.ts';
import type { GroupPlace } from './topology.ts';

/** SQS delays by whole seconds: what is due within this many milliseconds is waited for here. */
const waitHere = 1_000;
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

interface Early {
  readonly at: number;
  readonly delivery: SqsDelivery;
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
    const { clock, link, requests, source } = this.#parts;
    const waitSeconds = link.settings.pollWait;
    const ends = clock.monotonic() + waitSeconds * 1_000;
    this.#polls++;
    this.#asked += max;
    let failure: unknown;
    let messages: readonly Message[] = [];
    const { queueUrl } = this.#place;
    try {
      const visibility = visibilityOf(source.lease);
      messages = await requests.receive(queueUrl, { max, waitSeconds, visibility });
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
    if (messages.length > 0) this.#yield();
    if (messages.length === max) this.#wanted = Math.min(this.#wanted * 2, link.settings.maxPolls);
    else if (messages.length === 0) this.#wanted = Math.max(1, this.#wanted >> 1);
    this.#arrived(messages, queueUrl);
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
    const { name, topic } = this.#parts.source.group;
    const failure = requestFailure(error, `group "${name}" of topic "${topic.name}" cannot be read`);
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

  #arrived(messages: readonly Message[], queueUrl: string): void {
    if (messages.length > 0) {
      const { clock } = this.#parts;
      const now = clock.now();
      const hops: { delivery: SqsDelivery; left: number }[] = [];
      for (const message of messages) {
        const { deliverAt, delivery } = this.#delivery(message, queueUrl, false);
        const left = deliverAt === undefined ? 0 : deliverAt - now;
        if (left <= 0) this.#ready.push(delivery);
        else if (left <= waitHere) this.#wait(delivery, clock.monotonic() + left);
        else hops.push({ delivery, left });
      }
      if (hops.length > 0) void this.#settling.hop(hops);
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
      // Core is busy. What is not asked for in time goes to others.
      if (this.#ready.size > 0) this.#alarm.at(this.#parts.clock.monotonic() + this.#parts.source.lease / 2);
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
    return taken;
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
    const { clock, requests, source, link } = this.#parts;
    const { aloneUrl } = this.#place;
    const now = clock.monotonic();
    if (this.#closing || aloneUrl === undefined || now < this.#lookAloneAt || link.problem !== undefined)
      return undefined;
    this.#lookAloneAt = now + source.lease / aloneLooks;
    try {
      const [message] = await requests.receive(aloneUrl, {
        max: 1,
        waitSeconds: 0,
        visibility: visibilityOf(source.lease),
      });
      if (message === undefined) return undefined;
      this.#lookAloneAt = 0; // there may be more
      return this.#delivery(message, aloneUrl, true).delivery;
    } catch (error) {
      if (isMissing(error)) void this.repair();
      throw requestFailure(error, 'messages set apart cannot be read');
    }
  }

  #delivery(
    message: Message,
    queueUrl: string,
    alone: boolean,
  ): { deliverAt: number | undefined; delivery: SqsDelivery } {
    const { deliverAt, destination: _, ...content } = fromMessage(message);
    const { clock, source } = this.#parts;
    const receivedAt = clock.monotonic();
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
    const what = `group "${source.group.name}" of topic "${source.group.topic.name}"`;
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
