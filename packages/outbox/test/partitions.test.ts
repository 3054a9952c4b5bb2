import { type Logger, silent } from '@waybill/core/adapter';
import type { SqlDatabase } from '@waybill/sql';
import { pgDatabase } from '@waybill/sql/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { postgresStatements } from '../src/dialects/postgres.ts';
import { type PgTx, postgresOutbox } from '../src/postgres.ts';
import type { PartitionsMaintained, Statements } from '../src/statements.ts';
import type { Outbox, Relay, RelayOptions } from '../src/types.ts';
import { quick, refused, type TestBus, testBus } from './broker.ts';
import { type Rig, type Server, startDatabase } from './databases.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const hour = 3_600_000;
const dayLength = 24 * hour;

describe('outbox with a partition for each day', () => {
  let server: Server;
  let rig: Rig;
  let pool: pg.Pool;
  let database: SqlDatabase;
  let statements: Statements;
  let outbox: Outbox<PgTx>;
  let broker: TestBus;
  /** When its day begins, by the database. */
  let today: number;
  const relays: Relay[] = [];
  const cleanups: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    server = await startDatabase('postgres');
  }, 120_000);
  afterAll(() => server.stop());
  beforeEach(async () => {
    rig = await server.open();
    pool = rig.pool as pg.Pool;
    database = pgDatabase(pool);
    today = await oneDay();
    statements = statementsOf(rig.table);
    outbox = postgresOutbox(pool, { table: rig.table, partitions: 'day' });
    await outbox.migrate();
    await maintainUntil(days(0, 3));
    broker = await testBus();
    // Over a midnight it waits for the next day.
  }, 120_000);
  afterEach(async () => {
    await Promise.all(relays.splice(0).map((relay) => relay.close()));
    await broker.bus.close();
    for (const clean of cleanups.splice(0).reverse()) await clean();
    await rig.close();
  });

  /** No test sees a day begin or end. */
  const oneDay = async (): Promise<number> => {
    for (;;) {
      const [row] = await rig.query('SELECT (extract(epoch FROM now()) * 1000)::float8 AS now');
      const now = Number(row?.['now']);
      const begin = Math.floor(now / dayLength) * dayLength;
      const since = now - begin;
      if (since > 5_000 && since < dayLength - 60_000) return begin;
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  };
  const statementsOf = (table: string, schema = ''): Statements => {
    const named = (of: string): string => `${schema}${table}_${of}`;
    return postgresStatements(
      {
        outbox: `${schema}${table}`,
        lanes: named('lanes'),
        relays: named('relays'),
        index: (of) => `${table}_${of}`,
        companion: named,
      },
      undefined,
      'day',
    );
  };
  const relayOn = async (options: RelayOptions = {}, of = outbox): Promise<Relay> => {
    const relay = await of.relay(broker.bus, { ...quick, ...options });
    relays.push(relay);
    return relay;
  };
  const until = (check: () => void | Promise<void>, timeout = 10_000): Promise<void> =>
    vi.waitFor(check, { timeout, interval: 10 });
  const publish = async (items: readonly { n: number; key?: string }[]): Promise<void> => {
    const { tx, commit } = await rig.begin();
    const batch = items.map(({ n, key }) => ({ data: { n }, ...(key !== undefined && { key }) }));
    await outbox.publishBatch(tx as PgTx, 'orders', batch);
    await commit();
  };
  const maintain = async (age?: number, on = database, of = statements): Promise<PartitionsMaintained> => {
    const maintained = await of.maintainPartitions?.(on, age);
    if (maintained === undefined) throw new Error('knows of no partitions');
    return maintained;
  };
  /** Again where a slow machine has taken longer than one change may. */
  const maintainUntil = (expected: readonly string[], age?: number): Promise<void> =>
    until(async () => {
      await maintain(age);
      expect(await partitions()).toEqual(expected);
    });
  /** A database on which something happens after each answer to such a statement. */
  const databaseWith = (part: string, work: (text: string) => unknown): SqlDatabase => ({
    ...database,
    async run(text, values) {
      const result = await database.run(text, values);
      if (text.includes(part)) await work(text);
      return result;
    },
  });
  const day = (ahead: number): string => new Date(today + ahead * dayLength).toISOString().slice(0, 10);
  const dayName = (ahead: number): string => day(ahead).replaceAll('-', '');
  const partition = (ahead: number): string => `${rig.table}_${dayName(ahead)}`;
  const makePartition = (ahead: number): Promise<unknown> =>
    rig.query(
      `CREATE TABLE ${partition(ahead)} PARTITION OF ${rig.table}
        FOR VALUES FROM ('${day(ahead)} 00:00+00') TO ('${day(ahead + 1)} 00:00+00')`,
    );
  const partitions = async (): Promise<string[]> => {
    const rows = await rig.query(
      `SELECT p.relname AS name FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
        WHERE i.inhparent = '${rig.table}'::regclass ORDER BY p.relname`,
    );
    return rows.map(({ name }) => String(name));
  };
  const days = (from: number, to: number): string[] =>
    [...Array.from({ length: to - from + 1 }, (_, at) => partition(from + at)), `${rig.table}_default`].sort();
  const countIn = async (table: string): Promise<number> => {
    const [row] = await rig.query(`SELECT count(*) AS count FROM ${table}`);
    return Number(row?.['count']);
  };
  /** Rows that were written so many days ahead, which is how they come into an old partition. */
  const insert = (
    count: number,
    ahead: number,
    sent: 'sent' | 'pending',
    run: (sql: string) => Promise<unknown> = rig.query,
  ): Promise<unknown> =>
    run(
      `INSERT INTO ${rig.table} (lane, topic, message_id, message_key, content_type, body, published_at, written_at, sent_at)
        SELECT n % 64, 'orders', n, 'k' || n % 10, 'application/json', '{"n":1}', w, w, ${sent === 'sent' ? 'w' : 'NULL'}
        FROM generate_series(1, ${count}) n, (SELECT now() + interval '${ahead} days' AS w) AS at`,
    );
  const warnings = (): { readonly heard: string[]; readonly logger: Logger } => {
    const heard: string[] = [];
    return { heard, logger: { ...silent, warn: (text) => void heard.push(text) } };
  };
  const makeRole = async (name: string): Promise<string> => {
    const role = `${rig.table}_${name}`;
    await rig.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'`);
    cleanups.push(() =>
      rig.query(`REASSIGN OWNED BY ${role} TO CURRENT_USER; DROP OWNED BY ${role}; DROP ROLE ${role}`),
    );
    return role;
  };
  const poolWith = (config: pg.PoolConfig): pg.Pool => {
    const one = new pg.Pool({ connectionString: server.url, ...config });
    cleanups.push(() => one.end());
    return one;
  };
  /** Connections on which attaching a partition takes so long, and holds its locks meanwhile. */
  const slowToAttach = async (seconds: number): Promise<pg.Pool> => {
    const { table } = rig;
    await rig.query(
      `CREATE FUNCTION ${table}_slow() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN IF current_setting('application_name') = '${table}' THEN PERFORM pg_sleep(${seconds}); END IF; END $$`,
    );
    cleanups.push(() => rig.query(`DROP FUNCTION ${table}_slow CASCADE`));
    await rig.query(
      `CREATE EVENT TRIGGER ${table}_slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION ${table}_slow()`,
    );
    return poolWith({ application_name: table });
  };
  /** Logged in as that role, not merely acting as it. */
  const poolOf = (role: string): pg.Pool => {
    const url = new URL(server.url);
    url.username = role;
    url.password = 'secret';
    return poolWith({ connectionString: url.href });
  };
  /** A role that owns the table and its partitions. */
  const makeOwner = async (): Promise<string> => {
    const owner = await makeRole('owner');
    await rig.query(`GRANT CREATE ON SCHEMA public TO ${owner}`);
    for (const suffix of ['', '_lanes', '_relays'])
      await rig.query(`ALTER TABLE ${rig.table}${suffix} OWNER TO ${owner}`);
    for (const table of await partitions()) await rig.query(`ALTER TABLE ${table} OWNER TO ${owner}`);
    return owner;
  };

  it('has partitions for today and 3 days to come, whoever migrates at once', async () => {
    await publish([{ n: 0 }]);
    expect(await countIn(partition(0))).toBe(1);
    for (const ahead of [1, 2, 3]) await rig.query(`DROP TABLE ${partition(ahead)}`);
    await Promise.all(Array.from({ length: 4 }, () => outbox.migrate()));
    await maintainUntil(days(0, 3));
    expect(await maintain()).toEqual({ byRows: [`${rig.table}_default`], warnings: [] });
  });

  it('makes the same with the SQL of its schema', async () => {
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DROP TABLE ${rig.table}${suffix}`);
    for (const statement of outbox.schema().split(/;\n\n/)) await rig.query(statement);
    expect(await partitions()).toEqual([`${rig.table}_default`]);
    await until(async () => {
      await outbox.migrate();
      expect(await partitions()).toEqual(days(0, 3));
    });
  });

  it('keeps the order of keys over a midnight, and loses nothing', async () => {
    const count = 2_000;
    for (const ahead of [-1, -2]) await makePartition(ahead);
    for (let from = 0; from < count; from += 500) {
      await publish(Array.from({ length: 500 }, (_, at) => ({ n: from + at, key: `k${(from + at) % 20}` })));
    }
    // Of two days, and in between the rows of transactions that began the day before they were written.
    await rig.query(
      `UPDATE ${rig.table} o SET written_at = written_at - CASE WHEN place < ${count / 2} THEN 2 ELSE 1 END * interval '1 day'
        FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM ${rig.table}) p
        WHERE p.id = o.id AND (place < ${(count * 3) / 4} OR place % 7 = 0)`,
    );
    expect(await countIn(partition(-2))).toBeGreaterThan(count / 3);
    expect(await countIn(partition(-1))).toBeGreaterThan(count / 5);
    expect(await countIn(partition(0))).toBeGreaterThan(count / 6);
    let refusals = 0;
    broker.fault = () => (refusals++ % 100 === 7 ? refused() : undefined);
    for (let at = 0; at < 2; at++) await relayOn({ keepSent: '30d' });
    await until(() => expect(broker.stored).toHaveLength(count), 30_000);
    await until(async () => expect(await outbox.status()).toMatchObject({ pending: 0, dead: 0 }));
    for (let k = 0; k < 20; k++) {
      const seen = broker.stored.filter(({ key }) => key === `k${k}`).map(({ n }) => n);
      expect(seen).toEqual(Array.from({ length: count / 20 }, (_, at) => at * 20 + k));
    }
    expect(await countIn(rig.table)).toBe(count);
  });

  it('leaves a day to the DEFAULT partition that has rows of it, and says so once', async () => {
    await rig.query(`DROP TABLE ${partition(0)}, ${partition(2)}`);
    await publish([{ n: 0, key: 'k' }, { n: 1 }]);
    expect(await countIn(`${rig.table}_default`)).toBe(2);
    await maintainUntil(days(1, 3));
    const { heard, logger } = warnings();
    await relayOn({ keepSent: '1s', logger });
    await until(() => expect(broker.stored).toHaveLength(2));
    await until(() => expect(heard).toEqual([expect.stringContaining(`no partition of ${day(0)}: the DEFAULT`)]));
    // What is in it is cleaned up row by row.
    await until(async () => expect(await countIn(`${rig.table}_default`)).toBe(0));
    await maintainUntil(days(0, 3));
    expect(heard).toHaveLength(1);
  });

  it('fails no publish while it makes the partition of today', async () => {
    await rig.query(`DROP TABLE ${partition(0)}`);
    // Less than a change may take, and longer than a publish takes to run into it.
    const theirs = await slowToAttach(0.3);
    let made = false;
    const making = maintain(undefined, pgDatabase(theirs)).finally(() => {
      made = true;
    });
    const sleeping = (): Promise<readonly unknown[]> =>
      rig.query(`SELECT FROM pg_stat_activity WHERE application_name = '${rig.table}' AND wait_event = 'PgSleep'`);
    await until(async () => expect(made || (await sleeping()).length > 0).toBe(true));
    await publish([{ n: 0 }]);
    expect(await countIn(rig.table)).toBe(1);
    await making;
  });

  it('takes no longer for a DEFAULT partition that is large, and cleans it', async () => {
    const { table } = rig;
    await rig.query(`DROP TABLE ${partition(0)}, ${partition(1)}`);
    await publish([{ n: 0 }, { n: 1 }]);
    const theirs = await slowToAttach(3_600);
    const { heard, logger } = warnings();
    await relayOn({ keepSent: '1s', logger }, postgresOutbox(theirs, { table, partitions: 'day' }));
    await until(() =>
      expect(heard.sort()).toEqual([
        expect.stringContaining(`no partition of ${day(0)}: the DEFAULT`),
        expect.stringContaining(`no partition of ${day(1)}: it cannot be done in 500 ms`),
      ]),
    );
    await publish([{ n: 2 }]);
    await until(async () => expect(await countIn(table)).toBe(0));
    expect(broker.stored).toHaveLength(3);
    expect(await partitions()).toEqual(days(2, 3));
  });

  it('drops a partition when its day is over and all of it was sent', async () => {
    for (const ahead of [-3, -2]) {
      await makePartition(ahead);
      await insert(1_000, ahead, 'sent');
    }
    expect((await maintain(72 * hour)).warnings).toEqual([]);
    expect(await partitions()).toEqual(days(-3, 3).filter((name) => name !== partition(-1)));
    await maintainUntil(days(0, 3), hour);
    expect(await countIn(rig.table)).toBe(0);
  });

  it('cleans row by row what is still there a day later, until it can be dropped', async () => {
    broker.fault = () => refused();
    for (const ahead of [-4, -3, -1]) await makePartition(ahead);
    await insert(1_000, -4, 'sent');
    await insert(3, -4, 'pending');
    await rig.query(`UPDATE ${partition(-4)} SET dead_at = now(), last_error = 'x' WHERE sent_at IS NULL`);
    await insert(2_500, -3, 'sent');
    await insert(10, -3, 'pending');
    await insert(100, -1, 'sent');
    await insert(1, -1, 'pending');
    expect(await maintain(1_000)).toEqual({
      byRows: [`${rig.table}_default`, partition(-4), partition(-3)],
      warnings: [-4, -3].map((ahead) => expect.stringContaining(`${partition(ahead)} is cleaned row by row`)),
    });
    expect(await countIn(rig.table)).toBe(3_614);
    const { heard, logger } = warnings();
    await relayOn({ keepSent: '1s', maxAttempts: 1_000, logger });
    await until(async () => expect(await countIn(rig.table)).toBe(114));
    expect(await countIn(partition(-1))).toBe(101);
    // One that somebody has dropped meanwhile is in nobody's way.
    await rig.query(`DROP TABLE ${partition(-4)}`);
    await insert(5, -3, 'sent');
    await until(async () => expect(await countIn(partition(-3))).toBe(10));
    expect(heard.filter((text) => text.includes('is not cleaned'))).toEqual([]);
    broker.fault = () => undefined;
    await until(async () => expect(await outbox.status()).toMatchObject({ pending: 0, dead: 0 }));
    await maintainUntil(days(0, 3), 1_000);
  });

  it('drops none that was written to, or detached, meanwhile', async () => {
    for (const ahead of [-3, -2]) {
      await makePartition(ahead);
      await insert(10, ahead, 'sent');
    }
    const late = databaseWith('AS unsent', () => insert(1, -3, 'pending'));
    await maintain(hour, late);
    expect(await countIn(partition(-3))).toBeGreaterThan(10);
    await rig.query(`DELETE FROM ${partition(-3)}`);
    // Dropped by then, unless the machine was slow.
    if (!(await partitions()).includes(partition(-2))) await makePartition(-2);
    const archived = databaseWith('AS unsent', async () => {
      if ((await partitions()).includes(partition(-2))) {
        await rig.query(`ALTER TABLE ${rig.table} DETACH PARTITION ${partition(-2)}`);
      }
    });
    await until(async () => {
      await maintain(hour, archived);
      expect(await partitions()).toEqual(days(0, 3));
    });
    const kept = await rig.query(`SELECT to_regclass('${partition(-2)}') IS NOT NULL AS kept`);
    await rig.query(`DROP TABLE IF EXISTS ${partition(-2)}`);
    expect(kept).toEqual([{ kept: true }]);
  });

  it('tries once, and no longer than it says, while somebody writes', async () => {
    for (const ahead of [-4, -3, -1]) {
      await makePartition(ahead);
      await insert(10, ahead, 'sent');
    }
    const publisher = await rig.begin();
    await outbox.publish(publisher.tx as PgTx, 'orders', { n: 1 });
    const tries: string[] = [];
    const watched: SqlDatabase = {
      ...database,
      run: (text, values) => {
        if (text.includes('DROP TABLE')) tries.push(text);
        return database.run(text, values);
      },
    };
    expect(await maintain(1_000, watched)).toEqual({
      byRows: [`${rig.table}_default`, partition(-4), partition(-3)],
      warnings: [-4, -3].map((ahead) => expect.stringMatching(`${partition(ahead)} is cleaned .* holds a lock`)),
    });
    expect(tries).toHaveLength(1);
    await outbox.publish(publisher.tx as PgTx, 'orders', { n: 2 });
    await publisher.commit();
    expect(await countIn(partition(0))).toBe(2);
    await maintainUntil(days(0, 3), 1_000);
  });

  it('deletes at once what is not to be kept', async () => {
    await makePartition(-2);
    await insert(10, -2, 'pending');
    await publish([{ n: 1 }, { n: 2, key: 'k' }]);
    await relayOn({ keepSent: 0 });
    await until(async () => expect(await countIn(rig.table)).toBe(0));
    expect(broker.stored).toHaveLength(12);
    await maintainUntil(days(0, 3), 0);
  });

  it('is maintained by several at once, while others publish', async () => {
    for (const ahead of [-4, -3, -2]) {
      await makePartition(ahead);
      await insert(100, ahead, 'sent');
    }
    await rig.query(`DROP TABLE ${partition(2)}, ${partition(3)}`);
    let publishing = true;
    const published = (async () => {
      let n = 0;
      while (publishing) await publish([{ n: n++ }]);
      return n;
    })();
    const { heard, logger } = warnings();
    for (let at = 0; at < 2; at++) await relayOn({ keepSent: '1s', logger });
    const maintained = await Promise.all(Array.from({ length: 6 }, () => maintain(hour)));
    await maintainUntil(days(0, 3), hour);
    publishing = false;
    const count = await published;
    await until(() => expect(broker.stored).toHaveLength(count));
    for (const text of [...heard, ...maintained.flatMap((one) => one.warnings)]) {
      expect(text).toContain('somebody holds a lock');
    }
  });

  it('leaves partitions of other names alone', async () => {
    await rig.query(`DROP TABLE ${partition(1)}`);
    await rig.query(
      `CREATE TABLE ${rig.table}_x_${dayName(1)} PARTITION OF ${rig.table}
        FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')`,
    );
    await maintainUntil([...days(0, 3), `${rig.table}_x_${dayName(1)}`].sort(), hour);
    expect((await maintain(hour)).warnings).toEqual([]);
  });

  it('refuses a table of the other form, and says what to do', async () => {
    const whole = postgresOutbox(pool, { table: rig.table });
    for (const attempt of [() => whole.migrate(), () => whole.relay(broker.bus)]) {
      await expect(attempt()).rejects.toMatchObject({
        code: 'CONFIG',
        field: 'partitions',
        message: expect.stringMatching(/made with partitions; set the option/),
      });
    }
    const table = `${rig.table}_x`;
    const other = postgresOutbox(pool, { table });
    await other.migrate();
    const divided = postgresOutbox(pool, { table, partitions: 'day' });
    for (const attempt of [() => divided.migrate(), () => divided.relay(broker.bus)]) {
      await expect(attempt()).rejects.toMatchObject({
        code: 'CONFIG',
        field: 'partitions',
        message: expect.stringMatching(/made without partitions; leave the option out/),
      });
    }
    // Also where the version is not noted.
    await rig.query(`DELETE FROM waybill_schema_versions WHERE name = 'outbox ${table}'`);
    await expect(divided.migrate()).rejects.toMatchObject({ code: 'CONFIG', field: 'partitions' });
    for (const suffix of ['', '_lanes', '_relays']) await rig.query(`DROP TABLE ${table}${suffix}`);
    await rig.query(`DROP FUNCTION ${table}_wake, ${table}_put`);
    expect(() => postgresOutbox(pool, { partitions: 'week' as 'day' })).toThrow(/partitions: "week"/);
  });

  it('refuses a name that leaves no room for the day', () => {
    expect(() => postgresOutbox(pool, { table: 'x'.repeat(55), partitions: 'day' })).toThrow(/63 bytes/);
  });

  it('does the same in a schema of its own, whatever isolation is the default', async () => {
    const schema = `${rig.table}_"s"`;
    const table = 'The outbox';
    const quoted = `"${schema.replaceAll('"', '""')}"`;
    const others = poolWith({ options: '-c default_transaction_isolation=serializable' });
    const theirs = postgresOutbox(others, { table, schema, partitions: 'day' });
    const { heard, logger } = warnings();
    await theirs.migrate();
    cleanups.push(() => rig.query(`DROP SCHEMA ${quoted} CASCADE`));
    await rig.query(
      `CREATE TABLE ${quoted}."The outbox_${dayName(-1)}" PARTITION OF ${quoted}."The outbox"
        FOR VALUES FROM ('${day(-1)} 00:00+00') TO ('${day(0)} 00:00+00')`,
    );
    const names = async (): Promise<string[]> => {
      const rows = await rig.query(
        `SELECT p.relname AS name FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
          WHERE i.inhparent = '${quoted}."The outbox"'::regclass ORDER BY p.relname`,
      );
      return rows.map(({ name }) => String(name).slice(-8));
    };
    const expected = days(0, 3).map((name) => name.slice(-8));
    // A relay looks once an hour; on a slow machine it takes several.
    await until(async () => {
      await theirs.migrate();
      const relay = await relayOn({ keepSent: '1s', logger }, theirs);
      await until(async () => expect(await names()).toEqual(expected), 5_000).finally(() => relay.close());
    }, 30_000);
    expect(heard).toEqual([]);
  });

  it('makes and drops them for any member of the role that owns the table, and the others where one is not its own', async () => {
    for (const ahead of [-4, -3]) {
      await makePartition(ahead);
      await insert(10, ahead, 'sent');
    }
    const owner = await makeOwner();
    const foreign = await makeRole('foreign');
    await rig.query(`ALTER TABLE ${partition(-4)} OWNER TO ${foreign}`);
    const member = await makeRole('member');
    await rig.query(`GRANT ${owner} TO ${member}`);
    await rig.query(`DROP TABLE ${partition(2)}`);
    const others = poolOf(member);
    await until(async () => {
      expect((await maintain(1_000, pgDatabase(others))).warnings).toEqual([
        expect.stringMatching(/permission denied|must be owner/),
      ]);
      expect(await partitions()).toEqual([partition(-4), ...days(0, 3)]);
    });
    const owners = await rig.query(
      `SELECT DISTINCT relowner::regrole::text AS owner FROM pg_class WHERE relname IN ('${days(0, 3).join("','")}')`,
    );
    expect(owners).toEqual([{ owner }]);

    const { heard, logger } = warnings();
    await relayOn({ keepSent: '1s', logger }, postgresOutbox(others, { table: rig.table, partitions: 'day' }));
    await until(() => expect(heard).toContainEqual(expect.stringMatching(`${partition(-4)}.* is not cleaned`)));
    await rig.query(`GRANT SELECT, DELETE ON ${partition(-4)} TO ${member}`);
    await until(async () => expect(await countIn(partition(-4))).toBe(0));
  });

  it('says what the owner may not do', async () => {
    const { table } = rig;
    const schema = `${table}_s`;
    await rig.query(`CREATE SCHEMA ${schema}`);
    cleanups.push(() => rig.query(`DROP SCHEMA ${schema} CASCADE`));
    const owner = await makeOwner();
    const member = await makeRole('member');
    await rig.query(`GRANT ${owner} TO ${member}; GRANT USAGE ON SCHEMA ${schema} TO ${member}`);
    await rig.query(`DROP TABLE ${partition(1)}`);
    for (const moved of [table, ...(await partitions())]) await rig.query(`ALTER TABLE ${moved} SET SCHEMA ${schema}`);
    const { warnings: told } = await maintain(hour, pgDatabase(poolOf(member)), statementsOf(table, `${schema}.`));
    expect(told).toEqual([expect.stringMatching(`${day(1)}: permission denied for schema`)]);
  });

  it('works on without the right to make partitions, and says so once', async () => {
    const { table } = rig;
    const owner = await makeOwner();
    const role = await makeRole('relay');
    await rig.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${table}, ${table}_lanes, ${table}_relays TO ${role}`);
    const [version] = await rig.query(`SELECT current_setting('server_version_num')::int AS number`);
    if (Number(version?.['number']) >= 160_000)
      await rig.query(`GRANT ${owner} TO ${role} WITH INHERIT TRUE, SET FALSE`);
    await rig.query(`DROP TABLE ${partition(0)}, ${partition(3)}`);
    await makePartition(-2);
    await insert(10, -2, 'sent');
    await publish([{ n: 0, key: 'k' }, { n: 1 }]);
    const { heard, logger } = warnings();
    await relayOn({ keepSent: '1s', logger }, postgresOutbox(poolOf(role), { table, partitions: 'day' }));
    await until(() => expect(broker.stored).toHaveLength(2));
    await until(async () => expect(await countIn(table)).toBe(0));
    expect(heard).toEqual([expect.stringContaining(`this role may not act as ${owner}`)]);
    expect(await partitions()).toContain(partition(-2));
    expect(await partitions()).not.toContain(partition(3));
  });

  it('reads no partition as a whole', async () => {
    const count = 200_000;
    await makePartition(-2);
    for (const ahead of [-2, 0]) {
      await insert(count, ahead, 'sent');
      await insert(100, ahead, 'pending');
    }
    await rig.query(`VACUUM ANALYZE ${rig.table}`);
    const plans: string[] = [];
    const explaining: SqlDatabase = {
      ...database,
      async run(text, values) {
        const { rows } = await database.run(`EXPLAIN ${text}`, values);
        plans.push(`${text}\n${rows.map((row) => row['QUERY PLAN']).join('\n')}`);
        return { rows: [], affected: 0 };
      },
    };
    const found = await rig.query(`SELECT id FROM ${rig.table} WHERE sent_at IS NULL`);
    const ids = found.map(({ id }) => Number(id));
    expect(ids).toHaveLength(200);
    const failures = ids.map((id) => ({ id, attempts: 1, after: 1, error: 'x', dead: false, holds: false }));
    await statements.page(explaining, {
      relay: 'me',
      lanes: Array.from({ length: 64 }, (_, lane) => lane),
      after: 0,
      upTo: Number.MAX_SAFE_INTEGER,
      limit: 500,
      idsLeftOut: ids.slice(0, 10),
      topicsLeftOut: ['x'],
      keysLeftOut: [['orders', 'x']],
    });
    await statements.bodies(explaining, ids);
    await statements.markSent(explaining, 'me', ids, true);
    await statements.markSent(explaining, 'me', ids, false);
    await statements.markFailed(explaining, 'me', failures);
    await statements.backlog(explaining);
    await statements.dead(explaining, 0, 100);
    await statements.revive(explaining, ids);
    await statements.purge(explaining, ids);
    await statements.sweep(explaining, 0, hour, 1_000);
    await statements.sweep(explaining, 0, hour, 1_000, partition(-2));
    expect(plans).toHaveLength(11);
    await maintain(
      hour,
      databaseWith('SELECT coalesce', (text) => explaining.run(text)),
    );
    expect(plans).toHaveLength(12);
    const large = new RegExp(`Seq Scan on (${partition(-2)}|${partition(0)})\\b`);
    for (const plan of plans) expect(plan).not.toMatch(large);
    expect(plans.at(-1)).not.toMatch(/_pkey|Sort/);
  });
});
