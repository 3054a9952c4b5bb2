import { randomUUID } from 'node:crypto';
import { WaybillError } from './errors.ts';
import { nameOf } from './limits.ts';
import type { Verdict } from './message.ts';
import type { DeadLetterDetails, DeadLetterReason } from './wire.ts';

/** What a handler's throw means (RETRY-01, RETRY-06). */
export function verdictOf(error: unknown): Verdict {
  if (WaybillError.is(error, 'PERMANENT')) return { verb: 'reject', error };
  const after = WaybillError.is(error, 'RETRY') ? (error as { after?: number }).after : undefined;
  return { verb: 'retry', after, error };
}

/** Characters of an error's text that go with a dead letter, so that it fits wherever its message fitted (DLQ-06). */
const longestText = 1_024;

export function deadLetterDetails(given: {
  reason: DeadLetterReason;
  error: unknown;
  attempts: number;
  at: number;
  topic: string;
  group: string;
}): DeadLetterDetails {
  const { error, ...rest } = given;
  return { entry: randomUUID(), ...rest, ...describe(error) };
}

function describe(error: unknown): Pick<DeadLetterDetails, 'errorName' | 'errorMessage'> {
  if (error === undefined) return { errorName: undefined, errorMessage: undefined };
  if (error instanceof Error)
    return { errorName: cut(text(error.name), 128), errorMessage: cut(text(error.message), longestText) };
  return { errorName: undefined, errorMessage: cut(text(error), longestText) };
}

/** Handlers throw anything: also what has no text. */
function text(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return nameOf(thrown);
  }
}

/** Cuts between characters, never through one. */
function cut(text: string, longest: number): string {
  return text.length <= longest
    ? text
    : `${text
        .slice(0, longest - 1)
        .toWellFormed()
        .replace(/\uFFFD$/, '')}…`;
}
