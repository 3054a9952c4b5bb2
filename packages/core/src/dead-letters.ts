import type {
  Connection,
  DeadLetterCount,
  DeadLetterRecord,
  DeadLetterScan,
  GroupRef,
  SettleResult,
} from './adapter.ts';
import { type Clock, sleep } from './clock.ts';
import type { Codec } from './codec.ts';
import { decodeBare } from './decode.ts';
import { ConfigError, ConnectionError, WaybillError } from './errors.ts';
import { backOff } from './retry.ts';
import { type CompiledSelection, compileSelection, type Selection } from './selection.ts';
import { checkOptions } from './url.ts';
import type { DeadLetterReason } from './wire.ts';

/** A message that a group has given up on (DLQ-01). */
export interface DeadLetter {
  /** Its own id: two messages with one id are two entries. */
  readonly entry: string;
  /** The message's id; `undefined` on a foreign message without one. */
  readonly id: string | undefined;
  readonly topic: string;
  readonly group: string;
  readonly type: string | undefined;
  readonly key: string | undefined;
  readonly body: Uint8Array;
  /** As the content type says, without a look at the schema; `undefined` where the body does not decode. */
  readonly data: unknown;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly contentType: string | undefined;
  /** `undefined` on a foreign message whose broker does not say. */
  readonly publishedAt: Date | undefined;
  readonly reason: DeadLetterReason;
  readonly error: { readonly name: string; readonly message: string } | undefined;
  /** Handler calls that were made. */
  readonly attempts: number;
  /** When it became a dead letter. */
  readonly at: Date;
}

/** Which dead letters. */
export type DeadLetterSelection = Selection<DeadLetter>;

/** A group's dead letters (DLQ-03). */
export interface DeadLetters {
  count(): Promise<DeadLetterCount>;
  /** The oldest first. `limit` default 100. */
  peek(options?: { readonly limit?: number; readonly where?: (letter: DeadLetter) => boolean }): Promise<DeadLetter[]>;
  /** Sends them to the group once more, attempts from 1, without expiry (DLQ-04). Resolves with how many. */
  redrive(select: DeadLetterSelection): Promise<number>;
  /** Deletes them. Resolves with how many. */
  purge(select: DeadLetterSelection): Promise<number>;
}

export interface DeadLettersContext {
  readonly connection: Pick<Connection, 'countDeadLetters' | 'openDeadLetters'>;
  /** The group as it stands on the broker: asked for at each call. */
  readonly group: () => Promise<GroupRef>;
  /** The topic's codec, else the bus's. */
  readonly codec: Codec;
  readonly clock: Clock;
}

/** How many are in hand at once: few enough to be put back at once, enough to make the walk quick. */
const stride = 100;

export function deadLettersOf(context: DeadLettersContext): DeadLetters {
  const { connection, group } = context;
  return {
    count: async () => connection.countDeadLetters(await group()),
    async peek(options = {}) {
      checkOptions(options, ['limit', 'where'], '');
      const { limit = stride, where } = options;
      const found: DeadLetter[] = [];
      await walk(
        context,
        compileSelection(where === undefined ? { limit } : { limit, where }),
        async (_scan, chosen) => {
          for (const { letter } of chosen) found.push(letter);
          return chosen.length;
        },
      );
      return found;
    },
    redrive: async (select) => carryOut(context, 'redrive', compileSelection(select)),
    purge: async (select) => carryOut(context, 'purge', compileSelection(select)),
  };
}

interface Chosen {
  readonly record: DeadLetterRecord;
  readonly letter: DeadLetter;
}

/** Walks over what is there, oldest first. `visit` says how many of the chosen ones count towards the limit. */
async function walk(
  context: DeadLettersContext,
  { ids, where, limit }: CompiledSelection<DeadLetter>,
  visit: (scan: DeadLetterScan, chosen: readonly Chosen[], group: GroupRef) => Promise<number>,
): Promise<number> {
  const group = await context.group();
  const missing = ids && new Set(ids);
  let counted = 0;
  const scan = await context.connection.openDeadLetters(group);
  try {
    while (counted < limit && missing?.size !== 0) {
      const filtered = ids !== undefined || where !== undefined;
      const records = await scan.next(filtered ? stride : Math.min(stride, limit - counted));
      if (records.length === 0) break;
      const chosen: Chosen[] = [];
      for (const record of records) {
        if (counted + chosen.length >= limit) break;
        if (missing !== undefined && !missing.delete(record.details.entry)) continue;
        const letter = read(record, group, context.codec);
        if (where === undefined || fits(where, letter)) chosen.push({ record, letter });
      }
      if (chosen.length > 0) counted += await visit(scan, chosen, group);
    }
  } finally {
    await scan.close();
  }
  return counted;
}

function fits(where: (letter: DeadLetter) => boolean, letter: DeadLetter): boolean {
  const answer: unknown = where(letter);
  // A promise counts as true: an async filter would choose everything.
  if (typeof answer === 'object' && answer !== null && 'then' in answer) {
    throw new ConfigError('where', 'returns a promise; it has to answer at once');
  }
  return Boolean(answer);
}

function read(record: DeadLetterRecord, group: GroupRef, codec: Codec): DeadLetter {
  const { details, id, type, key, body, headers, contentType, publishedAt } = record;
  const { errorName, errorMessage } = details;
  return {
    entry: details.entry,
    id,
    topic: details.topic === '' ? group.topic.name : details.topic,
    group: details.group === '' ? group.name : details.group,
    type,
    key,
    body,
    data: decodeIfPossible(record, codec),
    headers,
    contentType,
    publishedAt: publishedAt === undefined ? undefined : new Date(publishedAt),
    reason: details.reason,
    error:
      errorName === undefined && errorMessage === undefined
        ? undefined
        : { name: errorName ?? 'Error', message: errorMessage ?? '' },
    attempts: details.attempts,
    at: new Date(details.at),
  };
}

function decodeIfPossible({ body, contentType }: DeadLetterRecord, codec: Codec): unknown {
  try {
    return decodeBare(codec, body, contentType).data;
  } catch {
    return undefined;
  }
}

/** Tries of one stride, about three seconds in all: long enough for a hiccup, short enough for somebody who waits. */
const tries = 6;
const repeatAfter = { initial: 100, max: 2_000 } as const;

/**
 * Redrives or purges until every chosen one is done, or has turned out to be somebody else's by now. A redrive without
 * an answer is repeated and may then come twice: the other way it could be lost.
 *
 * @throws ConnectionError when the broker does not get it done; what is left stays where it is
 */
async function carryOut(
  context: DeadLettersContext,
  verb: 'redrive' | 'purge',
  plan: CompiledSelection<DeadLetter>,
): Promise<number> {
  let done = 0;
  return walk(context, plan, async (scan, chosen, group) => {
    const before = done;
    let left: readonly DeadLetterRecord[] = chosen.map(({ record }) => record);
    for (let attempt = 1; ; attempt++) {
      const { results, error } = await attempted(scan[verb](left));
      done += results.filter((result) => result === 'applied').length;
      left = left.filter((_, i) => results[i] !== 'applied' && results[i] !== 'lost');
      if (left.length === 0) return done - before;
      if (attempt === tries) throw unfinished(group, verb, done, error);
      await sleep(context.clock, backOff(attempt, repeatAfter));
    }
  });
}

/** A lost connection leaves open what has become of the records; every other failure ends the walk. */
async function attempted(
  carried: Promise<readonly SettleResult[]>,
): Promise<{ readonly results: readonly SettleResult[]; readonly error?: unknown }> {
  try {
    const results = await carried;
    return { results, error: results.find((result) => WaybillError.is(result)) };
  } catch (error) {
    if (!(WaybillError.is(error, 'CONNECTION') && (error as ConnectionError).retryable)) throw error;
    return { results: [], error };
  }
}

function unfinished(
  { topic, name }: GroupRef,
  verb: 'redrive' | 'purge',
  done: number,
  cause: unknown,
): ConnectionError {
  const carried = verb === 'redrive' ? 'redriven' : 'purged';
  return new ConnectionError(
    `topic "${topic.name}", group "${name}": ${done} dead letters were ${carried}, then the broker failed ${tries} times; the others are still there, so try again`,
    { cause },
  );
}
