import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as wait } from 'node:timers/promises';
import { type Bus, connect } from '@waybill/core';
import { expect, onTestFinished, test } from 'vitest';
import { sqlite } from '../src/index.ts';
import type { SqliteOptions } from '../src/options.ts';
import { folder, openRig } from './rig.ts';

async function open(path: string, options: Partial<SqliteOptions> = {}): Promise<Bus> {
  const bus = await connect(sqlite({ path, ...options }), { logger: false, connectTimeout: 5_000 });
  onTestFinished(() => bus.close({ timeout: 100 }));
  return bus;
}

/** A lock that every writer needs, by another connection. */
function lock(path: string): () => void {
  const database = new DatabaseSync(path);
  database.exec('BEGIN IMMEDIATE');
  return () => database.close();
}

async function until(what: () => unknown): Promise<void> {
  while (!(await what())) await wait(5);
}

test('a full disk is told, loses nothing, and is over once there is room', async () => {
  const path = join(folder(), 'orders.db');
  const bus = await open(path);
  const seen: number[] = [];
  await bus.subscribe('t', { group: 'g' }, ({ data }) => void seen.push(data as number));
  await bus.publish('t', 1);
  await until(() => seen.length === 1);
  const { database } = bus.native('sqlite');
  const { page_count: pages } = database.prepare('PRAGMA page_count').get() as { page_count: number };
  database.exec(`PRAGMA max_page_count = ${pages}`);
  const big = bus.publish('big', 'x'.repeat(1_000_000));
  await until(async () => (await bus.health()).status !== 'up');
  expect((await bus.health()).reason).toContain('SQLITE_FULL');
  database.exec('PRAGMA max_page_count = 1000000');
  await big;
  await bus.publish('t', 2);
  await until(() => seen.length === 2);
  expect(seen).toEqual([1, 2]);
  expect((await bus.health()).status).toBe('up');
});

test('a lock of another process is waited for while the event loop runs', async () => {
  const path = join(folder(), 'orders.db');
  const bus = await open(path);
  await bus.publish('t', 1);
  const unlock = lock(path);
  let confirmed = false;
  const publish = bus.publish('t', 2).then(() => {
    confirmed = true;
  });
  const gaps: number[] = [];
  let last = performance.now();
  for (let turns = 0; turns < 60; turns++) {
    await wait(5);
    gaps.push(performance.now() - last);
    last = performance.now();
  }
  expect(confirmed).toBe(false);
  expect((await bus.health()).status).toBe('up');
  // Nobody slept in SQLite for it: not once for busyTimeout, nor a little each time it was tried.
  expect(Math.max(...gaps)).toBeLessThan(2_500);
  expect(gaps.sort((a, b) => a - b)[gaps.length >> 1]).toBeLessThan(50);
  unlock();
  await publish;
});

test('a lock that does not end is an outage, and says so', async () => {
  const path = join(folder(), 'orders.db');
  const bus = await open(path, { busyTimeout: 200 });
  await bus.publish('t', 1);
  const unlock = lock(path);
  const publish = bus.publish('t', 2);
  await until(async () => (await bus.health()).status !== 'up');
  expect((await bus.health()).reason).toContain('locked');
  unlock();
  await publish;
  expect((await bus.health()).status).toBe('up');
});

test('a file that is moved away is not written to, nor made anew, and is used again when it is back', async () => {
  const path = join(folder(), 'orders.db');
  const bus = await open(path);
  await bus.publish('t', 1);
  renameSync(path, `${path}.away`);
  const publish = bus.publish('t', 2);
  await until(async () => (await bus.health()).status !== 'up');
  expect((await bus.health()).reason).toContain(path);
  expect(existsSync(path)).toBe(false);
  renameSync(`${path}.away`, path);
  await publish;
  const rows = bus.native('sqlite').database.prepare('SELECT count(*) AS count FROM log').get();
  expect(rows).toEqual({ count: 2 });
});

test('a path that leads nowhere any more is an outage like any other', async () => {
  const root = folder();
  const [data, link] = [join(root, 'data'), join(root, 'link')];
  mkdirSync(data);
  symlinkSync(data, link);
  const bus = await open(join(link, 'orders.db'), { pollInterval: '20ms' });
  await bus.publish('t', 1);
  rmSync(link);
  symlinkSync(link, link); // asking for it fails, instead of saying that there is none
  await until(async () => (await bus.health()).status !== 'up');
  expect((await bus.health()).reason).toContain('put it back');
  const publish = bus.publish('t', 2);
  rmSync(link);
  symlinkSync(data, link);
  await publish;
  expect((await bus.health()).status).toBe('up');
});

test('a path that cannot be asked for is told as such (LIFE-04)', async () => {
  const path = join(folder(), 'loop');
  symlinkSync(path, path);
  const rig = openRig(join(path, 'orders.db'));
  await expect(rig).rejects.toMatchObject({ code: 'CONNECTION', message: expect.stringContaining('ELOOP') });
});

test.runIf(existsSync('/proc/self/fd'))(
  'a flush that fails confirms nothing, and ends the log it was for',
  async () => {
    const path = join(folder(), 'orders.db');
    const rig = await openRig(path, { synchronous: 'full' });
    const outcome = async (body: string): Promise<unknown> => {
      const [result] = await rig.publish(body);
      return result?.status === 'failed' ? result.outcome : result?.status;
    };
    expect(await outcome('a')).toBe('stored');
    // Each new log has other salts in its header.
    const salts = (): string => readFileSync(`${path}-wal`).toString('hex', 16, 24);
    const before = salts();
    // The newest descriptor is the one that is flushed; in its place comes a device, which cannot be.
    const descriptor = descriptorsOf(`${realpathSync(path)}-wal`).at(-1) ?? -1;
    closeSync(descriptor);
    expect(openSync('/dev/null', 'r')).toBe(descriptor);
    expect(await outcome('b')).toBe('unknown');
    expect(await outcome('c')).toBe('not-sent');
    await expect(rig.connection.ping()).rejects.toThrow('the disk failed');
    await rig.clock.advance(5_000);
    expect(await outcome('d')).toBe('stored');
    expect(salts()).not.toBe(before);
    await rig.connection.close();
  },
);

/** This process's open descriptors of a file, the newest last. */
function descriptorsOf(path: string): number[] {
  const leadsThere = (name: string): boolean => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`) === path;
    } catch {
      return false; // closed meanwhile
    }
  };
  return readdirSync('/proc/self/fd')
    .filter(leadsThere)
    .map(Number)
    .sort((a, b) => a - b);
}

test('members are woken by the commits of other processes', { timeout: 60_000 }, async () => {
  const path = join(folder(), 'orders.db');
  const program = join(folder(), 'publish.mjs');
  const [core, adapter] = ['@waybill/core', '@waybill/sqlite'].map((name) => import.meta.resolve(name));
  writeFileSync(
    program,
    `import { connect } from '${core}';
     import { sqlite } from '${adapter}';
     const bus = await connect(sqlite({ path: process.argv[2] }), { logger: false });
     await bus.publish('t', 1);
     await bus.close();`,
  );
  const bus = await open(path, { pollInterval: '1h' });
  let seen = 0;
  await bus.subscribe('t', { group: 'g' }, () => void seen++);
  const [code] = await once(fork(program, [path]), 'exit');
  expect(code).toBe(0);
  await until(() => seen === 1);
});

test('what a program without Waybill publishes is found by polling', async () => {
  const path = join(folder(), 'orders.db');
  const bus = await open(path, { pollInterval: '50ms' });
  const seen: unknown[] = [];
  await bus.subscribe('t', { group: 'g' }, ({ data, key, headers }) => void seen.push([data, key, headers]));
  const database = new DatabaseSync(path);
  database.exec(`INSERT INTO inbox (topic, key, content_type, headers, body)
    VALUES ('t', 'k', 'application/json', '{"Source":"import","waybill-id":"x"}', '{"n":1}')`);
  expect(() => database.exec("INSERT INTO inbox (topic, body) VALUES ('nowhere', '')")).toThrow('no topic');
  database.close();
  await until(() => seen.length === 1);
  expect(seen).toEqual([[{ n: 1 }, 'k', { source: 'import' }]]);
});

test('many processes may make the file at once', { timeout: 60_000 }, async () => {
  const path = join(folder(), 'orders.db');
  const program = join(folder(), 'open.mjs');
  const [core, adapter] = ['@waybill/core', '@waybill/sqlite'].map((name) => import.meta.resolve(name));
  writeFileSync(
    program,
    `import { connect } from '${core}';
     import { sqlite } from '${adapter}';
     const bus = await connect(sqlite({ path: process.argv[2] }), { logger: false });
     await bus.provision([{ topic: 't', groups: ['g'] }]);
     await bus.publish('t', 1);
     await bus.close();`,
  );
  const ends = Array.from({ length: 4 }, () => once(fork(program, [path]), 'exit'));
  expect((await Promise.all(ends)).map(([code]) => code)).toEqual([0, 0, 0, 0]);
  const bus = await open(path);
  // Each has made the group before it published.
  expect(await bus.lag('t', 'g')).toMatchObject({ waiting: 4 });
});

test('what is confirmed when a process is killed in the middle of its writes is there', {
  timeout: 60_000,
}, async () => {
  const path = join(folder(), 'orders.db');
  const program = join(folder(), 'write.mjs');
  const [core, adapter] = ['@waybill/core', '@waybill/sqlite'].map((name) => import.meta.resolve(name));
  writeFileSync(
    program,
    `import { connect } from '${core}';
     import { sqlite } from '${adapter}';
     const bus = await connect(sqlite({ path: process.argv[2] }), { logger: false });
     for (let n = 0; ; n++) bus.publish('t', n).then(({ position }) => process.send(Number(position))), n % 50 || await new Promise(setImmediate);`,
  );
  const bus = await open(path);
  await bus.provision([{ topic: 't', groups: ['g'] }]);
  for (let round = 1; round <= 3; round++) {
    const child = fork(program, [path]);
    let last = -1;
    let told = 0;
    child.on('message', (position) => {
      last = Math.max(last, Number(position));
      if (++told === 300 * round) child.kill('SIGKILL');
    });
    await once(child, 'exit');
    const row = bus.native('sqlite').database.prepare('SELECT max(position) AS last FROM log').get();
    expect(Number(row?.['last'])).toBeGreaterThanOrEqual(last);
    await bus.publish('t', 'the file can be written');
  }
  expect(bus.native('sqlite').database.prepare('PRAGMA integrity_check').get()).toEqual({ integrity_check: 'ok' });
});

test('a file is made once, and opened as it is after that', async () => {
  const path = join(folder(), 'orders.db');
  const schema = (): unknown => {
    const database = new DatabaseSync(path);
    const rows = database.prepare('SELECT name, sql FROM sqlite_master ORDER BY name').all();
    const version = database.prepare('PRAGMA user_version').get();
    database.close();
    return [rows, version];
  };
  await (await open(path)).close();
  const before = schema();
  await (await open(path)).close();
  expect(schema()).toEqual(before);
});

test('leaves no handle open', { timeout: 30_000 }, () => {
  const path = join(folder(), 'orders.db');
  const program = join(folder(), 'use.mjs');
  const [core, adapter] = ['@waybill/core', '@waybill/sqlite'].map((name) => import.meta.resolve(name));
  writeFileSync(
    program,
    `import { connect } from '${core}';
     import { sqlite } from '${adapter}';
     const bus = await connect(sqlite({ path: '${path}' }), { logger: false });
     await bus.subscribe('t', { group: 'g' }, () => {});
     await bus.publish('t', 1);
     await bus.close();`,
  );
  expect(execFileSync(process.execPath, [program], { encoding: 'utf8', timeout: 20_000 })).toBe('');
});
