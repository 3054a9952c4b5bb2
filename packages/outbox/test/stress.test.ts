import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pgDatabase } from '@waybill/sql/postgres';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { postgresStatements } from '../src/dialects/postgres.ts';
import { postgresOutbox } from '../src/postgres.ts';
import type { Relay, RelayOptions } from '../src/types.ts';
import { refused, type Stored, type TestBus, testBus } from './broker.ts';
import { databaseNames, type Rig, type Server, startDatabase } from './databases.ts';

vi.setConfig({ hookTimeout: 60_000 });

/** Rows of the large tests; `WAYBILL_OUTBOX_ROWS=50000` for the long form. */
const rows = Number(process.env['WAYBILL_OUTBOX_ROWS'] ?? 5_000);

describe.each(databaseNames)('outbox under stress on %s', (name) => {
  let server: Server;
  let rig: Rig;
  const buses: TestBus[] = [];
  const relays: Relay[] = [];

  beforeAll(async () => {
    server = await startDatabase(name);
  }, 120_000);
  afterAll(() => server.stop());
  beforeEach(async () => {
    rig = await server.open();
    await rig.outbox.migrate();
  });
  afterEach(async () => {
    await Promise.all(relays.splice(0).map((relay) => relay.close()));
    await Promise.all(buses.splice(0).map(({ bus }) => bus.close()));
    await rig.close();
  });

  const busWith = async (stored: Stored[]): Promise<TestBus> => {
    const bus = await testBus({ stored });
    buses.push(bus);
    return bus;
  };
  const relayOn = async ({ bus }: TestBus, options: RelayOptions = {}): Promise<Relay> => {
    const relay = await rig.outbox.relay(bus, { pollInterval: 100, lease: '5s', logger: false, ...options });
    relays.push(relay);
    return relay;
  };
  /** Numbers in turn for so many keys, in transactions of this size. */
  const fill = async (count: number, keys: number, size = 500): Promise<void> => {
    for (let from = 0; from < count; from += size) {
      const { tx, commit } = await rig.begin();
      const items = Array.from({ length: Math.min(size, count - from) }, (_, at) => {
        const n = from + at;
        return { data: { n }, key: `k${n % keys}` };
      });
      await rig.outbox.publishBatch(tx, 'orders', items);
      await commit();
    }
  };
  const inOrder = (stored: readonly { key: string | undefined; n: number }[]): void => {
    const last = new Map<string | undefined, number>();
    for (const { key, n } of stored) {
      expect(n, `key ${key}: ${n} after ${last.get(key)}`).toBeGreaterThan(last.get(key) ?? -1);
      last.set(key, n);
    }
  };

  /** Relays in processes of their own, and what their brokers have stored. */
  const relayProcesses = () => {
    const folder = mkdtempSync(join(tmpdir(), 'waybill-relay-'));
    const log = join(folder, 'stored');
    writeFileSync(log, '');
    const running = new Set<ChildProcess>();
    const script = fileURLToPath(new URL('relay-process.ts', import.meta.url));
    const kill = async (child: ChildProcess): Promise<void> => {
      running.delete(child);
      child.kill('SIGKILL');
      await once(child, 'exit');
    };
    const killAll = async (): Promise<void> => void (await Promise.all([...running].map(kill)));
    return {
      start({ ahead = 0, lease = '1s' } = {}): void {
        const order = [script, name, server.url, rig.table, log, String(ahead), lease];
        running.add(spawn(process.execPath, order, { stdio: 'inherit' }));
      },
      async killOldest(): Promise<void> {
        const [oldest] = running;
        if (oldest !== undefined) await kill(oldest);
      },
      killAll,
      stored(): { key: string; n: number }[] {
        const lines = readFileSync(log, 'utf8').split('\n').slice(0, -1);
        return lines.map((line) => line.split(' ')).map(([key = '', n]) => ({ key, n: Number(n) }));
      },
      async [Symbol.asyncDispose](): Promise<void> {
        await killAll();
        rmSync(folder, { recursive: true });
      },
    };
  };

  it('loses, doubles and reorders nothing with two relays and one send in a hundred refused', async () => {
    const stored: Stored[] = [];
    let seed = 1;
    const fault = () => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % 100 === 0 ? refused() : undefined;
    };
    const options: RelayOptions = { retryDelay: { initial: 10, max: 200 } };
    const filled = fill(rows, 100);
    for (let at = 0; at < 2; at++) {
      const broker = await busWith(stored);
      broker.fault = fault;
      await relayOn(broker, options);
    }
    await filled;
    await vi.waitFor(() => expect(stored.length).toBeGreaterThanOrEqual(rows), { timeout: 240_000, interval: 50 });
    await vi.waitFor(async () => expect((await rig.outbox.status()).pending).toBe(0), 20_000);
    expect(stored).toHaveLength(rows);
    inOrder(stored);
    const stats = await Promise.all(relays.map((relay) => relay.stats()));
    expect(stats.reduce((sum, { failed }) => sum + failed, 0)).toBeGreaterThan(rows / 300);
  }, 300_000);

  it('finds what was written first and committed last', async () => {
    const stored: Stored[] = [];
    await relayOn(await busWith(stored));
    if (name === 'sqlite') {
      // One transaction writes at a time: the first one is the last one only when it rolls back.
      const late = await rig.begin();
      await rig.outbox.publish(late.tx, 'orders', { n: -1 }, { key: 'late' });
      await late.commit();
    }
    const late = name === 'sqlite' ? undefined : await rig.begin();
    if (late !== undefined) await rig.outbox.publish(late.tx, 'orders', { n: -1 }, { key: 'late' });
    await fill(3_000, 50);
    await vi.waitFor(() => expect(stored.length).toBeGreaterThanOrEqual(3_000), { timeout: 60_000, interval: 20 });
    const more = fill(3_000, 50);
    await late?.commit();
    await vi.waitFor(() => expect(stored.some(({ key }) => key === 'late')).toBe(true), { timeout: 20_000 });
    await more;
    await vi.waitFor(() => expect(stored).toHaveLength(6_001), { timeout: 60_000, interval: 20 });
  }, 200_000);

  it.skipIf(name === 'sqlite')('keeps the order of a key that was committed between two pages', async () => {
    const first = await rig.begin();
    await rig.outbox.publish(first.tx, 'orders', { n: 0 }, { key: 'k' });
    await fill(20, 20);
    let pages = 0;
    const { outbox } = rig.watched(async (text) => {
      if (!/ORDER BY .*\bo\.id LIMIT/.test(text) || pages++ > 0) return;
      await first.commit();
      const second = await rig.begin();
      await rig.outbox.publish(second.tx, 'orders', { n: 1 }, { key: 'k' });
      await second.commit();
    });
    const { bus, stored } = await busWith([]);
    relays.push(await outbox.relay(bus, { pollInterval: 100, maxInFlight: 8, logger: false }));
    await vi.waitFor(() => expect(stored).toHaveLength(22), { timeout: 20_000, interval: 10 });
    expect(pages).toBeGreaterThan(2);
    expect(stored.filter(({ key }) => key === 'k').map(({ n }) => n)).toEqual([0, 1]);
  });

  it('goes on where a relay was killed', async () => {
    const count = 2_000;
    const kills = 3;
    await using processes = relayProcesses();
    await fill(count, 20);
    processes.start();
    for (let at = 1; at <= kills; at++) {
      await vi.waitFor(() => expect(processes.stored().length).toBeGreaterThan((count / 6) * at), {
        timeout: 60_000,
        interval: 10,
      });
      processes.start();
      await processes.killOldest();
    }
    await vi.waitFor(async () => expect((await rig.outbox.status()).pending).toBe(0), {
      timeout: 60_000,
      interval: 50,
    });
    await processes.killAll();
    const stored = processes.stored();
    const first = new Map(stored.map((one) => [one.n, one]).reverse() as [number, { key: string; n: number }][]);
    expect(first.size).toBe(count);
    // As often as a relay died, at most all that was in its hands: twice `maxInFlight`, because what is sent waits for its mark.
    expect(stored.length - count).toBeLessThanOrEqual(kills * 2 * 100);
    const seen = new Set<number>();
    inOrder(stored.filter(({ n }) => !seen.has(n) && seen.add(n)));
  }, 200_000);

  it('does not mind relays whose clocks are hours apart', async () => {
    await using processes = relayProcesses();
    // A lease that no machine stands still for, or the lanes would change hands.
    for (const hours of [-3, 3]) processes.start({ ahead: hours * 3_600_000, lease: '10s' });
    const shares = async (): Promise<number[]> => {
      const owned = await rig.query(
        `SELECT count(*) AS lanes FROM ${rig.table}_lanes WHERE owner IS NOT NULL GROUP BY owner`,
      );
      return owned.map(({ lanes }) => Number(lanes));
    };
    await vi.waitFor(async () => expect(await shares()).toEqual([32, 32]), { timeout: 60_000, interval: 50 });
    await fill(1_000, 20);
    const delayed = await rig.begin();
    await rig.outbox.publish(delayed.tx, 'orders', { n: 1_000 }, { delay: '1ms', ttl: '1h' });
    await delayed.commit();
    await vi.waitFor(async () => expect((await rig.outbox.status()).pending).toBe(0), {
      timeout: 60_000,
      interval: 50,
    });
    expect(await shares()).toEqual([32, 32]);
    expect(await rig.outbox.status()).toMatchObject({ dead: 0 });
    await processes.killAll();
    expect(processes.stored()).toHaveLength(1_001);
    inOrder(processes.stored());
  }, 200_000);

  it('asks the database less than once a second while it is idle, also beside others', async () => {
    const { outbox, count } = rig.watched();
    const { bus } = await busWith([]);
    for (let at = 0; at < 3; at++) relays.push(await outbox.relay(bus, { lease: '24s', logger: false }));
    await vi.waitFor(
      async () => {
        const stats = await Promise.all(relays.map((relay) => relay.stats()));
        expect(stats.map(({ lanes }) => lanes).sort()).toEqual([21, 21, 22]);
      },
      { timeout: 30_000, interval: 500 },
    );
    // The looks become rarer by and by.
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    const before = count();
    await new Promise((resolve) => setTimeout(resolve, 15_000));
    expect(count() - before).toBeLessThan(3 * 15);
  }, 90_000);
});

describe('outbox on PostgreSQL', () => {
  let server: Server;
  let rig: Rig;

  beforeAll(async () => {
    server = await startDatabase('postgres');
  }, 120_000);
  afterAll(() => server.stop());
  beforeEach(async () => {
    rig = await server.open();
    await rig.outbox.migrate();
  });
  afterEach(() => rig.close());

  it('waits for a pool that is exhausted, and for its lanes if it lost them meanwhile', async () => {
    const pool = new pg.Pool({ connectionString: server.url, max: 2 });
    const outbox = postgresOutbox(pool, { table: rig.table });
    const { bus, stored } = await testBus();
    const relay = await outbox.relay(bus, { lease: '1s', pollInterval: 50, logger: false });
    const clients = [await pool.connect(), await pool.connect()];
    const [first] = clients;
    if (first === undefined) throw new Error('no client');
    await first.query('BEGIN');
    await outbox.publish(first, 'orders', { n: 1 });
    await first.query('COMMIT');
    const other = await rig.outbox.relay(bus, { lease: '1s', pollInterval: 50, logger: false });
    await vi.waitFor(() => expect(stored).toHaveLength(1), 10_000);
    for (const client of clients) client.release();
    await vi.waitFor(async () => expect((await relay.stats()).lanes).toBe(32), 10_000);
    await relay.close();
    await other.close();
    await bus.close();
    await pool.end();
  }, 60_000);

  it('says that the pool is exhausted, where that gives up, and loses nothing', async () => {
    const pool = new pg.Pool({ connectionString: server.url, max: 1, connectionTimeoutMillis: 100 });
    const outbox = postgresOutbox(pool, { table: rig.table });
    const { bus, stored } = await testBus();
    const options: RelayOptions = { lease: '1s', pollInterval: 50, logger: false };
    const relay = await outbox.relay(bus, options);
    const client = await pool.connect();
    await vi.waitFor(() => expect(relay.state).toBe('recovering'), 10_000);
    const exhausted = { code: 'CONNECTION', message: expect.stringContaining('timeout exceeded') };
    expect((await relay.stats()).problem).toContain('timeout exceeded');
    await expect(outbox.relay(bus, options)).rejects.toMatchObject(exhausted);
    await expect(outbox.status()).rejects.toMatchObject(exhausted);
    await client.query('BEGIN');
    await outbox.publish(client, 'orders', { n: 1 });
    await client.query('COMMIT');
    client.release();
    await vi.waitFor(() => expect(stored).toHaveLength(1), 10_000);
    await vi.waitFor(() => expect(relay.state).toBe('running'), 10_000);
    await relay.close();
    await bus.close();
    await pool.end();
  }, 60_000);

  it('loses and doubles nothing while its connections are cut', async () => {
    const name = `cut ${rig.table}`;
    const pool = new pg.Pool({ connectionString: server.url, application_name: name });
    const outbox = postgresOutbox(pool, { table: rig.table });
    const { bus, stored } = await testBus();
    const cutsWanted = 12;
    const each = 200;
    const count = cutsWanted * each;
    const relay = await outbox.relay(bus, { pollInterval: 50, maxInFlight: 100, logger: false });
    for (let from = 0; from < count; from += each) {
      const { tx, commit } = await rig.begin();
      const items = Array.from({ length: each }, (_, at) => ({ data: { n: from + at }, key: `k${at % 10}` }));
      await rig.outbox.publishBatch(tx, 'orders', items);
      await commit();
      // In the middle of its work.
      await vi.waitFor(() => expect(stored.length).toBeGreaterThan(from), { timeout: 20_000, interval: 1 });
      const cut = await rig.query(
        `SELECT pg_terminate_backend(pid) AS cut FROM pg_stat_activity WHERE application_name = '${name}'`,
      );
      expect(cut.length).toBeGreaterThan(0);
    }
    await vi.waitFor(async () => expect((await rig.outbox.status()).pending).toBe(0), 20_000);
    expect(stored.map(({ n }) => n).sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, n) => n));
    await vi.waitFor(() => expect(relay.state).toBe('running'), 5_000);
    const closing = performance.now();
    await relay.close();
    expect(performance.now() - closing, 'milliseconds until it was closed').toBeLessThan(10_000);
    await bus.close();
    await pool.end();
    // Where each cut meets the same write, the relay waits up to 5 s before it tries that again.
  }, 120_000);

  it('reads beside a million sent rows as beside none', async () => {
    const pool = new pg.Pool({ connectionString: server.url });
    const database = pgDatabase(pool);
    const { table } = rig;
    const statements = postgresStatements(
      {
        outbox: table,
        lanes: `${table}_lanes`,
        relays: `${table}_relays`,
        index: (of) => `${table}_${of}`,
        companion: (of) => `${table}_${of}`,
      },
      undefined,
    );
    await statements.heartbeat(database, 'me', 600_000);
    await statements.claim(database, 'me', 600_000, 64);
    const request = {
      relay: 'me',
      lanes: Array.from({ length: 64 }, (_, lane) => lane),
      after: 0,
      upTo: Number.MAX_SAFE_INTEGER,
      limit: 500,
      idsLeftOut: [],
      topicsLeftOut: [],
      keysLeftOut: [],
    };
    const insert = (count: number, sent: string): Promise<unknown> =>
      pool.query(`INSERT INTO ${table} (lane, topic, message_id, message_key, content_type, body, published_at, sent_at)
        SELECT n % 64, 'orders', n, 'k' || n % 100, 'application/json', '{"n":1}', now(), ${sent} FROM generate_series(1, ${count}) n`);
    /** Of the fastest: what a busy machine adds is not the query's. */
    const timeOfPage = async (): Promise<number> => {
      await insert(100, 'NULL');
      const times: number[] = [];
      for (let at = 0; at < 21; at++) {
        const began = performance.now();
        expect(await statements.page(database, request)).toHaveLength(100);
        times.push(performance.now() - began);
      }
      const { rows } = await pool.query<{ id: string }>(`SELECT id FROM ${table} WHERE sent_at IS NULL`);
      await statements.markSent(
        database,
        'me',
        rows.map(({ id }) => Number(id)),
        true,
      );
      return Math.min(...times);
    };
    const empty = await timeOfPage();
    await insert(1_000_000, 'now()');
    const fresh = await timeOfPage();
    await pool.query(`VACUUM ANALYZE ${table}`);
    const settled = await timeOfPage();
    await pool.end();
    console.info(
      `a page of 100 rows: empty ${empty.toFixed(2)} ms, beside a million ${fresh.toFixed(2)} ms, after VACUUM ANALYZE ${settled.toFixed(2)} ms`,
    );
    expect(Math.min(fresh, settled)).toBeLessThan(empty * 2 + 2);
    expect(Math.max(fresh, settled)).toBeLessThan(empty * 4 + 5);
  }, 200_000);
});
