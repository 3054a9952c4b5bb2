import { ConfigError, ConnectionError } from '@waybill/core/adapter';
import { literal, type SqlDatabase } from '@waybill/sql';
import type { PartitionsMaintained, Tables } from '../statements.ts';

/** Each costs every statement of a relay; what has none, because no relay ran for so long, is only cleaned more slowly. */
const daysAhead = 3;
const hour = 3_600_000;
const dayLength = 24 * hour;
/**
 * For all of one change: its locks, behind which publishers wait, and what is read behind them. Shorter than the wait
 * after which PostgreSQL looks for deadlocks, so that it is never a publisher that fails by one.
 */
const longest = 500;
const tooLong = `it cannot be done in ${longest} ms, because somebody holds a lock or the DEFAULT partition is large`;

export interface DayPartitions {
  /** The end of the table's definition. */
  readonly tail: string;
  /** Makes the partition that is always there. */
  readonly makeDefault: string;
  maintain(db: SqlDatabase, age?: number): Promise<PartitionsMaintained>;
}

/** Of the table, and its schema; both quoted. */
interface Owner {
  readonly role: string;
  readonly schema: string;
}

interface Found {
  readonly owner: Owner;
  /** Whether this role has the owner's rights, and may act as it. */
  readonly owned: boolean;
  /** By the database's clock. */
  readonly now: number;
  /** That have a partition, the oldest first. */
  readonly days: readonly string[];
}

/** @throws ConfigError for a table that was made in the other form */
export async function checkPartitioning(db: SqlDatabase, outbox: string, byDay: boolean): Promise<void> {
  const { rows } = await db.run(
    `SELECT relkind = 'p' AS parts FROM pg_class WHERE oid = to_regclass(${literal('postgres', outbox)})`,
  );
  const parts = rows[0]?.['parts'] ?? byDay;
  if (parts === byDay) return;
  throw new ConfigError(
    'partitions',
    byDay
      ? `${outbox} was made without partitions; leave the option out, or name another \`table\` and let a relay without the option empty this one`
      : `${outbox} was made with partitions; set the option to "day", or name another \`table\` and let a relay with the option empty this one`,
    { adapter: 'postgres' },
  );
}

/**
 * A partition for each UTC day, and one for whatever has none. A row stays where the start of its transaction put it,
 * so a partition may get rows after its day has ended; its order is its id's, wherever it is.
 *
 * @throws ConfigError when the table's name leaves no room for a day
 */
export function dayPartitions({ outbox, companion }: Tables): DayPartitions {
  const defaultPartition = companion('default');
  const nameOf = (day: string): string => companion(day.replaceAll('-', ''));
  nameOf(dayOf(0));
  const isPartition = (day: string): string =>
    `EXISTS (SELECT FROM pg_inherits WHERE inhparent = ${literal('postgres', outbox)}::regclass
      AND inhrelid = to_regclass(${literal('postgres', nameOf(day))}) AND NOT inhdetachpending)`;
  // By the partition's name and ordered as its indexes are, so that no outdated statistics make it read all that was sent.
  const unsent = (day: string): string => `coalesce(
    (SELECT id FROM ${nameOf(day)} WHERE sent_at IS NULL AND dead_at IS NULL ORDER BY dead_at, id LIMIT 1),
    (SELECT id FROM ${nameOf(day)} WHERE dead_at IS NOT NULL ORDER BY id LIMIT 1)) IS NOT NULL`;

  async function make(db: SqlDatabase, owner: Owner, day: string, soon: boolean): Promise<string | undefined> {
    // Mostly spares publishers an attempt in vain: attaching reads all of DEFAULT, and locks out who writes there.
    const { rows } = await db.run(
      `SELECT (SELECT written_at FROM ${defaultPartition} ORDER BY id DESC LIMIT 1) >= ${beginOf(day)} AS taken`,
    );
    if (rows[0]?.['taken'] === true) return 'the DEFAULT partition has rows of it, and keeps them';
    await db.run(
      asOwner(
        owner,
        // Attaching takes the weaker lock anyway, which lets publishers go on; PARTITION OF would lock them out. Of a day
        // that has come they have to wait: one that is on its way to DEFAULT would find that it may not go there any
        // more, and fail. Identity and indexes come with the attaching.
        `LOCK TABLE ONLY ${outbox} IN ${soon ? 'SHARE ROW EXCLUSIVE' : 'SHARE UPDATE EXCLUSIVE'} MODE;
        IF NOT ${isPartition(day)} THEN
          CREATE TABLE ${nameOf(day)} (LIKE ${outbox} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING INDEXES);
          ALTER TABLE ${outbox} ATTACH PARTITION ${nameOf(day)} FOR VALUES FROM (${beginOf(day)}) TO (${endOf(day)});
        END IF`,
      ),
    );
    return undefined;
  }

  async function remove(db: SqlDatabase, owner: Owner, day: string): Promise<string | undefined> {
    const found = await db.run(`SELECT ${unsent(day)} AS unsent`).catch((error: unknown) => {
      // Somebody was quicker.
      if (ConfigError.is(error, 'CONFIG')) return undefined;
      throw error;
    });
    if (found === undefined) return undefined;
    if (found.rows[0]?.['unsent'] === true) return 'messages in it wait or are dead';
    await db.run(
      asOwner(
        owner,
        // Behind the locks once more: transactions of that day may still have been writing, and somebody may have
        // detached it to keep it.
        `LOCK TABLE ONLY ${outbox} IN ACCESS EXCLUSIVE MODE;
        IF ${isPartition(day)} THEN
          LOCK TABLE ${nameOf(day)} IN ACCESS EXCLUSIVE MODE;
          IF NOT ${unsent(day)} THEN DROP TABLE ${nameOf(day)}; END IF;
        END IF`,
      ),
    );
    return undefined;
  }

  async function look(db: SqlDatabase): Promise<Found | undefined> {
    const { rows } = await db.run(
      `SELECT right(p.relname, 8) AS day, o.relowner::regrole::text AS owner, o.relnamespace::regnamespace::text AS schema,
        pg_has_role(o.relowner, 'USAGE') AND pg_has_role(o.relowner,
          CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END) AS owned,
        (extract(epoch FROM now()) * 1000)::float8 AS now
      FROM pg_class o LEFT JOIN (pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid)
        ON i.inhparent = o.oid AND NOT i.inhdetachpending AND left(p.relname, -9) = o.relname AND right(p.relname, 9) ~ '^_[0-9]{8}$'
      WHERE o.oid = to_regclass(${literal('postgres', outbox)}) ORDER BY day`,
    );
    const facts = rows[0];
    return (
      facts && {
        owner: { role: String(facts['owner']), schema: String(facts['schema']) },
        owned: facts['owned'] === true,
        now: Number(facts['now']),
        days: rows.flatMap(({ day }) => (day === null ? [] : String(day).replace(/(....)(..)(..)/, '$1-$2-$3'))),
      }
    );
  }

  async function maintain(db: SqlDatabase, age?: number): Promise<PartitionsMaintained> {
    const found = await look(db);
    // Without the table everything else fails, and says so.
    if (found === undefined) return { byRows: [], warnings: [] };
    const { owner, owned, now, days } = found;
    if (!owned) {
      const why = `this role may not act as ${owner.role}, which owns the table`;
      return { byRows: [outbox], warnings: [`outbox: ${outbox} gets no partitions and loses none: ${why}`] };
    }
    const ahead = Array.from({ length: daysAhead + 1 }, (_, at) => dayOf(now + at * dayLength));
    const missing = ahead.filter((day) => !days.includes(day));
    const unmade = await inTurn(missing, (day) => make(db, owner, day, day <= dayOf(now + hour)));
    const due = age === undefined ? [] : days.filter((day) => day <= dayOf(now - age - dayLength));
    const left = await inTurn(due, (day) => remove(db, owner, day));
    // What is in the way may be gone tomorrow, when that is soon enough.
    const urgent = unmade.filter(({ day }) => day <= dayOf(now + dayLength));
    const overdue = left.filter(({ day }) => day <= dayOf(now - (age ?? 0) - 2 * dayLength));
    return {
      byRows: [defaultPartition, ...overdue.map(({ day }) => nameOf(day))],
      warnings: [
        ...urgent.map(({ day, why }) => `outbox: ${outbox} gets no partition of ${day}: ${why}`),
        ...overdue.map(({ day, why }) => `outbox: ${nameOf(day)} is cleaned row by row instead of dropped: ${why}`),
      ],
    };
  }

  return {
    tail: 'written_at timestamptz NOT NULL DEFAULT now(),\n  PRIMARY KEY (id, written_at)\n) PARTITION BY RANGE (written_at)',
    makeDefault: `CREATE TABLE IF NOT EXISTS ${defaultPartition} PARTITION OF ${outbox} DEFAULT`,
    maintain,
  };
}

/**
 * One message, so that no machine that is gone in the middle leaves its locks; and one statement of it, to which the
 * time-out applies, takes them. Behind these it sees all that was committed, whatever isolation is the default; and what
 * it makes belongs to the owner, as later migrations need it.
 */
function asOwner({ role, schema }: Owner, change: string): string {
  return [
    'SET TRANSACTION ISOLATION LEVEL READ COMMITTED',
    `SET LOCAL statement_timeout = ${longest}`,
    // The time-out does not cover the commit, which holds the locks. Lost in a fail-over, it is only done again.
    'SET LOCAL synchronous_commit = local',
    `SET LOCAL ROLE ${role}`,
    // Names would be looked up as the owner does.
    `SET LOCAL search_path TO ${schema}`,
    `DO ${literal('postgres', `BEGIN ${change}; END`)}`,
  ].join(';\n');
}

/** A day for which a change came to nothing. */
interface Problem {
  readonly day: string;
  readonly why: string;
}

/** One after the other. The first that takes too long ends it: the next would hold up publishers once more. */
async function inTurn(
  days: readonly string[],
  change: (day: string) => Promise<string | undefined>,
): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  let late = false;
  for (const day of days) {
    const why: string | undefined = late ? tooLong : await problemOf(() => change(day));
    late ||= why === tooLong;
    if (why !== undefined) problems.push({ day, why });
  }
  return problems;
}

async function problemOf(work: () => Promise<string | undefined>): Promise<string | undefined> {
  try {
    return await work();
  } catch (error) {
    if (ConnectionError.is(error, 'CONNECTION')) throw error;
    // A role may have a time-out for locks of its own.
    const { code, message } = error as { readonly code?: unknown; readonly message?: unknown };
    return code === '57014' || code === '55P03' ? tooLong : String(message);
  }
}

/** As `2026-11-21`, which compares as days do; of times before 1970 that one. */
function dayOf(time: number): string {
  return new Date(Math.max(0, time)).toISOString().slice(0, 10);
}

function beginOf(day: string): string {
  return `'${day} 00:00+00'`;
}

function endOf(day: string): string {
  return beginOf(dayOf(Date.parse(day) + dayLength));
}
