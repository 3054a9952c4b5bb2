import { type Outcome, PublishError, type WaybillError } from '@waybill/core/adapter';
import { adapterName, isNotFound, isTransient, neverSent, requestFailure, status, statusOf, textOf } from './errors.ts';
import type { Link } from './link.ts';
import { limits, type PubsubMessage, sizeOf } from './message.ts';

/** A message and the topic it goes to, by its full name. */
export interface Parcel {
  readonly topic: string;
  readonly message: PubsubMessage;
}

export type Sent = { readonly status: 'stored'; readonly messageId: string } | Failed;

interface Failed {
  readonly status: 'failed';
  readonly outcome: Outcome;
  readonly retryable: boolean;
  readonly error: WaybillError;
  /** There is no such topic. */
  readonly missing: boolean;
}

/** Parcels of one topic and ordering key, by their places in the batch: a request may hold one key only. */
interface Line {
  readonly topic: string;
  readonly ordered: boolean;
  readonly places: number[];
}

/** Brings messages to topics, with a result for each. */
export class Sender {
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  async send(parcels: readonly Parcel[]): Promise<readonly Sent[]> {
    const results = new Array<Sent>(parcels.length);
    const lines = new Map<string, Line>();
    for (let place = 0; place < parcels.length; place++) {
      const { topic, message } = parcels[place] as Parcel;
      const id = message.orderingKey ? `${topic}\0${message.orderingKey}` : topic;
      const line = lines.get(id);
      if (line === undefined) lines.set(id, { topic, ordered: Boolean(message.orderingKey), places: [place] });
      else line.places.push(place);
    }
    await Promise.all([...lines.values()].map((line) => this.#sendLine(parcels, line, results)));
    return results;
  }

  async #sendLine(parcels: readonly Parcel[], { topic, ordered, places }: Line, results: Sent[]): Promise<void> {
    const requests = cut(parcels, places);
    if (ordered) await this.#inOrder(parcels, topic, requests, results);
    else await Promise.all(requests.map((request) => this.#request(parcels, topic, request, results)));
  }

  /** What follows in a key may not overtake what is to be sent again. What failed for good holds nothing up. */
  async #inOrder(
    parcels: readonly Parcel[],
    topic: string,
    requests: readonly (readonly number[])[],
    results: Sent[],
  ): Promise<Failed | undefined> {
    let failed: Failed | undefined;
    for (const request of requests) {
      if (failed === undefined) failed = await this.#request(parcels, topic, request, results);
      else for (const place of request) results[place] = { ...failed, outcome: 'not-sent' };
    }
    return failed;
  }

  /** @returns the failure after which the same is to be sent again */
  async #request(
    parcels: readonly Parcel[],
    topic: string,
    places: readonly number[],
    results: Sent[],
  ): Promise<Failed | undefined> {
    const messages = places.map((place) => (parcels[place] as Parcel).message);
    try {
      const { messageIds } = await this.#link.call((link) => link.publisher.publish({ topic, messages }, link.once()));
      for (let i = 0; i < places.length; i++) {
        results[places[i] as number] = { status: 'stored', messageId: messageIds?.[i] ?? '' };
      }
      return undefined;
    } catch (error) {
      // One message that the service does not take fails the whole request: alone it fails alone.
      if (statusOf(error) === status.invalidArgument && places.length > 1) {
        const alone = places.map((place) => [place]);
        return this.#inOrder(parcels, topic, alone, results);
      }
      const failure = failureOf(error, topic);
      for (const place of places) results[place] = failure;
      return failure.retryable ? failure : undefined;
    }
  }
}

/** Cuts a line into requests that keep to the service's limits. */
function cut(parcels: readonly Parcel[], places: readonly number[]): (readonly number[])[] {
  const requests: number[][] = [];
  let request: number[] = [];
  let bytes = 0;
  for (const place of places) {
    const size = sizeOf((parcels[place] as Parcel).message);
    if (request.length > 0 && (request.length >= limits.messagesPerPublish || bytes + size > limits.requestBytes)) {
      requests.push(request);
      request = [];
      bytes = 0;
    }
    request.push(place);
    bytes += size;
  }
  if (request.length > 0) requests.push(request);
  return requests;
}

function failureOf(cause: unknown, topic: string): Failed {
  const what = `${topic} cannot be published to`;
  const code = statusOf(cause);
  const failed = (outcome: Outcome, retryable: boolean, error: WaybillError, missing = false): Failed => ({
    status: 'failed',
    outcome,
    retryable,
    error,
    missing,
  });
  // Thrown by the link: nothing is sent while the broker is away.
  if (code === undefined) return failed('not-sent', true, requestFailure(cause, what));
  if (isNotFound(cause)) return failed('not-sent', true, requestFailure(cause, what), true);
  if (neverSent(cause) || code === status.resourceExhausted)
    return failed('not-sent', true, requestFailure(cause, what));
  if (isTransient(cause)) return failed('unknown', true, requestFailure(cause, what));
  if (code === status.permissionDenied || code === status.unauthenticated) {
    return failed('not-sent', false, requestFailure(cause, what));
  }
  const refused = new PublishError(`${what}: ${textOf(cause)}`, { adapter: adapterName, cause, outcome: 'not-sent' });
  return failed('not-sent', false, refused);
}
