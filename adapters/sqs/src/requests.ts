import { randomUUID } from 'node:crypto';
import type { BatchResultErrorEntry, Message } from '@aws-sdk/client-sqs';
import { ConfigError, ConnectionError, type SettleResult } from '@waybill/core/adapter';
import { queueNameOf } from './arns.ts';
import { batches, maxEntries, tens } from './batches.ts';
import { adapterName, deadHandle, isMissing, isThrottled, requestFailure } from './errors.ts';
import type { Link } from './link.ts';
import type { Wire } from './message.ts';

/** Bytes of one message, and of one request. */
export const maxQueueBytes = 1024 * 1024;
/** Seconds that SQS keeps a message away at the most. */
export const maxDelaySeconds = 900;
/** Seconds that SQS hides a message that was received, from then on. */
export const maxVisibility = 43_200;
/** How often the original of a stored copy is deleted before it is left to come again, as a double. */
const deleteTries = 3;

/** A message on its way to a queue. */
export interface Parcel {
  readonly wire: Wire;
  /** Whole seconds; none on a FIFO queue. */
  readonly delaySeconds?: number | undefined;
  /** On a FIFO queue. */
  readonly messageGroup?: string | undefined;
  /** On a FIFO queue: what makes SQS drop a double. Default: made for each send. */
  readonly deduplication?: string | undefined;
}

/** What became of one entry of a request. `missing`: there is no such queue; nothing was done. */
export type Done = SettleResult | 'missing';

/** A message that was received: where, and by what it is known. */
export interface Handle {
  readonly queueUrl: string;
  readonly receiptHandle: string;
}

export interface Poll {
  readonly max: number;
  /** Seconds. */
  readonly waitSeconds: number;
  /** Seconds. */
  readonly visibility: number;
}

/** Requests about messages, in batches, with a result for each. */
export class Requests {
  readonly #link: Link;
  readonly #deletes = new Map<string, Deletes>();

  constructor(link: Link) {
    this.#link = link;
  }

  /** Stores messages; `applied` is stored. Those of a FIFO queue are stored in the order given, or not at all. */
  async send(queueUrl: string, parcels: readonly Parcel[]): Promise<readonly Done[]> {
    const items = parcels.map((parcel, at) => ({ at, parcel, bytes: parcel.wire.bytes }));
    const results = new Array<Done>(parcels.length).fill(notSent);
    const ordered = parcels[0]?.messageGroup !== undefined;
    const sends: Promise<void>[] = [];
    for (const batch of batches(items, maxQueueBytes)) {
      const Entries = batch.map(({ parcel }, id) => sendEntry(parcel, id));
      const send = this.#each(queueUrl, batch, results, notDone, () =>
        this.#link.askSqs((sqs, options) => sqs.sendMessageBatch({ QueueUrl: queueUrl, Entries }, options)),
      );
      if (!ordered) sends.push(send);
      else {
        await send;
        // What comes behind a failed one must not overtake it.
        if (batch.some(({ at }) => results[at] !== 'applied')) break;
      }
    }
    await Promise.all(sends);
    return results;
  }

  /** Deletes messages. `applied` says that SQS took it; whether the message was still ours, only the clock knows. */
  delete(handles: readonly Handle[]): Promise<readonly Done[]> {
    return Promise.all(
      handles.map(
        (handle) =>
          new Promise<Done>((resolve) => {
            const { queueUrl } = handle;
            let deletes = this.#deletes.get(queueUrl);
            if (deletes === undefined) {
              deletes = { pending: [], underWay: 0, scheduled: false };
              this.#deletes.set(queueUrl, deletes);
            }
            deletes.pending.push({ handle, resolve });
            this.#schedule(queueUrl, deletes);
          }),
      ),
    );
  }

  /** Load forms the batches: ten go at once, fewer go when no other delete of the queue is under way. */
  #schedule(queueUrl: string, deletes: Deletes): void {
    if (deletes.scheduled) return;
    deletes.scheduled = true;
    // Not sooner: handlers that end in the same turn go along.
    setImmediate(() => {
      deletes.scheduled = false;
      const { pending } = deletes;
      while (pending.length >= maxEntries || (pending.length > 0 && deletes.underWay === 0)) {
        void this.#deleteNow(queueUrl, deletes, pending.splice(0, maxEntries));
      }
      if (pending.length === 0 && deletes.underWay === 0) this.#deletes.delete(queueUrl);
    });
  }

  async #deleteNow(QueueUrl: string, deletes: Deletes, batch: readonly PendingDelete[]): Promise<void> {
    deletes.underWay++;
    const results = new Array<Done>(batch.length);
    const Entries = batch.map(({ handle }, id) => ({ Id: String(id), ReceiptHandle: handle.receiptHandle }));
    const items = batch.map((_, at) => ({ at }));
    await this.#each(QueueUrl, items, results, ofHandle, () =>
      this.#link.askSqs((sqs, options) => sqs.deleteMessageBatch({ QueueUrl, Entries }, options)),
    );
    deletes.underWay--;
    for (let at = 0; at < batch.length; at++) batch[at]?.resolve(results[at] ?? noWord);
    this.#schedule(QueueUrl, deletes);
  }

  /** Deletes originals whose copies are stored: each that stays comes again, as a double. */
  async deleteCopied(handles: readonly Handle[]): Promise<void> {
    let left = handles;
    for (let tries = 0; left.length > 0 && tries < deleteTries; tries++) {
      const done = await this.delete(left);
      left = left.filter((_, at) => typeof done[at] === 'object');
    }
  }

  /** Hides messages for so many seconds from now on; 0 shows them at once. */
  async hide(handles: readonly Handle[], seconds: (at: number) => number): Promise<readonly Done[]> {
    return this.#byQueue(handles, (QueueUrl, batch, indexes) => {
      const Entries = batch.map(({ receiptHandle: ReceiptHandle }, id) => ({
        Id: String(id),
        ReceiptHandle,
        VisibilityTimeout: seconds(indexes[id] as number),
      }));
      return this.#link.askSqs((sqs, options) => sqs.changeMessageVisibilityBatch({ QueueUrl, Entries }, options));
    });
  }

  /** One long poll. It is never aborted: SQS would give the next message to nobody. */
  async receive(queueUrl: string, { max, waitSeconds, visibility }: Poll): Promise<readonly Message[]> {
    const { Messages = [] } = await this.#link.askSqs((sqs, { requestTimeout }) =>
      sqs.receiveMessage(
        {
          QueueUrl: queueUrl,
          MaxNumberOfMessages: max,
          WaitTimeSeconds: waitSeconds,
          VisibilityTimeout: visibility,
          MessageAttributeNames: ['All'],
          MessageSystemAttributeNames: ['ApproximateReceiveCount', 'SentTimestamp', 'MessageGroupId'],
        },
        { requestTimeout: waitSeconds * 1_000 + requestTimeout },
      ),
    );
    return Messages;
  }

  async #byQueue(
    handles: readonly Handle[],
    ask: (queueUrl: string, batch: readonly Handle[], indexes: readonly number[]) => Promise<BatchAnswer>,
  ): Promise<readonly Done[]> {
    const results = new Array<Done>(handles.length);
    const items = handles.map((handle, at) => ({ at, handle }));
    const requests: Promise<void>[] = [];
    for (const [queueUrl, group] of Map.groupBy(items, ({ handle }) => handle.queueUrl)) {
      for (const batch of tens(group)) {
        const given = batch.map(({ handle }) => handle);
        const indexes = batch.map(({ at }) => at);
        requests.push(this.#each(queueUrl, batch, results, ofHandle, () => ask(queueUrl, given, indexes)));
      }
    }
    await Promise.all(requests);
    return results;
  }

  async #each(
    queueUrl: string,
    batch: readonly { readonly at: number }[],
    results: Done[],
    resultOf: (failed: BatchResultErrorEntry) => SettleResult,
    ask: () => Promise<BatchAnswer>,
  ): Promise<void> {
    for (const { at } of batch) results[at] = noWord;
    try {
      const { Successful = [], Failed = [] } = await ask();
      for (const { Id } of Successful) {
        const item = batch[Number(Id)];
        if (item !== undefined) results[item.at] = 'applied';
      }
      for (const failed of Failed) {
        const item = batch[Number(failed.Id)];
        if (item !== undefined) results[item.at] = resultOf(failed);
      }
    } catch (error) {
      const what = `a request to queue ${queueNameOf(queueUrl)} failed`;
      const result = isMissing(error) ? 'missing' : requestFailure(error, what);
      for (const { at } of batch) results[at] = result;
    }
  }
}

interface PendingDelete {
  readonly handle: Handle;
  resolve(done: Done): void;
}

/** The deletes of one queue. */
interface Deletes {
  readonly pending: PendingDelete[];
  underWay: number;
  scheduled: boolean;
}

interface BatchAnswer {
  readonly Successful?: readonly { readonly Id: string | undefined }[] | undefined;
  readonly Failed?: readonly BatchResultErrorEntry[] | undefined;
}

const failure = (text: string, retryable = true): ConnectionError =>
  new ConnectionError(text, { adapter: adapterName, retryable });

/** An entry in neither list of an answer counts as failed. */
const noWord = failure('SQS said nothing of an entry of a request');
const notSent = failure('a message before it was not stored');

/** What SQS says of a message that it has handed out: it may not be ours any more. */
function ofHandle(failed: BatchResultErrorEntry): SettleResult {
  return failed.SenderFault === true && deadHandle.test(failed.Code ?? '') ? 'lost' : notDone(failed);
}

function notDone({ Code = '', Message: text = '', SenderFault }: BatchResultErrorEntry): SettleResult {
  const retryable = SenderFault !== true || isThrottled(Code);
  return failure(`SQS did not carry out an entry of a request: ${text} (${Code})`, retryable);
}

/** The result for core where the queue was missing. */
export function settled(done: Done, what: string): SettleResult {
  if (done !== 'missing') return done;
  return new ConfigError('topology', `${what} does not exist; make it again`, { adapter: adapterName });
}

function sendEntry({ wire, delaySeconds, messageGroup, deduplication }: Parcel, id: number) {
  // A message's own id would swallow its copies and its redrive.
  const order = { MessageGroupId: messageGroup, MessageDeduplicationId: deduplication ?? randomUUID() };
  return {
    Id: String(id),
    MessageBody: wire.body,
    MessageAttributes: wire.attributes,
    ...(delaySeconds === undefined ? {} : { DelaySeconds: Math.min(delaySeconds, maxDelaySeconds) }),
    ...(messageGroup === undefined ? {} : order),
  };
}

/** SQS delays by whole seconds: what is due within this many milliseconds is waited out by whoever receives it. */
export const waitHere = 1_000;

/** The whole seconds of a delay that SQS keeps. */
export function delaySecondsOf(ms: number): number {
  return Math.min(maxDelaySeconds, Math.max(0, Math.floor(ms / 1_000)));
}
