import { ConfigError, compileSelection } from '@waybill/core/adapter';
import type { EncodedMessage } from '@waybill/core/outbox';
import type { SqlDatabase } from '@waybill/sql';
import { Declarations, messageOf, type RawRow, withoutJson } from './row.ts';
import type { Statements } from './statements.ts';
import type { DeadMessage, DeadSelection } from './types.ts';

/** Bodies are read with them: few enough for memory, enough to make the walk quick. */
const stride = 100;

/** Dead messages from the oldest on, at most `limit` that fit. */
export async function peekDead(
  database: SqlDatabase,
  statements: Statements,
  limit: number,
  where: (dead: DeadMessage) => boolean = () => true,
): Promise<DeadMessage[]> {
  const found: DeadMessage[] = [];
  for await (const page of pages(database, statements)) {
    for (const { dead } of page) {
      if (found.length >= limit) return found;
      if (where(dead)) found.push(dead);
    }
    if (found.length >= limit) return found;
  }
  return found;
}

/** Carries out a verb on all that are selected; each page by itself, so that a table of any size will do. */
export async function carryOut(
  database: SqlDatabase,
  statements: Statements,
  verb: 'revive' | 'purge',
  select: DeadSelection,
): Promise<number> {
  const { ids, where, limit } = compileSelection(select);
  let done = 0;
  let chosen = 0;
  for await (const page of pages(database, statements)) {
    const picked: number[] = [];
    for (const { id, dead } of page) {
      if (chosen >= limit) break;
      if (ids !== undefined && !ids.has(dead.entry)) continue;
      if (where !== undefined && !where(dead)) continue;
      picked.push(id);
      chosen++;
    }
    if (picked.length > 0) done += await statements[verb](database, picked);
    if (chosen >= limit) break;
  }
  return done;
}

/** @throws ConfigError */
export function checkLimit(limit: number | undefined, field: string): void {
  if (limit === undefined || (Number.isInteger(limit) && limit >= 0)) return;
  throw new ConfigError(field, `${limit} is not a whole number`);
}

interface Entry {
  readonly id: number;
  readonly dead: DeadMessage;
}

async function* pages(database: SqlDatabase, statements: Statements): AsyncGenerator<readonly Entry[]> {
  const declarations = new Declarations();
  for (let after = 0; ; ) {
    const rows = await statements.dead(database, after, stride);
    const entries = rows.map((row) => ({ id: Number(row['id']), dead: deadMessage(row, declarations) }));
    const last = entries.at(-1);
    if (last === undefined) return;
    yield entries;
    if (rows.length < stride) return;
    after = last.id;
  }
}

function deadMessage(row: RawRow, declarations: Declarations): DeadMessage {
  const { id, topic, key, type, headers, contentType, body, publishedAt } = readable(row, declarations);
  return {
    entry: String(Number(row['id'])),
    id,
    topic: topic.name,
    key,
    type,
    headers,
    contentType,
    body,
    publishedAt: new Date(publishedAt),
    attempts: Number(row['attempts']),
    error: String(row['last_error'] ?? ''),
    at: new Date(Math.round(Number(row['dead_at']))),
  };
}

/** Also a row that is dead because it cannot be read has to be seen, and purged. */
function readable(row: RawRow, declarations: Declarations): EncodedMessage {
  try {
    return messageOf(row, declarations);
  } catch {
    return messageOf(withoutJson(row), declarations);
  }
}
