import { randomUUID } from 'node:crypto';
import { InvalidMessageError, WaybillError } from './errors.ts';
import type { Held } from './held.ts';
import type { ClaimOutcome } from './idempotency.ts';
import { ReceivedMessage } from './message.ts';
import type { Pipeline, Unit } from './pipeline.ts';
import type { CompiledIdempotency } from './subscribe-options.ts';
import { type DecodedMessage, decodeMessage, UnknownTypeError } from './validate.ts';
import { verdictOf } from './verdict.ts';

/** How one call of the handler ended: `give-back` when it is not to count at all. */
export type AttemptResult = 'ok' | 'give-back' | { readonly error: unknown };

/** How long a message stays away whose claim somebody else holds (IDEM-04). */
const busyDelay = 500;
/** How long messages stay away while the idempotency store cannot be asked (IDEM-06). */
const storeAwayDelay = 2_000;

/**
 * One attempt of a unit, from screening to verdict: expiry, crash guard, decoding, idempotency, middleware and
 * handler, outcome. Never rejects.
 */
export async function runAttempt(pipeline: Pipeline, unit: Unit): Promise<void> {
  try {
    const messages: ReceivedMessage[] = [];
    for (const held of unit.helds) {
      if (!screen(pipeline, held)) continue;
      const opened = open(pipeline, held);
      const message = opened instanceof Promise ? await opened : opened;
      if (message !== undefined) messages.push(message);
    }
    const { idempotency } = pipeline.setup.settings;
    if (messages.length > 0) {
      if (idempotency === undefined) await attemptPlain(pipeline, unit, messages);
      else await attemptOnce(pipeline, unit, messages, idempotency);
    }
  } catch (error) {
    // Nothing above may throw; if it does all the same, no message may be stuck in our hands.
    pipeline.setup.logger.error(`${pipeline.what}: an attempt failed inside Waybill; its messages are given back`, {
      error,
    });
    for (const held of unit.helds) if (held.state === 'running') pipeline.again(held, 1_000, held.attempt, 'givenBack');
  }
  pipeline.finished(unit);
}

/** What is decided without a handler; false when the message has been dealt with. */
function screen(pipeline: Pipeline, held: Held): boolean {
  const { delivery } = held;
  if (!pipeline.alive(held)) return false;
  if (delivery.expiresAt !== undefined && delivery.expiresAt <= pipeline.setup.clock.now()) {
    pipeline.settle(held, { verb: 'ack', delivery }, 'expired');
    return false;
  }
  return delivery.deliveries === undefined || delivery.deliveries <= 1 || guardAgainstCrashes(pipeline, held);
}

/**
 * A message that came back without a word from its last holder may have killed it (RETRY-07). The broker's count
 * also counts those that only stood in a buffer beside the killer, so it convicts nobody: at `attempts` silent returns
 * the message is set apart, where a delivery is a handler call, and only that count ends in the dead letters.
 */
function guardAgainstCrashes(pipeline: Pipeline, held: Held): boolean {
  const { delivery } = held;
  const { settings, ordered, inPlace } = pipeline.setup;
  const silentReturns = (delivery.deliveries ?? 1) - 1;
  if (delivery.alone === true) {
    const made = delivery.attempt - 1 + silentReturns;
    if (made >= settings.retry.attempts) {
      pipeline.exhaust(held, 'crashed', new Error('the process died in every attempt'), made);
      return false;
    }
    held.attempt = made + 1;
    return true;
  }
  if (ordered || inPlace || delivery.attempt - 1 + silentReturns < settings.retry.attempts) return true;
  pipeline.settle(held, { verb: 'giveBack', delivery, after: 0, attempt: delivery.attempt, alone: true }, undefined);
  return false;
}

/** Decodes a message; `undefined` when it cannot be, and has been dealt with (SUB-10). A promise only for a schema. */
function open(pipeline: Pipeline, held: Held): ReceivedMessage | undefined | Promise<ReceivedMessage | undefined> {
  try {
    const decoded = decodeMessage(pipeline.setup.definition, pipeline.setup.codec, held.delivery);
    if (!(decoded instanceof Promise)) return messageOf(pipeline, held, decoded);
    return decoded.then(
      (done) => messageOf(pipeline, held, done),
      (error: unknown) => unreadable(pipeline, held, error),
    );
  } catch (error) {
    return unreadable(pipeline, held, error);
  }
}

function messageOf(pipeline: Pipeline, held: Held, { data, contentType }: DecodedMessage): ReceivedMessage | undefined {
  if (held.lost !== undefined) return undefined;
  const { delivery } = held;
  const { topic, clock } = pipeline.setup;
  const id = delivery.id ?? (delivery.position === undefined ? randomUUID() : `${topic}@${delivery.position}`);
  held.message = new ReceivedMessage(
    held,
    delivery,
    pipeline.setup,
    held.attempt,
    id,
    contentType,
    data,
    delivery.publishedAt ?? clock.now(),
  );
  return held.message;
}

function unreadable(pipeline: Pipeline, held: Held, error: unknown): undefined {
  const { settings } = pipeline.setup;
  if (error instanceof UnknownTypeError) {
    if (settings.unknownType === 'skip') pipeline.settle(held, { verb: 'ack', delivery: held.delivery }, 'dropped');
    else pipeline.exhaust(held, 'unknown-type', error, held.attempt - 1);
  } else if (settings.invalid === 'retry') {
    pipeline.carryOut(held, { verb: 'retry', after: undefined, error });
  } else if (settings.invalid === 'dead-letter') {
    pipeline.exhaust(held, 'invalid', error, held.attempt - 1);
  } else {
    pipeline.abandon(held);
    pipeline.setup.failed(
      WaybillError.is(error) ? error : new InvalidMessageError('body', String(error), { cause: error }),
    );
  }
  return undefined;
}

async function attemptPlain(pipeline: Pipeline, unit: Unit, messages: readonly ReceivedMessage[]): Promise<void> {
  const result = await call(pipeline, unit, messages);
  for (const held of unit.helds) {
    if (held.message !== undefined) conclude(pipeline, held, held.message, result);
  }
}

/** The handler's outcome becomes the message's, unless the handler decided about it itself (ACK-06). */
function conclude(pipeline: Pipeline, held: Held, message: ReceivedMessage, result: AttemptResult): void {
  if (held.lost !== undefined) return;
  const decided = message.verdict;
  if (decided !== undefined) {
    // Everything but a retry in place has been carried out when it was decided.
    if (decided.verb === 'retry' && pipeline.setup.inPlace) pipeline.carryOut(held, decided);
  } else if (result === 'give-back') pipeline.abandon(held);
  else pipeline.carryOut(held, result === 'ok' ? { verb: 'ack' } : verdictOf(result.error));
}

/** Calls middleware and handler, and waits for them no longer than the unit's time. */
function call(pipeline: Pipeline, unit: Unit, messages: readonly ReceivedMessage[]): Promise<AttemptResult> {
  const { settings, clock, handle } = pipeline.setup;
  return new Promise((resolve) => {
    unit.end = resolve;
    if (settings.timeout !== Number.POSITIVE_INFINITY) pipeline.expireAt(unit, clock.monotonic() + settings.timeout);
    let signal: AbortSignal | undefined;
    if (settings.batch.asked) {
      const controller = new AbortController();
      signal = controller.signal;
      unit.abort = (error) => controller.abort(error);
    }
    try {
      const returned = handle(messages, signal);
      if (isThenable(returned)) {
        returned.then(
          () => resolve('ok'),
          (error: unknown) => resolve({ error }),
        );
      } else resolve('ok');
    } catch (error) {
      resolve({ error });
    }
  });
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}

/** A message that has its claim, and waits inside `store.run` for the outcome of the attempt. */
interface Claimed {
  readonly message: ReceivedMessage;
  readonly held: Held;
  readonly end: (success: boolean) => void;
  readonly outcome: Promise<ClaimOutcome>;
}

/**
 * One attempt under idempotency: each message is claimed on its own, those that got their claim are handled together,
 * and each is marked by its own outcome. The ack follows the mark (IDEM-02).
 */
async function attemptOnce(
  pipeline: Pipeline,
  unit: Unit,
  messages: readonly ReceivedMessage[],
  idempotency: CompiledIdempotency,
): Promise<void> {
  const claimed: Claimed[] = [];
  const unclaimed: ReceivedMessage[] = [];
  for (const held of unit.helds) {
    const { message } = held;
    if (message === undefined || !messages.includes(message)) continue;
    const key = identify(pipeline, held, message, idempotency);
    if (key === undefined) continue;
    if (key === unidentified) unclaimed.push(message);
    else {
      const claim = await claimOf(pipeline, held, message, key, idempotency);
      if (claim !== undefined) claimed.push(claim);
    }
  }
  const admitted = [...unclaimed, ...claimed.map(({ message }) => message)];
  // Claiming takes a while: what was lost meanwhile is not handled, and its claim is let go.
  const ours = new Set(unit.helds.flatMap((held) => (held.lost === undefined && held.message ? [held.message] : [])));
  const called = admitted.filter((message) => ours.has(message));
  const result = called.length === 0 ? 'give-back' : await call(pipeline, unit, called);
  for (const { message, held, end, outcome } of claimed) {
    const success = message.verdict === undefined ? result === 'ok' : message.verdict.verb === 'ack';
    end(success && ours.has(message));
    try {
      await outcome;
      pipeline.storeTrouble(undefined);
      conclude(pipeline, held, message, result);
    } catch (error) {
      // Handled, but not remembered: without a mark an ack could let a duplicate run, so it comes again itself.
      if (message.verdict === undefined) storeAway(pipeline, held, error);
    }
  }
  for (const held of unit.helds) {
    if (held.message !== undefined && unclaimed.includes(held.message)) conclude(pipeline, held, held.message, result);
  }
}

const unidentified = Symbol('unidentified');

/** What makes the message the same as another; `undefined` when it has been dealt with (IDEM-07). */
function identify(
  pipeline: Pipeline,
  held: Held,
  message: ReceivedMessage,
  idempotency: CompiledIdempotency,
): string | typeof unidentified | undefined {
  try {
    const key = idempotency.key?.(message) ?? held.delivery.id ?? held.delivery.position;
    if (key !== undefined) return key;
  } catch (error) {
    pipeline.carryOut(held, verdictOf(error));
    return undefined;
  }
  if (idempotency.unidentified === 'handle') return unidentified;
  pipeline.exhaust(
    held,
    'invalid',
    new Error("nothing identifies this message; give idempotency.key, or unidentified: 'handle'"),
    held.attempt - 1,
  );
  return undefined;
}

/** Claims a message; `undefined` when it is not to be handled now, and has been dealt with. */
async function claimOf(
  pipeline: Pipeline,
  held: Held,
  message: ReceivedMessage,
  key: string,
  { store, window, epoch }: CompiledIdempotency,
): Promise<Claimed | undefined> {
  const { settings, topic, group } = pipeline.setup;
  let end: (success: boolean) => void = () => {};
  const ended = new Promise<boolean>((resolve) => {
    end = resolve;
  });
  let claimed: () => void = () => {};
  const joined = new Promise<'joined'>((resolve) => {
    claimed = () => resolve('joined');
  });
  const outcome = store.run({ scope: `${topic}\0${group}\0${epoch}`, key, lease: settings.lease, window }, () => {
    claimed();
    return ended;
  });
  try {
    const first = await Promise.race([joined, outcome]);
    if (first === 'joined') {
      outcome.catch(() => {});
      return { message, held, end, outcome };
    }
    if (first === 'duplicate') pipeline.settle(held, { verb: 'ack', delivery: held.delivery }, 'duplicates');
    else pipeline.again(held, busyDelay, held.attempt, 'givenBack');
  } catch (error) {
    storeAway(pipeline, held, error);
  }
  return undefined;
}

function storeAway(pipeline: Pipeline, held: Held, error: unknown): void {
  pipeline.storeTrouble(error);
  pipeline.again(held, storeAwayDelay, held.attempt, 'givenBack');
}
