import type { Claim, ClaimOutcome, Fence, Inbox } from '@waybill/core';
import { checkOptions, systemClock, WaybillError } from '@waybill/core/adapter';
import { isTransient, type SqlDatabase, type SqlTransactions } from '@waybill/sql';
import { Cleaner } from './cleaner.ts';
import { Heartbeats } from './heartbeats.ts';
import type { Permits } from './permits.ts';
import { type Migratable, migratable, type TableOptions, type Versions } from './sql-store.ts';
import { type ClaimTable, claimId } from './table.ts';

export interface SqlInbox<Tx> extends Inbox<Tx>, Migratable {}

export interface InboxOptions extends TableOptions {}

/** How a claim was answered, in the transaction that also holds the mark if it was won. */
export type Answered<Tx> =
  | { readonly answer: 'busy' | 'duplicate' }
  | {
      readonly answer: 'won';
      readonly tx: Tx;
      readonly fence: Fence;
      /** Shows the server that the transaction is alive. Never rejects. */
      touch(): Promise<void>;
    };

type Work<Tx> = (tx: Tx, fence: Fence) => Promise<boolean>;

/** What the inboxes of the dialects differ in. */
export interface InboxDialect<Tx> {
  /**
   * Begins a transaction, claims in it, and commits it when `work` resolves with true. The claim of a holder that froze
   * ends with its lease, because the server ends the transaction; a touch within that time prevents it.
   */
  transact(claim: Claim, id: Buffer, work: (answered: Answered<Tx>) => Promise<void>): Promise<void>;
}

/** For what is asked beside the handlers: a connection that does not answer within it is closed, and theirs to replace. */
export const besideHandlers = { timeout: 30_000 };

/** Thrown in a transaction to have it rolled back. */
class Undone extends Error {
  constructor() {
    super('nothing is to be committed');
  }
}

/** Assembles an inbox. */
export function sqlInbox<Tx>(
  dialect: InboxDialect<Tx>,
  database: SqlDatabase,
  parts: {
    readonly versions: Versions;
    readonly table: ClaimTable;
    readonly permits: Permits | undefined;
    readonly maxConcurrency?: number;
    /** Whether a handler that was given up keeps its connection until it ends: libraries do not take it away. */
    readonly lingers?: boolean;
  },
  options: InboxOptions,
): SqlInbox<Tx> {
  checkOptions(options, ['table', 'schema'], '');
  const { versions, table, permits } = parts;
  const maxConcurrency = parts.maxConcurrency ?? permits?.most;
  const heartbeats = new Heartbeats(systemClock);
  const cleaner = new Cleaner(table, systemClock);

  const attempt = async (claim: Claim, work: Work<Tx>): Promise<ClaimOutcome> => {
    let outcome: ClaimOutcome | undefined;
    let called = false;
    try {
      await dialect.transact(claim, claimId(claim), async (answered) => {
        if (answered.answer === 'won') {
          const stop = heartbeats.start(claim.lease / 3, () => void answered.touch());
          claim.signal?.addEventListener('abort', stop, { once: true });
          called = true;
          try {
            outcome = (await work(answered.tx, answered.fence)) ? 'ran' : 'failed';
          } finally {
            stop();
            claim.signal?.removeEventListener('abort', stop);
          }
        } else outcome = answered.answer;
        if (outcome !== 'ran') throw new Undone();
      });
    } catch (error) {
      // Somebody got in the way of the claim: the message is looked at again.
      if (outcome === undefined && !called && isTransient(database.dialect, error)) return 'busy';
      // A roll-back that did not succeed leaves nothing either: the connection ends with it. If it was lost before, that
      // is what the handler failed of.
      if (outcome === undefined || outcome === 'ran' || WaybillError.is(error, 'CONNECTION')) throw error;
    }
    return outcome ?? 'failed';
  };

  return {
    ...(maxConcurrency !== undefined && { maxConcurrency }),
    async run(claim, work) {
      cleaner.nowAndThen();
      const giveBack = await permits?.take(claim.signal);
      let working: Promise<unknown> | undefined;
      try {
        return await attempt(claim, (tx, fence) => {
          const result = work(tx, fence);
          working = result;
          return result;
        });
      } finally {
        if (parts.lingers && working !== undefined) void working.then(giveBack, giveBack);
        else giveBack?.();
      }
    },
    ...migratable(database, versions, options),
  };
}

/** A database on the connections of a library: for migrations and cleaning. */
export function databaseOf<Tx>(transactions: SqlTransactions<Tx>): SqlDatabase {
  return {
    dialect: transactions.dialect,
    run: (text, values) => transactions.transaction((tx) => transactions.runner(tx).run(text, values)),
    transaction: (work) => transactions.transaction((tx) => work(transactions.runner(tx))),
  };
}
