import {
  type Clock,
  InvalidMessageError,
  MessageTooLargeError,
  type Outcome,
  PublishError,
  type WaybillError,
} from '@waybill/core/adapter';
import type { ConfirmChannel, Message, Options } from 'amqplib';
import { closeChannel } from './channel.ts';
import { adapterName, brokerText, requestFailure, textOf } from './errors.ts';
import type { Link } from './link.ts';

/** A message on its way to an exchange. */
export interface Parcel {
  /** Named in errors. */
  readonly topic: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: Buffer;
  readonly properties: Options.Publish;
}

export type Sent =
  | { readonly status: 'stored' }
  /** No queue is bound for it: the broker has dropped it. */
  | { readonly status: 'unroutable' }
  | {
      readonly status: 'failed';
      readonly outcome: Outcome;
      readonly retryable: boolean;
      readonly error: WaybillError;
    };

const stored: Sent = { status: 'stored' };
const unroutable: Sent = { status: 'unroutable' };

/** One parcel of a batch that is on its way. */
interface Travelling {
  readonly batch: Batch;
  /** Its place in the batch. */
  readonly at: number;
  /** `undefined` when its time is up, and nobody waits for it any more. */
  parcel: Parcel | undefined;
  returned: boolean;
}

/**
 * How many confirms a channel may owe beyond their time. amqplib and the broker keep a place for each as long as it is
 * open; so one whose queue does not answer (it has lost its majority, say) is given up at some time.
 */
const maxOverdue = 4_000;

/** Publishes batches and waits for the broker's confirms, on a channel that is opened again when it was closed. */
export class ConfirmSender {
  readonly #link: Link;
  readonly #clock: Clock;
  /** Milliseconds. */
  readonly #timeout: number;
  #channel: Promise<SendChannel> | undefined;
  /** The broker's `max_message_size`, once it has told us by closing a channel. */
  #limit = Number.POSITIVE_INFINITY;

  constructor(link: Link, clock: Clock, timeout: number) {
    this.#link = link;
    this.#clock = clock;
    this.#timeout = timeout;
  }

  /** A result for each, in order, within the time-out; at once while the broker takes none. */
  async send(parcels: readonly Parcel[]): Promise<readonly Sent[]> {
    const { blocked } = this.#link;
    if (blocked !== undefined) {
      return parcels.map((parcel) => notSent(parcel, `the broker takes no messages at the moment: ${blocked}`));
    }
    const batch = new Batch(parcels.length);
    const timer = this.#clock.setTimeout(() => batch.expire(), this.#timeout);
    try {
      const channel = await Promise.race([this.#open(), batch.over]);
      if (channel === undefined)
        return parcels.map((parcel) => notSent(parcel, 'the broker opened no channel in time'));
      await this.#write(channel, parcels, batch);
      const results = await batch.done;
      if (batch.expired) channel.forget(batch);
      return results;
    } catch (cause) {
      const error = requestFailure(cause, 'no channel to publish on');
      return parcels.map(() => ({ status: 'failed', outcome: 'not-sent', retryable: true, error }));
    } finally {
      timer.cancel();
    }
  }

  async #write(channel: SendChannel, parcels: readonly Parcel[], batch: Batch): Promise<void> {
    for (let i = 0; i < parcels.length; i++) {
      const parcel = parcels[i] as Parcel;
      if (batch.expired || channel.closed) {
        batch.settle(i, notSent(parcel, batch.expired ? 'the broker did not take it in time' : channel.reason));
      } else if (parcel.body.length > this.#limit) {
        batch.settle(i, tooLarge(parcel, this.#limit));
      } else {
        const room = channel.publish(parcel, batch, i);
        if (!room) await Promise.race([channel.drained(), batch.over]);
      }
    }
    batch.written();
  }

  #open(): Promise<SendChannel> {
    if (this.#channel !== undefined) return this.#channel;
    const opening = this.#link.model.createConfirmChannel().then(
      (channel) =>
        new SendChannel(channel, (limit) => {
          this.#limit = Math.min(this.#limit, limit);
        }),
    );
    this.#channel = opening;
    const forget = (): void => {
      if (this.#channel === opening) this.#channel = undefined;
    };
    opening.then((channel) => channel.onClose(forget), forget);
    return opening;
  }
}

/** The results of one call, gathered as the confirms come. */
class Batch {
  readonly done: Promise<readonly Sent[]>;
  /** Resolves when the time is up. */
  readonly over: Promise<undefined>;
  expired = false;
  #written = false;
  readonly #results: (Sent | undefined)[];
  #left: number;
  readonly #resolve: (results: readonly Sent[]) => void;
  readonly #end: (nothing: undefined) => void;

  constructor(size: number) {
    this.#results = new Array(size);
    this.#left = size;
    const done = Promise.withResolvers<readonly Sent[]>();
    this.done = done.promise;
    this.#resolve = done.resolve;
    const over = Promise.withResolvers<undefined>();
    this.over = over.promise;
    this.#end = over.resolve;
    if (size === 0) this.#resolve([]);
  }

  settle(index: number, result: Sent): void {
    if (this.#results[index] !== undefined) return;
    this.#results[index] = result;
    this.#left--;
    if (this.#left === 0) this.#finish();
  }

  /** Those that are not sent yet are settled by the loop that sends. */
  expire(): void {
    this.expired = true;
    this.#end(undefined);
    if (this.#written) this.#finish();
  }

  /** All have been sent, or settled. */
  written(): void {
    this.#written = true;
    if (this.expired) this.#finish();
  }

  /** What was sent and not confirmed may be stored. */
  #finish(): void {
    if (this.#left > 0) {
      const error = new PublishError('the broker did not confirm in time', {
        adapter: adapterName,
        outcome: 'unknown',
      });
      const unknown: Sent = { status: 'failed', outcome: 'unknown', retryable: true, error };
      for (let i = 0; i < this.#results.length; i++) this.#results[i] ??= unknown;
      this.#left = 0;
    }
    this.#resolve(this.#results as readonly Sent[]);
  }
}

class SendChannel {
  readonly #channel: ConfirmChannel;
  /** Unconfirmed ones in the order they were sent, without those that have come back. */
  readonly #travelling = new Set<Travelling>();
  readonly #onLimit: (limit: number) => void;
  #overdue = 0;
  #error: unknown;
  #closed = false;
  #waiting: (() => void)[] = [];

  constructor(channel: ConfirmChannel, onLimit: (limit: number) => void) {
    this.#channel = channel;
    this.#onLimit = onLimit;
    channel.on('error', (error) => {
      this.#error = error;
      const limit = sizeLimit(error);
      if (limit !== undefined) this.#onLimit(limit);
    });
    channel.on('return', (message) => this.#comesBack(message));
    channel.on('drain', () => this.#release());
    channel.on('close', () => {
      this.#closed = true;
      this.#release();
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  get reason(): string {
    return this.#error === undefined ? 'the connection was lost' : brokerText(this.#error);
  }

  onClose(listener: () => void): void {
    if (this.#closed) listener();
    else this.#channel.on('close', listener);
  }

  /** Resolves when there is room again, or will never be. */
  drained(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** @returns false when the write buffer is full */
  publish(parcel: Parcel, batch: Batch, at: number): boolean {
    const { exchange, routingKey, body, properties } = parcel;
    const one: Travelling = { batch, at, parcel, returned: false };
    try {
      this.#travelling.add(one);
      return this.#channel.publish(exchange, routingKey, body, properties, (error: unknown) =>
        this.#answer(one, error),
      );
    } catch (error) {
      this.#travelling.delete(one);
      batch.settle(at, encodingFailure(parcel, error));
      return true;
    }
  }

  /** The batch's time is up. */
  forget(batch: Batch): void {
    for (const one of this.#travelling) {
      if (one.batch !== batch) continue;
      this.#travelling.delete(one);
      one.parcel = undefined;
      this.#overdue++;
    }
    if (this.#overdue > maxOverdue && !this.#closed) void closeChannel(this.#channel);
  }

  #answer(one: Travelling, error: unknown): void {
    const { batch, at, parcel, returned } = one;
    this.#travelling.delete(one);
    if (parcel === undefined) this.#overdue--;
    else if (error !== null && error !== undefined) batch.settle(at, this.#failure(parcel, error));
    else batch.settle(at, returned ? unroutable : stored);
  }

  /** The broker says what it could not route before it confirms it, and in the order in which it was sent. */
  #comesBack(message: Message): void {
    const { exchange, routingKey } = message.fields;
    const { messageId } = message.properties;
    for (const one of this.#travelling) {
      const { parcel } = one;
      if (
        parcel?.exchange === exchange &&
        parcel.routingKey === routingKey &&
        parcel.properties.messageId === messageId &&
        parcel.properties.mandatory === true
      ) {
        one.returned = true;
        this.#travelling.delete(one);
        return;
      }
    }
  }

  #failure(parcel: Parcel, error: unknown): Sent {
    const limit = sizeLimit(this.#error);
    if (limit !== undefined && parcel.body.length > limit) return tooLarge(parcel, limit);
    // In amqplib's words a basic.nack: a queue has refused it, which says nothing about the other ones. Everything else
    // means that the channel ended before the confirm.
    const nacked = textOf(error) === 'message nacked';
    const why = nacked ? 'a queue of the broker refused to store it (basic.nack)' : this.reason;
    return {
      status: 'failed',
      outcome: 'unknown',
      retryable: true,
      error: new PublishError(`topic "${parcel.topic}": not confirmed: ${why}`, {
        adapter: adapterName,
        outcome: 'unknown',
        cause: this.#error ?? error,
      }),
    };
  }

  #release(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

function notSent(parcel: Parcel, why: string): Sent {
  const error = new PublishError(`topic "${parcel.topic}": not sent: ${why}`, {
    adapter: adapterName,
    outcome: 'not-sent',
  });
  return { status: 'failed', outcome: 'not-sent', retryable: true, error };
}

function tooLarge(parcel: Parcel, limit: number): Sent {
  const error = new MessageTooLargeError(parcel.topic, parcel.body.length, limit, { adapter: adapterName });
  return { status: 'failed', outcome: 'not-sent', retryable: false, error };
}

/** amqplib encodes before it writes: what throws there was not sent. */
function encodingFailure(parcel: Parcel, cause: unknown): Sent {
  if (cause instanceof RangeError || cause instanceof TypeError) {
    const error = new InvalidMessageError('headers', textOf(cause), { adapter: adapterName, cause });
    return { status: 'failed', outcome: 'not-sent', retryable: false, error };
  }
  return notSent(parcel, textOf(cause));
}

function sizeLimit(error: unknown): number | undefined {
  const match = /message size \d+ is larger than configured max size (\d+)/.exec(textOf(error));
  return match === null ? undefined : Number(match[1]);
}
