import { ConfigError, ConnectionError, checkOptions, WaybillError } from '@waybill/core/adapter';
import { sqlError } from './errors.ts';
import {
  commitBy,
  type LibraryOptions,
  libraryError,
  maxConnectionsOf,
  notOpen,
  sharedBy,
  spoilt,
  transactionsOf,
} from './library.ts';
import type { SqlClient, SqlResult, SqlRunner, SqlTransactions } from './sql.ts';

/** The client of an interactive transaction of Prisma. A `PrismaClient` does not fit. */
export interface PrismaTx {
  readonly $connect?: never;
  $queryRawUnsafe(query: string, ...values: never[]): PromiseLike<unknown>;
  $executeRawUnsafe(query: string, ...values: never[]): PromiseLike<number>;
}

/** A `PrismaClient`, generated or extended. */
export interface PrismaLike {
  $connect(): Promise<void>;
  $queryRawUnsafe(query: string, ...values: never[]): PromiseLike<unknown>;
  $executeRawUnsafe(query: string, ...values: never[]): PromiseLike<number>;
}

/** What `$transaction` hands over: the client without what a transaction has not. */
export type PrismaTxOf<Client extends PrismaLike> = Omit<
  Client,
  '$connect' | '$disconnect' | '$on' | '$use' | '$extends'
>;

export interface PrismaOptions extends LibraryOptions {}

/**
 * Interactive transactions of Prisma 7 on PostgreSQL. With a `PrismaClient` it also begins them, for inboxes: without
 * the five seconds that Prisma gives them otherwise, because the subscription's `timeout` says how long a handler may
 * take.
 *
 * @throws ConfigError for what is not a PrismaClient on PostgreSQL
 */
export function prismaAdapter(): SqlClient<PrismaTx>;
export function prismaAdapter<Client extends PrismaLike>(
  prisma: Client,
  options?: PrismaOptions,
): SqlTransactions<PrismaTxOf<Client>>;
export function prismaAdapter<Client extends PrismaLike>(
  prisma?: Client,
  options: PrismaOptions = {},
): SqlClient<PrismaTx> | SqlTransactions<PrismaTxOf<Client>> {
  if (prisma === undefined) return { name: 'prisma', runner };
  const { $transaction, _activeProvider: provider } = prisma as Partial<Interactive>;
  if (typeof $transaction !== 'function' || typeof prisma.$connect !== 'function') {
    throw new ConfigError('prisma', 'is not a PrismaClient');
  }
  if (provider !== undefined && provider !== 'postgresql') {
    throw new ConfigError('prisma', `speaks ${provider}, not postgresql`);
  }
  checkOptions(options, ['maxConnections'], '');
  const client = prisma as unknown as Interactive;
  const transactions: SqlTransactions<PrismaTx> = {
    name: 'prisma',
    dialect: 'postgres',
    maxConnections: maxConnectionsOf(options, undefined),
    runner,
    transaction: transactionsOf<PrismaTx>({
      runner,
      begin: (inside) =>
        client.$transaction(inside, { timeout: longest, maxWait: longest }).catch((error: unknown) => {
          throw prismaError(error);
        }),
      commit: async (tx) => (await commitBy(runner(tx))).committed,
      spoil: (tx) => void tx.$executeRawUnsafe(spoilt).then(noop, noop),
    }),
  };
  return sharedBy(prisma, transactions) as unknown as SqlTransactions<PrismaTxOf<Client>>;
}

/** The longest wait of a timer, in milliseconds; Prisma has no word for none. */
const longest = 2 ** 31 - 1;

interface Interactive {
  readonly _activeProvider?: string;
  $transaction(
    work: (tx: PrismaTx) => Promise<void>,
    options: { readonly timeout: number; readonly maxWait: number },
  ): Promise<void>;
}

function runner(tx: PrismaTx): SqlRunner {
  if (typeof tx?.$queryRawUnsafe !== 'function') throw notOpen('is not a client of Prisma');
  if (tx.$connect !== undefined) throw notOpen('is a PrismaClient outside of a transaction');
  return {
    async run(text, values = []): Promise<SqlResult> {
      const given = values as readonly never[];
      try {
        if (!givesRows.test(text)) return { rows: [], affected: await tx.$executeRawUnsafe(text, ...given) };
        const rows = (await tx.$queryRawUnsafe(text, ...given)) as SqlResult['rows'];
        return { rows, affected: rows.length };
      } catch (error) {
        throw prismaError(error);
      }
    },
  };
}

/** Prisma wants to be told; and it cannot read what a function without a value gives. */
const givesRows = /^\s*(SELECT\b(?!\s+pg_advisory_xact_lock\()|(INSERT|UPDATE|DELETE)\b[\s\S]*\bRETURNING\b)/i;

interface PrismaFacts {
  readonly code?: unknown;
  readonly message?: unknown;
  readonly meta?: {
    readonly driverAdapterError?: {
      readonly cause?: { readonly originalCode?: unknown; readonly originalMessage?: unknown };
    };
  };
}

/** The error of the server, with its own code, under that of Prisma. */
function prismaError(error: unknown): unknown {
  if (typeof error !== 'object' || error === null || WaybillError.is(error)) return error;
  const { code, message, meta } = error as PrismaFacts;
  const { originalCode, originalMessage } = meta?.driverAdapterError?.cause ?? {};
  if (typeof originalCode === 'string') {
    const inner = Object.assign(new Error(String(originalMessage), { cause: error }), { code: originalCode });
    return sqlError('postgres', inner);
  }
  const text = String(message).split('\n').at(-1) ?? '';
  if (code === transactionFault && !text.includes('Unable to start')) return notOpen('its transaction has ended');
  // P1000 to P1017 are faults of connections, P2024 of the pool, P2037 too many connections.
  if (code === transactionFault || (typeof code === 'string' && /^P(10|2024|2037)/.test(code))) {
    return new ConnectionError(`the database cannot be used: ${text}`, {
      adapter: 'postgres',
      cause: error,
      // Log-in, no such database, no right to it.
      retryable: code !== 'P1000' && code !== 'P1003' && code !== 'P1010',
    });
  }
  return libraryError(error);
}

const transactionFault = 'P2028';

function noop(): void {}
