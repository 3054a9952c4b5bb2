import type { Message } from '@aws-sdk/client-sqs';
import { Alarm, backOff, type Clock, Heap, type Logger, sleep, WaybillError } from '@waybill/core/adapter';
import { batches } from './batches.ts';
import { failureOf, isMissing, requestFailure } from './errors.ts';
import type { Link, LinkListener } from './link.ts';
import { arrivalCopy, fromMessage, hopCopy } from './message.ts';
import { maxTopicBytes, type Publisher } from './publisher.ts';
import { delaySecondsOf, type Handle, type Requests, waitHere } from './requests.ts';
import type { Topology } from './topology.ts';

/** Seconds that others leave us a message for; when we die, it is late by so much. */
const visibility = 10;
/**
 * Milliseconds that what is due waits from when its topic was found missing: members make it again within a minute or
 * so. Afterwards nobody wants it.
 */
const topicPatience = 10 * 60_000;
/** Messages that may wait here at once. */
const maxHeld = 500;
const afterFailure = { initial: 200, max: 10_000 } as const;

export interface ForwarderParts {
  readonly link: Link;
  readonly requests: Requests;
  readonly topology: Topology;
  readonly publisher: Publisher;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether the queue is ours to make again after somebody has deleted it. */
  readonly makesQueue: boolean;
}

interface Waiting {
  readonly dueAt: number;
  /** End of the time in which no other process has it. */
  readonly until: number;
  readonly handle: Handle;
  readonly message: Message;
  readonly topic: string;
}

/**
 * Brings delayed publishes to their topics. SNS has no delay, so they wait in one queue for all topics of a prefix;
 * every connection with members runs one of these, and whichever has a message when its time has come publishes it.
 */
export class Forwarder implements LinkListener {
  readonly #parts: ForwarderParts;
  readonly #held = new Heap<Waiting>((a, b) => a.dueAt < b.dueAt);
  readonly #alarm: Alarm;
  /** Topics that were not there, and the first and the last time that they were not, in `clock.monotonic()`. */
  readonly #missing = new Map<string, { readonly since: number; readonly seen: number }>();
  #running = false;
  /** What is refused is told once, until something goes through again. */
  #told = false;
  /** Ends a wait: there is room again, or SQS is back. */
  #goOn = new AbortController();

  constructor(parts: ForwarderParts) {
    this.#parts = parts;
    parts.link.listen(this);
    this.#alarm = new Alarm(parts.clock, () => this.#ring());
  }

  start(): void {
    if (this.#running || this.#parts.link.closed) return;
    this.#running = true;
    void this.#run();
  }

  /** Gives back what waits here; polls end by themselves. */
  async close(): Promise<void> {
    this.#alarm.stop();
    this.#parts.link.unlisten(this);
    this.#goOn.abort();
    await this.#release(this.#held.takeWhere(() => true).map(({ handle }) => handle));
  }

  // LinkListener

  interrupted(): void {}

  restored(): void {
    this.#goOn.abort();
  }

  #wait(ms: number): Promise<void> {
    this.#goOn = new AbortController();
    return sleep(this.#parts.clock, ms, this.#goOn.signal);
  }

  async #run(): Promise<void> {
    const { link, requests, topology, logger, makesQueue } = this.#parts;
    let failures = 0;
    let deleted = false;
    while (!link.closed) {
      try {
        const queueUrl = deleted && makesQueue ? await topology.makeDelayQueue() : await topology.delayQueue();
        deleted = false;
        if (queueUrl === undefined) {
          this.#running = false; // the next delayed publish, or member, makes it
          return;
        }
        if (this.#held.size >= maxHeld) {
          await this.#wait(waitHere);
          continue;
        }
        const messages = await requests.receive(queueUrl, { max: 10, waitSeconds: link.settings.pollWait, visibility });
        failures = 0;
        this.#arrived(messages, queueUrl);
      } catch (error) {
        if (link.closed) return;
        if (isMissing(error)) {
          topology.forgetDelayQueue();
          deleted = true;
        }
        failures++;
        if (failures === 3 && failureOf(error).kind === 'refused') {
          logger.warn('sqs: delayed publishes cannot be forwarded by this process; others may', {
            error: requestFailure(error, 'the delay queue cannot be read'),
          });
        }
        await this.#wait(backOff(failures, afterFailure));
      }
    }
  }

  #arrived(messages: readonly Message[], queueUrl: string): void {
    const { clock, link, logger } = this.#parts;
    const now = clock.now();
    const hops: { readonly handle: Handle; readonly message: Message; readonly left: number }[] = [];
    const due: Waiting[] = [];
    const back: Handle[] = [];
    for (const message of messages) {
      const { deliverAt = 0, destination } = fromMessage(message);
      const handle = { queueUrl, receiptHandle: message.ReceiptHandle ?? '' };
      const left = deliverAt - now;
      if (link.closed) back.push(handle);
      // Nobody knows where to; it stays hidden for a while, and is gone after two weeks.
      else if (destination === undefined)
        logger.warn('sqs: somebody has put a message of his own into the delay queue');
      else if (left > waitHere) hops.push({ handle, message, left });
      else {
        const received = clock.monotonic();
        const until = received + visibility * 1_000;
        const dueAt = received + Math.max(0, left);
        const waiting = { dueAt, until, handle, message, topic: destination };
        if (left <= 0) due.push(waiting);
        else {
          this.#held.push(waiting);
          this.#alarm.at(waiting.dueAt);
        }
      }
    }
    if (hops.length > 0) link.finish(this.#hop(queueUrl, hops));
    if (due.length > 0) link.finish(this.#forward(due));
    if (back.length > 0) link.finish(this.#release(back));
  }

  #ring(): void {
    const now = this.#parts.clock.monotonic();
    const due: Waiting[] = [];
    for (let first = this.#held.peek(); first !== undefined; first = this.#held.peek()) {
      if (first.dueAt > now) {
        this.#alarm.at(first.dueAt);
        break;
      }
      this.#held.pop();
      due.push(first);
    }
    if (this.#held.size < maxHeld) this.#goOn.abort();
    if (due.length > 0) this.#parts.link.finish(this.#forward(due));
  }

  /** Published first, deleted then: cut in between it comes twice rather than not at all. */
  async #forward(due: readonly Waiting[]): Promise<void> {
    const now = this.#parts.clock.monotonic();
    // This process may have been stopped for long: what others have by now is theirs.
    const ours = due.filter(({ until }) => until > now);
    await Promise.all(
      [...Map.groupBy(ours, ({ topic }) => topic)].map(([topic, group]) => this.#forwardTo(topic, group)),
    );
  }

  async #forwardTo(topic: string, group: readonly Waiting[]): Promise<void> {
    const { topology, publisher, requests, logger } = this.#parts;
    const done: Handle[] = [];
    try {
      // Only topics without order have delays.
      const arn = await topology.targetOf({ name: topic, ordered: false, lanes: undefined, options: undefined });
      const items = group.map((waiting) => {
        const wire = arrivalCopy(waiting.message);
        return { wire, bytes: wire.bytes, handle: waiting.handle, order: undefined };
      });
      for (const batch of batches(items, maxTopicBytes)) {
        const sent = await publisher.send(arn, batch);
        this.#missing.delete(topic);
        for (let i = 0; i < batch.length; i++) {
          const item = batch[i];
          if (item !== undefined && sent[i] === undefined) done.push(item.handle);
        }
        const failed = sent.find((result) => result?.status === 'failed');
        if (failed?.status === 'failed') this.#notForwarded(topic, failed.error);
        else this.#told = false;
      }
    } catch (error) {
      if (this.#isHomeless(topic, error)) {
        logger.warn(`sqs: ${group.length} delayed messages for topic "${topic}" are dropped: it was deleted`);
        done.push(...group.map(({ handle }) => handle));
      } else this.#notForwarded(topic, error);
    }
    await requests.deleteCopied(done);
  }

  /** Whether a topic has been missing for so long that nobody will make it again. */
  #isHomeless(topic: string, error: unknown): boolean {
    if (!isMissing(error)) {
      this.#missing.delete(topic); // an outage says nothing about the topic
      return false;
    }
    const now = this.#parts.clock.monotonic();
    const last = this.#missing.get(topic);
    // It may have been there in between, and others have brought it what was due.
    const since = last !== undefined && now - last.seen < topicPatience ? last.since : now;
    this.#missing.set(topic, { since, seen: now });
    return now - since >= topicPatience;
  }

  #notForwarded(topic: string, error: unknown): void {
    const { logger } = this.#parts;
    const text = `sqs: delayed messages for topic "${topic}" cannot be forwarded, tried again`;
    if (this.#told || (!WaybillError.is(error) && failureOf(error).kind !== 'refused')) {
      logger.debug(text, { error });
      return;
    }
    this.#told = true;
    logger.warn(text, { error: requestFailure(error, 'the topic takes nothing') });
  }

  async #hop(
    queueUrl: string,
    hops: readonly { readonly handle: Handle; readonly message: Message; readonly left: number }[],
  ): Promise<void> {
    const { requests } = this.#parts;
    const sent = await requests.send(
      queueUrl,
      hops.map(({ message, left }) => ({ wire: hopCopy(message), delaySeconds: delaySecondsOf(left) })),
    );
    await requests.deleteCopied(hops.flatMap(({ handle }, at) => (sent[at] === 'applied' ? [handle] : [])));
  }

  async #release(handles: readonly Handle[]): Promise<void> {
    if (handles.length > 0) await this.#parts.requests.hide(handles, () => 0);
  }
}
