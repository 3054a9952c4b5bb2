import { hash } from 'node:crypto';
import type { Connection, Pool, PoolClient, Submittable } from 'pg';
import { sqlError } from './errors.ts';

/** A statement that each connection prepares once, because planning it takes as long as running it. */
export interface PgStatement {
  /** Its own for each text. */
  readonly name: string;
  /** With `$1`, `$2` and so on, which come as texts: it says by itself of what types they are. */
  readonly text: string;
}

export function pgStatement(text: string): PgStatement {
  return { name: `waybill_${hash('sha1', text, 'hex')}`, text };
}

const begin: PgStatement = { name: 'waybill_begin', text: 'BEGIN' };

/** What connections have prepared, beside BEGIN. */
const prepared = new WeakMap<PoolClient, Set<string>>();
/** Pools whose connections do not keep what they prepared: somebody discards it, or a pooler stands between. */
const forgetful = new WeakSet<Pool>();

/** PostgreSQL's invalid_sql_statement_name and duplicate_prepared_statement. */
const forgotten = new Set<unknown>(['26000', '42P05']);

/**
 * Begins a transaction with a first statement, in one round trip once the connection knows both. Resolves with the rows
 * that the statement inserted, changed or deleted.
 */
export async function beginWith(
  pool: Pool,
  client: PoolClient,
  first: PgStatement,
  values: readonly string[],
): Promise<number> {
  const keeps = !forgetful.has(pool);
  try {
    if (keeps && prepared.get(client)?.has(first.name)) return await inOneTrip(client, first.name, values);
    await client.query(keeps ? { ...begin } : begin.text);
    const { rowCount } = await client.query({ ...(keeps ? first : { text: first.text }), values: [...values] });
    if (keeps && canGoTogether(client)) {
      prepared.set(client, (prepared.get(client) ?? new Set()).add(first.name));
    }
    return rowCount ?? 0;
  } catch (error) {
    if (!keeps || !forgotten.has((error as { readonly code?: unknown }).code)) throw sqlError('postgres', error);
  }
  forgetful.add(pool);
  await client.query('ROLLBACK').catch((error: unknown) => {
    throw sqlError('postgres', error);
  });
  return beginWith(pool, client, first, values);
}

/** Not on libpq or on a socket that is not Node's, nor where pg sends ahead by itself and takes only queries of its own. */
function canGoTogether(client: object): boolean {
  const { connection, pipeline } = client as { readonly connection?: Partial<Connection>; readonly pipeline?: boolean };
  return pipeline !== true && typeof connection?.bind === 'function' && typeof connection.stream?.cork === 'function';
}

function inOneTrip(client: PoolClient, name: string, values: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    client.query(
      new BeginAnd(name, values, (error, affected) => {
        if (error === null) resolve(affected);
        else reject(error);
      }),
    );
  });
}

/** BEGIN and another statement, both prepared, in one message. pg calls the methods, as it does a cursor's. */
class BeginAnd implements Submittable {
  /** pg puts its own around it, to take the time. */
  callback: (error: Error | null, affected: number) => void;
  readonly #name: string;
  readonly #values: readonly string[];
  #affected = 0;

  constructor(name: string, values: readonly string[], callback: (error: Error | null, affected: number) => void) {
    this.#name = name;
    this.#values = values;
    this.callback = callback;
  }

  submit(connection: Connection): void {
    connection.stream.cork();
    try {
      connection.bind({ statement: begin.name }, true);
      connection.execute(null, true);
      connection.bind({ statement: this.#name, values: [...this.#values] }, true);
      connection.execute(null, true);
      connection.sync();
    } finally {
      connection.stream.uncork();
    }
  }

  /** Nobody asks for rows. */
  handleDataRow(): void {}

  handleCommandComplete({ text }: { readonly text: string }): void {
    // Of BEGIN it stays 0: `INSERT 0 1`.
    this.#affected = Number(/ (\d+)$/.exec(text)?.[1] ?? 0);
  }

  handleReadyForQuery(): void {
    this.callback(null, this.#affected);
  }

  handleError(error: Error): void {
    this.callback(error, 0);
  }
}
