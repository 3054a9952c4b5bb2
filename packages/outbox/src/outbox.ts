import type {
  AnyTopic,
  Bus,
  Codec,
  InputOf,
  Publisher,
  PublishMiddleware,
  PublishOptions,
  PublishResult,
  Receipt,
} from '@waybill/core';
import { ConfigError, checkOptions, PublishError, WaybillError } from '@waybill/core/adapter';
import { type EncodedMessage, publishTo } from '@waybill/core/outbox';
import {
  ident,
  migrate,
  qualified,
  repeating,
  type Schema,
  type SqlClient,
  type SqlDatabase,
  type SqlRunner,
  schemaSql,
} from '@waybill/sql';
import { carryOut, checkLimit, peekDead } from './dead.ts';
import { compileRelayOptions } from './relay/options.ts';
import { OutboxRelay } from './relay/relay.ts';
import { checkStorable, valuesOf } from './row.ts';
import type { Statements, Tables } from './statements.ts';
import type { DeadMessage, DeadSelection, Outbox, OutboxOptions, OutboxStatus, Relay, RelayOptions } from './types.ts';

export interface OutboxSetup<Tx> {
  readonly database: SqlDatabase;
  readonly client: SqlClient<Tx>;
  readonly statements: (tables: Tables, channel: string | undefined) => Statements;
  readonly options: OutboxOptions<Tx>;
  /** Options that only this dialect has. */
  readonly optionNames: readonly string[];
  /** Whether a publish wakes the relays of other processes. */
  readonly notify: boolean;
}

/**
 * Milliseconds after which a statement of a relay counts as unanswered: its connection may have died without a word,
 * while others keep the relay's lanes. Longer than any of them takes, because each is begun anew.
 */
export const answersWithin = 60_000;

const commonOptions = ['client', 'table', 'codec', 'middleware'] as const;

/** @throws ConfigError */
export function createOutbox<Tx>(setup: OutboxSetup<Tx>): Outbox<Tx> {
  return new SqlOutbox(setup);
}

class SqlOutbox<Tx> implements Outbox<Tx> {
  readonly #database: SqlDatabase;
  readonly #client: SqlClient<Tx>;
  readonly #statements: Statements;
  readonly #versions: Schema;
  readonly #encoding: { readonly codec?: Codec; readonly middleware?: readonly PublishMiddleware[] };
  readonly #insertOne: string;
  /** Relays of this process: the only ones that a database without notifications lets us wake. */
  readonly #relays = new Set<OutboxRelay>();

  constructor({ database, client, statements, options, optionNames, notify }: OutboxSetup<Tx>) {
    checkOptions(options, [...commonOptions, ...optionNames], '');
    if (typeof client?.runner !== 'function') throw new ConfigError('client', 'has no runner(tx)');
    const { table = 'waybill_outbox', schema, codec, middleware } = options;
    const { dialect } = database;
    const name = (suffix: string): string => qualified(dialect, `${table}${suffix}`, schema);
    // Relays and publishers get in each other's way now and then.
    this.#database = repeating(database);
    this.#client = client;
    this.#statements = statements(
      {
        outbox: name(''),
        lanes: name('_lanes'),
        relays: name('_relays'),
        index: (of) => ident(dialect, `${table}_${of}`),
        companion: (of) => name(`_${of}`),
      },
      notify ? channelOf(table, schema) : undefined,
    );
    this.#versions = { name: `outbox ${table}`, schema, versions: this.#statements.migrations };
    this.#encoding = { ...(codec !== undefined && { codec }), ...(middleware !== undefined && { middleware }) };
    this.#insertOne = this.#statements.insert(1);
  }

  async publish<T extends AnyTopic | string>(
    tx: Tx,
    topic: T,
    data: NoInfer<InputOf<T>>,
    options?: PublishOptions,
  ): Promise<Receipt> {
    const runner = this.#client.runner(tx);
    return publishTo((message) => this.#keep(runner, message, options?.signal), topic, data, options, this.#encoding);
  }

  async publishBatch<T extends AnyTopic | string>(
    tx: Tx,
    topic: T,
    items: readonly ({ readonly data: NoInfer<InputOf<T>> } & PublishOptions)[],
  ): Promise<PublishResult[]> {
    const runner = this.#client.runner(tx);
    const gathered = new Gathering(items.length, (messages) => this.#keepMany(runner, messages));
    const results = await Promise.all(
      items.map(async ({ data, ...options }, at): Promise<PublishResult> => {
        try {
          const keep = async (message: EncodedMessage): Promise<Receipt> => {
            check(message, options.signal);
            return gathered.add(at, message);
          };
          return { ok: true, receipt: await publishTo(keep, topic, data, options, this.#encoding) };
        } catch (error) {
          if (WaybillError.is(error)) return { ok: false, error };
          // Of middleware. Thrown from here it would end the call while the others are still being written.
          return { ok: false, error: new PublishError(String(error), { cause: error, outcome: 'unknown' }) };
        } finally {
          gathered.done(at);
        }
      }),
    );
    if (gathered.failure !== undefined) throw gathered.failure.error;
    return results;
  }

  in(tx: Tx): Publisher {
    return {
      publish: (topic, data, options) => this.publish(tx, topic, data, options),
      publishBatch: (topic, items) => this.publishBatch(tx, topic, items),
    };
  }

  async relay(bus: Bus, options: RelayOptions = {}): Promise<Relay> {
    const relay = new OutboxRelay({
      bus,
      database: this.#database,
      statements: this.#statements,
      settings: compileRelayOptions(options),
    });
    await this.#statements.checkPartitioning?.(this.#database);
    await relay.start();
    this.#relays.add(relay);
    const forget = (): void => void this.#relays.delete(relay);
    relay.closed.then(forget, forget);
    return relay;
  }

  async status(
    options: { readonly limit?: number; readonly where?: (dead: DeadMessage) => boolean } = {},
  ): Promise<OutboxStatus> {
    checkOptions(options, ['limit', 'where'], '');
    const { limit = 100, where } = options;
    checkLimit(limit, 'limit');
    const backlog = await this.#statements.backlog(this.#database);
    return { ...backlog, letters: await peekDead(this.#database, this.#statements, limit, where) };
  }

  async retry(select: DeadSelection): Promise<number> {
    const count = await carryOut(this.#database, this.#statements, 'revive', select);
    this.#stir();
    return count;
  }

  async purge(select: DeadSelection): Promise<number> {
    const count = await carryOut(this.#database, this.#statements, 'purge', select);
    this.#stir();
    return count;
  }

  async migrate(): Promise<void> {
    await this.#statements.checkPartitioning?.(this.#database);
    await migrate(this.#database, this.#versions);
    // What is in the way of that, the relay will tell.
    await this.#statements.maintainPartitions?.(this.#database);
  }

  schema(): string {
    return schemaSql(this.#database.dialect, this.#versions);
  }

  async #keep(runner: SqlRunner, message: EncodedMessage, signal: AbortSignal | undefined): Promise<Receipt> {
    check(message, signal);
    await runner.run(this.#insertOne, valuesOf(message));
    this.#stir();
    return { id: message.id };
  }

  async #keepMany(runner: SqlRunner, messages: readonly EncodedMessage[]): Promise<void> {
    const { rowsPerInsert } = this.#statements;
    for (let from = 0; from < messages.length; from += rowsPerInsert) {
      const part = messages.slice(from, from + rowsPerInsert);
      const text = part.length === 1 ? this.#insertOne : this.#statements.insert(part.length);
      await runner.run(text, part.flatMap(valuesOf));
    }
    this.#stir();
  }

  /** Something may be there for the relays of this process soon: when the transaction ends nobody tells. */
  #stir(): void {
    for (const relay of this.#relays) relay.stir();
  }
}

/** @throws InvalidMessageError for what cannot be kept, PublishError when the signal has aborted */
function check(message: EncodedMessage, signal: AbortSignal | undefined): void {
  checkStorable(message);
  if (!signal?.aborted) return;
  throw new PublishError(`message ${message.id} was cancelled by its signal before it was written`, {
    outcome: 'not-sent',
    cause: signal.reason,
  });
}

/** Brings the messages of a batch together, however long each takes to be checked, and writes them in their order. */
class Gathering {
  failure: { readonly error: unknown } | undefined;
  readonly #messages: (EncodedMessage | undefined)[];
  readonly #write: (messages: readonly EncodedMessage[]) => Promise<void>;
  readonly #written = Promise.withResolvers<void>();
  readonly #waiting: boolean[];
  #left: number;

  constructor(count: number, write: (messages: readonly EncodedMessage[]) => Promise<void>) {
    this.#messages = new Array(count);
    this.#waiting = new Array(count).fill(true);
    this.#left = count;
    this.#write = write;
    this.#written.promise.catch(() => {});
  }

  async add(at: number, message: EncodedMessage): Promise<Receipt> {
    this.#messages[at] = message;
    this.done(at);
    await this.#written.promise;
    return { id: message.id };
  }

  /** This one has come, or will not. */
  done(at: number): void {
    if (!this.#waiting[at]) return;
    this.#waiting[at] = false;
    if (--this.#left > 0) return;
    const messages = this.#messages.filter((message) => message !== undefined);
    const written = messages.length === 0 ? Promise.resolve() : this.#write(messages);
    written.then(this.#written.resolve, (error: unknown) => {
      this.failure = { error };
      this.#written.reject(error);
    });
  }
}

/** One word for each table; a channel has at most 63 bytes. */
function channelOf(table: string, schema: string | undefined): string {
  const full = schema === undefined ? table : `${schema}.${table}`;
  return full.replace(/[^\w.]/g, '_').slice(0, 63);
}
