import { randomUUID } from 'node:crypto';
import { RunningClaim } from './claim.ts';
import { InvalidMessageError, WaybillError } from './errors.ts';
import type { Held } from './held.ts';
import type { Claim, Inbox } from './idempotency.ts';
import { whenPassedOn } from './inbox.ts';
import { nameOf } from './limits.ts';
import { ReceivedMessage, type Refusal } from './message.ts';
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
    const opened: Held[] = [];
    for (const held of unit.helds) {
      if (!screen(pipeline, held)) continue;
      const message = open(pipeline, held);
      if ((message instanceof Promise ? await message : message) !== undefined) opened.push(held);
    }
    const { idempotency, inbox } = pipeline.setup.settings;
    if (idempotency !== undefined) await attemptOnce(pipeline, unit, opened, idempotency);
    else await attemptPlain(pipeline, unit, inbox === undefined ? opened : claimInbox(pipeline, opened, inbox));
  } catch (error) {
    // Nothing above may throw; if it does all the same, no message may be stuck in our hands.
    pipeline.setup.logger.error(`${pipeline.what}: an attempt failed inside Waybill; its messages are given back`, {
      error,
    });
    for (const held of unit.helds) if (held.state === 'running') pipeline.again(held, 1_000, held.attempt, 'givenBack');
  }
  pipeline.finished(unit);
}

/** Looked at again right before the handler: schemas and stores take their time, and much can happen meanwhile. */
function mayCall(pipeline: Pipeline, held: Held): boolean {
  if (held.lost !== undefined || held.message === undefined) return false;
  if (pipeline.open) return true;
  // Held in place while paused: its followers are in hand too, and must not start before it.
  if (pipeline.setup.inPlace) pipeline.again(held, 0, held.attempt, 'givenBack');
  else pipeline.abandon(held);
  return false;
}

/** What is decided without a handler; false when the message has been dealt with. */
function screen(pipeline: Pipeline, held: Held): boolean {
  const { delivery } = held;
  if (!pipeline.alive(held)) return false;
  if (pipeline.isStale(held)) {
    pipeline.abandon(held);
    return false;
  }
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
    const { id, position } = held.delivery;
    const reason = error instanceof Error ? error.message : String(error);
    pipeline.setup.failed(
      new InvalidMessageError(
        'body',
        `${pipeline.what}: message ${id ?? position} cannot be read, and invalid is 'stop': ${reason}`,
        { cause: error },
      ),
    );
    pipeline.abandon(held);
  }
  return undefined;
}

async function attemptPlain(pipeline: Pipeline, unit: Unit, opened: readonly Held[]): Promise<void> {
  const called = opened.filter((held) => mayCall(pipeline, held));
  const result = await call(pipeline, unit, called);
  for (const held of called) conclude(pipeline, held, result);
}

/** The handler's outcome becomes the message's, unless the handler decided about it itself (ACK-06). */
function conclude(pipeline: Pipeline, held: Held, result: AttemptResult): void {
  const refusal = held.message?.refusal;
  let decided = held.message?.verdict;
  held.message?.end();
  if (held.lost !== undefined) return;
  if (pipeline.setup.settings.inbox !== undefined) {
    if (typeof refusal !== 'object' || 'failed' in refusal) pipeline.storeTrouble(undefined);
    // What an inbox has rolled back is not done, whatever the handler said before it failed.
    if (decided?.verb === 'ack' && (result !== 'ok' || refusal !== undefined)) decided = undefined;
  }
  if (decided !== undefined) {
    // Everything else has been carried out when it was decided.
    if (pipeline.awaitsEnd(decided)) pipeline.carryOut(held, decided);
  } else if (refusal !== undefined) refused(pipeline, held, refusal, result);
  else if (result === 'give-back') pipeline.abandon(held);
  else pipeline.carryOut(held, result === 'ok' ? { verb: 'ack' } : verdictOf(result.error));
}

/** Calls middleware and handler, and waits for them no longer than the unit's time. */
function call(pipeline: Pipeline, unit: Unit, called: readonly Held[]): Promise<AttemptResult> {
  const { settings, handle, stream } = pipeline.setup;
  const messages = called.flatMap((held) => held.message ?? []);
  if (messages.length === 0) return Promise.resolve('give-back');
  return new Promise((resolve) => {
    unit.end = resolve;
    // The time of a stream's message begins when somebody takes it.
    if (stream) unit.deadline = Number.POSITIVE_INFINITY;
    else pipeline.called(unit);
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

/**
 * One attempt under idempotency: each message is claimed on its own, those that got their claim are handled together,
 * and each is marked by its own outcome. The ack follows the mark (IDEM-02).
 */
async function attemptOnce(
  pipeline: Pipeline,
  unit: Unit,
  opened: readonly Held[],
  idempotency: CompiledIdempotency,
): Promise<void> {
  // A store that never answers counts as one that is away, within the attempt's time.
  const late = new Promise<'late'>((resolve) => {
    unit.end = () => resolve('late');
  });
  pipeline.startTime(unit);
  const admitted = await Promise.all(opened.map((held) => admit(pipeline, held, idempotency, late)));
  const called = opened.filter((held, at) => admitted[at] === true && mayCall(pipeline, held));
  try {
    const result = await call(pipeline, unit, called);
    for (const held of called) {
      const decided = held.message?.verdict;
      held.claim?.end(decided === undefined ? result === 'ok' : decided.verb === 'ack');
    }
    for (const held of called) {
      if (held.claim === undefined) conclude(pipeline, held, result);
      else if (await marked(pipeline, held, held.claim)) conclude(pipeline, held, result);
    }
  } finally {
    // A claim outlives its attempt in no case: whatever was not handled may be by somebody else.
    for (const held of opened) {
      held.claim?.end(false);
      held.claim = undefined;
    }
  }
}

/** Whether the store has remembered the outcome; if not, the message comes again, because an ack needs its mark. */
async function marked(pipeline: Pipeline, held: Held, claim: RunningClaim): Promise<boolean> {
  try {
    await claim.outcome;
    return true;
  } catch (error) {
    const verdict = held.message?.verdict;
    // What took effect when it was decided has seen to that by itself.
    if (verdict === undefined || pipeline.awaitsEnd(verdict)) storeAway(pipeline, held, error);
    return false;
  }
}

/** Gives each message the claim that its inbox runs the handler under; leaves out what nothing identifies (IDEM-07). */
function claimInbox(
  pipeline: Pipeline,
  opened: readonly Held[],
  inbox: CompiledIdempotency<Inbox<unknown>>,
): readonly Held[] {
  return opened.filter((held) => {
    const { message } = held;
    if (message === undefined) return false;
    const key = identify(pipeline, held, message, inbox);
    if (key === undefined) return false;
    // Nobody else can have the one of a message that nothing identifies.
    message.claim = {
      ...claimOf(pipeline, key === 'unidentified' ? `\0${randomUUID()}` : key.is, inbox),
      signal: message.signal,
    };
    return true;
  });
}

function refused(pipeline: Pipeline, held: Held, refusal: Refusal, result: AttemptResult): void {
  if (refusal === 'duplicate') pipeline.settle(held, { verb: 'ack', delivery: held.delivery }, 'duplicates');
  else if (refusal === 'busy') pipeline.again(held, busyDelay, held.attempt, 'givenBack');
  else if ('away' in refusal) storeAway(pipeline, held, refusal.away);
  // What middleware made of the handler's error counts, unless it made nothing of it.
  else pipeline.carryOut(held, verdictOf(typeof result === 'object' ? result.error : refusal.failed));
}

/** What makes the message the same as another; `undefined` when it has been dealt with. */
function identify(
  pipeline: Pipeline,
  held: Held,
  message: ReceivedMessage,
  options: Pick<CompiledIdempotency, 'key' | 'unidentified'>,
): { readonly is: string } | 'unidentified' | undefined {
  try {
    const { id, position } = held.delivery;
    // Ids and positions are two kinds of names: one must not be taken for the other.
    const key: unknown = options.key?.(message) ?? id ?? (position === undefined ? undefined : `\0${position}`);
    if (typeof key === 'string') return { is: key };
    if (isThenable(key)) key.then(undefined, () => {});
    // All promises look alike, and so do all objects: their messages would be duplicates of each other.
    if (key !== undefined) throw new TypeError(`${optionOf(pipeline)}.key gave ${nameOf(key)}, not a text`);
  } catch (error) {
    pipeline.carryOut(held, verdictOf(error));
    return undefined;
  }
  if (options.unidentified === 'handle') {
    pipeline.count('unidentified');
    return 'unidentified';
  }
  const error = new Error(`nothing identifies this message; give ${optionOf(pipeline)}.key, or unidentified: 'handle'`);
  pipeline.exhaust(held, 'invalid', error, held.attempt - 1);
  return undefined;
}

function optionOf({ setup: { settings } }: Pipeline): 'idempotency' | 'inbox' {
  return settings.inbox === undefined ? 'idempotency' : 'inbox';
}

function claimOf(
  { setup: { topic, group, settings } }: Pipeline,
  key: string,
  { epoch, window }: Pick<CompiledIdempotency, 'epoch' | 'window'>,
): Claim {
  return { scope: `${topic}\0${group}\0${epoch}`, key, lease: settings.lease, window };
}

/** True when the handler may have the message; else it has been dealt with. Never rejects. */
async function admit(
  pipeline: Pipeline,
  held: Held,
  idempotency: CompiledIdempotency,
  late: Promise<'late'>,
): Promise<boolean> {
  const { message } = held;
  if (message === undefined) return false;
  const key = identify(pipeline, held, message, idempotency);
  if (key === undefined || key === 'unidentified') return key !== undefined;
  return claimFor(pipeline, held, message, key.is, idempotency, late);
}

async function claimFor(
  pipeline: Pipeline,
  held: Held,
  message: ReceivedMessage,
  key: string,
  idempotency: CompiledIdempotency,
  late: Promise<'late'>,
): Promise<boolean> {
  const ended = Promise.withResolvers<boolean>();
  const joined = Promise.withResolvers<'joined'>();
  try {
    const ran = idempotency.store.run(claimOf(pipeline, key, idempotency), (fence) => {
      joined.resolve('joined');
      whenPassedOn(fence, message);
      return ended.promise;
    });
    const outcome = ran.then((result) => {
      if (result !== 'ran' && held.claim?.success === true) throw new Error('its claim had passed on');
    });
    outcome.catch(() => {});
    const first = await Promise.race([joined.promise, ran, late]);
    if (first === 'late') {
      ended.resolve(false);
      throw new Error('it does not answer');
    }
    pipeline.storeTrouble(undefined);
    if (first === 'joined') {
      held.claim = new RunningClaim(outcome, ended.resolve);
      return true;
    }
    if (first === 'duplicate') pipeline.settle(held, { verb: 'ack', delivery: held.delivery }, 'duplicates');
    else pipeline.again(held, busyDelay, held.attempt, 'givenBack');
  } catch (error) {
    ended.resolve(false);
    storeAway(pipeline, held, error);
  }
  return false;
}

/** What the store could not be told, or did not tell, is not settled: the message comes again, as the attempt it was. */
export function storeAway(pipeline: Pipeline, held: Held, error: unknown): void {
  if (!WaybillError.is(error, 'CLOSED')) pipeline.storeTrouble(error);
  pipeline.again(held, storeAwayDelay, held.attempt, 'givenBack');
}
