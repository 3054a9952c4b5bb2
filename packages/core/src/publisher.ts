import type { Capabilities, OutgoingMessage, SendResult } from './adapter.ts';
import { Alarm } from './alarm.ts';
import { type Clock, sleep } from './clock.ts';
import { diagnostics } from './diagnostics.ts';
import {
  ClosedError,
  MessageTooLargeError,
  type Outcome,
  PublishError,
  PublishTimeoutError,
  WaybillError,
} from './errors.ts';
import { Fifo } from './fifo.ts';
import { Heap } from './heap.ts';
import { backOff } from './retry.ts';
import type { Receipt } from './types.ts';

export interface PublishQueueOptions {
  readonly adapter: string;
  /** `connection.publish` */
  readonly publish: (batch: readonly OutgoingMessage[]) => Promise<readonly SendResult[]>;
  readonly capabilities: Pick<Capabilities, 'maxMessageBytes' | 'publish'>;
  readonly clock: Clock;
  /** Milliseconds. */
  readonly publishTimeout: number;
  /** How many are on their way at once; the others wait for room. */
  readonly maxPending: number;
  readonly random?: () => number;
}

export interface SendOptions {
  readonly signal?: AbortSignal | undefined;
  /** When the user asked for it, in `clock.monotonic()`: `publishTimeout` counts from then. Default: now. */
  readonly since?: number;
}

/** Where a publish is; it goes back from `sending` to `waiting` or `resting` when it has to be sent again. */
type Stage =
  /** Waits for room. */
  | 'outside'
  /** In the queue, or in its key's. */
  | 'waiting'
  /** Was sent in vain, and waits to be sent again. Those with a key do so in their key's queue. */
  | 'resting'
  /** In a batch that is under way. */
  | 'sending'
  | 'settled';

class Publish {
  stage: Stage = 'outside';
  batch: Batch | undefined;
  keyQueue: KeyQueue | undefined;
  sends = 0;
  /** The broker may have it from a send that ended without an answer. */
  uncertain = false;
  /** Why the last send failed. */
  error: WaybillError | undefined;
  readonly message: OutgoingMessage;
  readonly bytes: number;
  readonly since: number;
  readonly signal: AbortSignal | undefined;
  resolve: (receipt: Receipt) => void = nothing;
  reject: (error: WaybillError) => void = nothing;
  cancel: () => void = nothing;

  constructor(message: OutgoingMessage, since: number, signal: AbortSignal | undefined) {
    this.message = message;
    this.bytes = sizeOf(message);
    this.since = since;
    this.signal = signal;
  }
}

const nothing = (): void => {};

/** The messages of one key of an ordered topic: in their order, and one send at a time. */
class KeyQueue {
  readonly name: string;
  waiting: Publish[] = [];
  /** A send of it is under way, or has failed and is to be repeated: nothing else of it may go. */
  busy = false;
  /** It stands in the queue of what may be sent. */
  queued = false;
  /** Set while a batch ends: the place in it of the key's last message that is stored, and of the last that may be. */
  lastStored = -1;
  lastTaken = -1;
  /** Set while a batch ends: what is to be sent again. */
  returned: Publish[] = [];

  constructor(name: string) {
    this.name = name;
  }
}

interface Batch {
  readonly publishes: Publish[];
  readonly keyQueues: KeyQueue[];
  bytes: number;
  /** How many of it have not settled. */
  open: number;
  over: boolean;
}

/** What failed together is repeated together. */
interface Rest {
  readonly until: number;
  readonly publishes: readonly Publish[];
  readonly keyQueues: readonly KeyQueue[];
}

/** Of repeated sends, in milliseconds. A connection that is restored ends the wait at once. */
const repeatAfter = { initial: 50, max: 5_000 } as const;

/**
 * Brings messages to the broker. Load forms the batches: a publish is sent at once, with all that came in the same
 * turn; what comes while the allowed number of sends is under way goes together with the next one.
 *
 * What fails but may succeed later is sent again, until `publishTimeout` (PUB-06). On an ordered topic one send of a
 * key is under way at a time, and a message that is sent again goes before the later ones of its key. Where one of
 * those is, or may be, stored already, the message is not sent again but rejected: it never comes behind in silence
 * (PUB-08). One that fails for good is rejected alone; those behind it go on.
 */
export class PublishQueue {
  readonly #options: PublishQueueOptions;
  readonly #clock: Clock;
  readonly #alarm: Alarm;
  /** All that have not settled; in the order of their deadlines, except for those that are also in `#early`. */
  readonly #open = new Set<Publish>();
  /** Came behind one that has more time: these had waited for their topic. Few, and looked through one by one. */
  readonly #early = new Set<Publish>();
  #latestSince = Number.NEGATIVE_INFINITY;
  /** Those above `maxPending`. */
  readonly #outside = new Fifo<Publish>();
  #inside = 0;
  readonly #ready = new Fifo<Publish | KeyQueue>();
  /** How many in `ready` have settled there, or have been emptied. */
  #stale = 0;
  readonly #keyQueues = new Map<string, KeyQueue>();
  readonly #rests = new Heap<Rest>((a, b) => a.until < b.until);
  #sends = 0;
  #scheduled = false;
  #interruption: WaybillError | undefined;
  #closed = false;
  #idle: (() => void)[] = [];

  constructor(options: PublishQueueOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#alarm = new Alarm(options.clock, () => this.#ring());
  }

  /** Publishes that have not settled, those that wait for room included. */
  get pending(): number {
    return this.#open.size;
  }

  /**
   * Resolves when the broker has stored the message.
   *
   * @throws MessageTooLargeError, PublishError, PublishTimeoutError, ClosedError, or what the adapter says
   */
  send(message: OutgoingMessage, options: SendOptions = {}): Promise<Receipt> {
    const { signal } = options;
    if (this.#closed) return Promise.reject(new ClosedError('the bus'));
    const { maxMessageBytes } = this.#options.capabilities;
    const size = message.body.byteLength;
    if (size > maxMessageBytes) {
      const { adapter } = this.#options;
      return Promise.reject(new MessageTooLargeError(message.topic.name, size, maxMessageBytes, { adapter }));
    }
    if (signal?.aborted) return Promise.reject(cancelled(message, signal));
    const publish = new Publish(message, options.since ?? this.#clock.monotonic(), signal);
    const settled = new Promise<Receipt>((resolve, reject) => {
      publish.resolve = resolve;
      publish.reject = reject;
    });
    if (signal !== undefined) {
      publish.cancel = () => this.#cancel(publish);
      signal.addEventListener('abort', publish.cancel, { once: true });
    }
    this.#open.add(publish);
    if (publish.since < this.#latestSince) this.#early.add(publish);
    else this.#latestSince = publish.since;
    this.#alarm.at(this.#deadline(publish));
    if (this.#inside < this.#options.maxPending) this.#admit(publish);
    else this.#outside.push(publish);
    return settled;
  }

  /** Nothing is sent from now on. */
  interrupted(error: WaybillError): void {
    this.#interruption = error;
  }

  /** What waits is sent at once. */
  restored(): void {
    this.#interruption = undefined;
    for (let rest = this.#rests.pop(); rest !== undefined; rest = this.#rests.pop()) this.#wake(rest);
    this.#schedule();
  }

  /** Resolves when nothing is pending. */
  idle(): Promise<void> {
    return this.#open.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Resolves when nothing is pending, at the latest after `timeout` milliseconds. */
  async flush(timeout: number): Promise<void> {
    if (this.#open.size === 0) return;
    const flushed = new AbortController();
    await Promise.race([this.idle(), sleep(this.#clock, timeout, flushed.signal)]);
    flushed.abort();
  }

  /** Rejects what is pending, with `PublishTimeoutError`, and everything from now on, with `ClosedError`. */
  close(): void {
    this.#closed = true;
    for (const publish of this.#open) this.#giveUp(publish, 'before the bus was closed');
    this.#alarm.off();
  }

  #deadline(publish: Publish): number {
    return publish.since + this.#options.publishTimeout;
  }

  #admit(publish: Publish): void {
    this.#inside++;
    publish.stage = 'waiting';
    const { topic, key } = publish.message;
    if (topic.ordered && key !== undefined) {
      const name = `${topic.name}\0${key}`;
      let keyQueue = this.#keyQueues.get(name);
      if (keyQueue === undefined) {
        keyQueue = new KeyQueue(name);
        this.#keyQueues.set(name, keyQueue);
      }
      publish.keyQueue = keyQueue;
      keyQueue.waiting.push(publish);
      this.#offer(keyQueue);
    } else this.#ready.push(publish);
    this.#schedule();
  }

  /** Lets a key's queue be sent from, unless it has to wait; forgets it when there is nothing left in it. */
  #offer(keyQueue: KeyQueue): void {
    if (keyQueue.busy || keyQueue.queued) return;
    if (keyQueue.waiting.length === 0) this.#keyQueues.delete(keyQueue.name);
    else {
      keyQueue.queued = true;
      this.#ready.push(keyQueue);
    }
  }

  #schedule(): void {
    if (this.#scheduled || this.#ready.size === 0 || !this.#maySend()) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (this.#maySend()) {
        const batch = this.#take();
        if (batch.publishes.length === 0) return;
        this.#send(batch);
      }
    });
  }

  #maySend(): boolean {
    return this.#interruption === undefined && this.#sends < this.#options.capabilities.publish.maxInFlight;
  }

  /** All that waits and may be sent, as far as it fits into one batch. */
  #take(): Batch {
    const batch: Batch = { publishes: [], keyQueues: [], bytes: 0, open: 0, over: false };
    for (let next = this.#ready.peek(); next !== undefined; next = this.#ready.peek()) {
      if (next instanceof KeyQueue) {
        const { waiting } = next;
        let taken = 0;
        while (taken < waiting.length && this.#add(batch, waiting[taken] as Publish)) taken++;
        if (taken === 0 && waiting.length > 0) break;
        this.#ready.shift();
        next.queued = false;
        if (taken > 0) {
          next.waiting = waiting.slice(taken);
          next.busy = true;
          batch.keyQueues.push(next);
        } else this.#offer(next);
        if (taken < waiting.length) break;
      } else {
        if (next.stage === 'waiting' && !this.#add(batch, next)) break;
        this.#ready.shift();
      }
    }
    return batch;
  }

  /** False when the batch is full; one message fits always. */
  #add(batch: Batch, publish: Publish): boolean {
    const { maxMessages, maxBytes } = this.#options.capabilities.publish;
    const { publishes } = batch;
    const full = publishes.length >= maxMessages || batch.bytes + publish.bytes > maxBytes;
    if (full && publishes.length > 0) return false;
    publishes.push(publish);
    batch.bytes += publish.bytes;
    return true;
  }

  #send(batch: Batch): void {
    this.#sends++;
    batch.open = batch.publishes.length;
    const messages = batch.publishes.map((publish) => {
      publish.stage = 'sending';
      publish.batch = batch;
      publish.sends++;
      return publish.message;
    });
    let sent: Promise<readonly SendResult[]>;
    try {
      sent = this.#options.publish(messages);
    } catch (error) {
      sent = Promise.reject(error);
    }
    sent.then(
      (results) => this.#ended(batch, results, noAnswer),
      (error: unknown) => this.#ended(batch, [], failedSend(error, this.#options.adapter)),
    );
  }

  /** @param missing what holds for a message without a result */
  #ended(batch: Batch, results: readonly SendResult[], missing: SendResult): void {
    // Given up on before, because all of it had run out of time.
    if (batch.over) return;
    batch.over = true;
    this.#sends--;
    const { publishes, keyQueues } = batch;
    if (keyQueues.length > 0) notePlaces(publishes, results, missing);
    const again: Publish[] = [];
    for (let at = 0; at < publishes.length; at++) {
      const publish = publishes[at] as Publish;
      const result = results[at] ?? missing;
      publish.batch = undefined;
      if (publish.stage === 'settled') continue;
      if (result.status === 'stored') this.#stored(publish, result.position);
      else if (this.#failed(publish, at, result)) {
        if (publish.keyQueue === undefined) again.push(publish);
        else publish.keyQueue.returned.push(publish);
      }
    }
    this.#repeat(again, keyQueues);
    this.#schedule();
  }

  #stored(publish: Publish, position: string | undefined): void {
    const { id } = publish.message;
    this.#settle(publish, undefined);
    publish.resolve(position === undefined ? { id } : { id, position });
  }

  /** True when it is to be sent again. */
  #failed(publish: Publish, at: number, result: SendResult & { status: 'failed' }): boolean {
    publish.error = result.error;
    if (result.outcome === 'unknown') publish.uncertain = true;
    if (!result.retryable) {
      this.#reject(publish, refused(publish, result.error, this.#options.adapter));
      return false;
    }
    const { keyQueue } = publish;
    const later = result.outcome === 'unknown' ? keyQueue?.lastStored : keyQueue?.lastTaken;
    if (later !== undefined && later > at) {
      this.#reject(publish, overtaken(publish, result.error, this.#options.adapter));
      return false;
    }
    if (publish.signal?.aborted && !publish.uncertain) {
      this.#reject(publish, cancelled(publish.message, publish.signal));
      return false;
    }
    return true;
  }

  /** Sends again what is left of a batch, after a while, and lets its other keys go on. */
  #repeat(publishes: readonly Publish[], keyQueues: readonly KeyQueue[]): void {
    const held: KeyQueue[] = [];
    let sends = 0;
    for (const publish of publishes) {
      publish.stage = 'resting';
      sends = Math.max(sends, publish.sends);
    }
    for (const keyQueue of keyQueues) {
      const { returned } = keyQueue;
      if (returned.length > 0) {
        for (const publish of returned) {
          publish.stage = 'waiting';
          sends = Math.max(sends, publish.sends);
        }
        keyQueue.waiting = returned.concat(keyQueue.waiting);
        keyQueue.returned = [];
        held.push(keyQueue);
      } else {
        keyQueue.busy = false;
        this.#offer(keyQueue);
      }
    }
    if (sends === 0) return;
    const until = this.#clock.monotonic() + backOff(sends, repeatAfter, this.#options.random);
    const rest: Rest = { until, publishes, keyQueues: held };
    // While the connection is away only its return counts.
    if (this.#interruption !== undefined) this.#wake(rest);
    else {
      this.#rests.push(rest);
      this.#alarm.at(until);
    }
  }

  #wake({ publishes, keyQueues }: Rest): void {
    for (const publish of publishes) {
      if (publish.stage !== 'resting') continue;
      publish.stage = 'waiting';
      this.#ready.push(publish);
    }
    for (const keyQueue of keyQueues) {
      keyQueue.busy = false;
      this.#offer(keyQueue);
    }
  }

  #ring(): void {
    const now = this.#clock.monotonic();
    for (const publish of this.#early) this.#expired(publish, now);
    for (const publish of this.#open) if (!this.#expired(publish, now)) break;
    for (let rest = this.#rests.peek(); rest !== undefined; rest = this.#rests.peek()) {
      if (rest.until > now) {
        this.#alarm.at(rest.until);
        break;
      }
      this.#rests.pop();
      this.#wake(rest);
    }
    this.#schedule();
  }

  /** Gives up on a publish whose time is up; false, and the alarm set for it, when it has time left. */
  #expired(publish: Publish, now: number): boolean {
    const deadline = this.#deadline(publish);
    if (deadline <= now) this.#giveUp(publish, `within ${this.#options.publishTimeout} ms`);
    else this.#alarm.at(deadline);
    return deadline <= now;
  }

  #cancel(publish: Publish): void {
    if (publish.stage === 'settled' || publish.stage === 'sending' || publish.uncertain) return;
    this.#reject(publish, cancelled(publish.message, publish.signal));
  }

  #giveUp(publish: Publish, when: string): void {
    const outcome = publish.uncertain || publish.stage === 'sending' ? 'unknown' : 'not-sent';
    const what = outcome === 'unknown' ? 'the broker may have it' : 'the broker does not have it';
    this.#reject(
      publish,
      new PublishTimeoutError(`${describe(publish.message)} was not confirmed ${when}; ${what}`, {
        outcome,
        adapter: this.#options.adapter,
        cause: publish.error ?? this.#interruption,
      }),
    );
  }

  #reject(publish: Publish, error: WaybillError): void {
    this.#settle(publish, error);
    publish.reject(error);
  }

  /** Takes a publish out of wherever it is. */
  #settle(publish: Publish, error: WaybillError | undefined): void {
    const { stage, batch, keyQueue } = publish;
    publish.stage = 'settled';
    publish.signal?.removeEventListener('abort', publish.cancel);
    this.#open.delete(publish);
    this.#early.delete(publish);
    if (stage === 'outside') this.#trimOutside();
    else {
      this.#inside--;
      if (stage === 'waiting') this.#leave(publish, keyQueue);
      if (batch !== undefined && --batch.open === 0) this.#ended(batch, [], noAnswer);
      this.#letIn();
    }
    if (diagnostics.publish.hasSubscribers) this.#tell(publish, error);
    if (this.#open.size === 0) this.#nothingPending();
  }

  #leave(publish: Publish, keyQueue: KeyQueue | undefined): void {
    if (keyQueue !== undefined) {
      const { waiting } = keyQueue;
      // Mostly the oldest runs out of time first, so this is the first one unless it was cancelled.
      const at = waiting.indexOf(publish);
      if (at >= 0) waiting.splice(at, 1);
      if (waiting.length > 0 || keyQueue.busy) return;
    }
    // Not searched for one by one; but while the broker is away nobody else takes them out.
    if (++this.#stale < 1_000 || this.#stale * 2 < this.#ready.size) return;
    this.#stale = 0;
    for (const unit of this.#ready.takeWhere(isStale)) {
      if (unit instanceof KeyQueue) this.#keyQueues.delete(unit.name);
    }
  }

  /** Mostly those that run out of time stand at the head; one that does not goes when it gets there. */
  #trimOutside(): void {
    while (this.#outside.peek()?.stage === 'settled') this.#outside.shift();
  }

  #letIn(): void {
    if (this.#closed) return;
    while (this.#inside < this.#options.maxPending) {
      const next = this.#outside.shift();
      if (next === undefined) return;
      if (next.stage === 'outside') this.#admit(next);
    }
  }

  #nothingPending(): void {
    // What rests has settled; its keys are let go, because nothing rings for them any more.
    for (let rest = this.#rests.pop(); rest !== undefined; rest = this.#rests.pop()) this.#wake(rest);
    this.#alarm.off();
    const waiting = this.#idle;
    this.#idle = [];
    for (const resolve of waiting) resolve();
  }

  #tell(publish: Publish, error: WaybillError | undefined): void {
    const { id, key, type, topic, body } = publish.message;
    diagnostics.publish.publish({
      adapter: this.#options.adapter,
      topic: topic.name,
      id,
      key,
      type,
      bytes: body.byteLength,
      duration: this.#clock.monotonic() - publish.since,
      sends: publish.sends,
      ...(error !== undefined && { error }),
    });
  }
}

const isStale = (unit: Publish | KeyQueue): boolean =>
  unit instanceof KeyQueue ? unit.waiting.length === 0 : unit.stage === 'settled';

/** Where in a batch each key's last stored message is, and the last one that may be stored. */
function notePlaces(publishes: readonly Publish[], results: readonly SendResult[], missing: SendResult): void {
  for (const { keyQueue } of publishes) if (keyQueue !== undefined) keyQueue.lastStored = keyQueue.lastTaken = -1;
  for (let at = 0; at < publishes.length; at++) {
    const keyQueue = publishes[at]?.keyQueue;
    if (keyQueue === undefined) continue;
    const result = results[at] ?? missing;
    if (result.status === 'stored') keyQueue.lastStored = at;
    if (result.status === 'stored' || result.outcome === 'unknown') keyQueue.lastTaken = at;
  }
}

const noAnswer: SendResult = {
  status: 'failed',
  outcome: 'unknown',
  retryable: true,
  error: new PublishError('the adapter gave no result for the message', { outcome: 'unknown' }),
};

/** What a rejection of `publish` says about each message of the batch. */
function failedSend(error: unknown, adapter: string): SendResult {
  const known = WaybillError.is(error);
  return {
    status: 'failed',
    outcome: 'unknown',
    retryable: !(known && (error.code === 'CLOSED' || (error as { retryable?: boolean }).retryable === false)),
    error: known ? error : new PublishError('the send failed', { outcome: 'unknown', adapter, cause: error }),
  };
}

const describe = ({ topic, id }: OutgoingMessage): string => `message ${id} for topic "${topic.name}"`;

const outcomeOf = (publish: Publish): Outcome => (publish.uncertain ? 'unknown' : 'not-sent');

function cancelled(message: OutgoingMessage, signal: AbortSignal | undefined): PublishError {
  return new PublishError(`${describe(message)} was cancelled by its signal before it was sent`, {
    outcome: 'not-sent',
    cause: signal?.reason,
  });
}

/** The adapter's error, where it says all that has to be said. */
function refused(publish: Publish, error: WaybillError, adapter: string): WaybillError {
  const outcome = outcomeOf(publish);
  const says = (error as { outcome?: Outcome }).outcome;
  if (error.code !== 'CONNECTION' && (says === undefined ? error.code !== 'PUBLISH' : says === outcome)) return error;
  return new PublishError(`${describe(publish.message)} was not accepted: ${error.message}`, {
    outcome,
    adapter: error.adapter ?? adapter,
    cause: error,
  });
}

function overtaken(publish: Publish, error: WaybillError, adapter: string): PublishError {
  return new PublishError(
    `${describe(publish.message)} failed while a later message of its key was stored; it is not sent again, because it would come behind that one: ${error.message}`,
    { outcome: outcomeOf(publish), adapter: error.adapter ?? adapter, cause: error },
  );
}

/** Bytes of a message on the wire, as far as the user made them. */
function sizeOf({ body, headers, id, key, type, contentType }: OutgoingMessage): number {
  let bytes = body.byteLength + id.length + contentType.length;
  if (key !== undefined) bytes += Buffer.byteLength(key);
  if (type !== undefined) bytes += Buffer.byteLength(type);
  for (const name in headers) bytes += name.length + Buffer.byteLength(headers[name] as string);
  return bytes;
}
