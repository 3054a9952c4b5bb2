import { truncateSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { connect } from '@waybill/core';
import { expect, test } from 'vitest';
import { FakeClock } from '../../../packages/core/test/fake-clock.ts';
import { ack, deadLetter, giveBack, keyed, lease, texts } from '../../../packages/core/test/memory-rig.ts';
import { sqlite } from '../src/index.ts';
import { upkeepPulse } from '../src/upkeep.ts';
import { folder, openRig } from './rig.ts';

/** Rows of a table. */
function count(path: string, table: string): number {
  const database = new DatabaseSync(path, { readOnly: true });
  const row = database.prepare(`SELECT count(*) AS count FROM ${table}`).get();
  database.close();
  return Number(row?.['count']);
}

async function round(rig: Awaited<ReturnType<typeof openRig>>): Promise<void> {
  await rig.clock.advance(upkeepPulse);
  // A round is many small transactions, each in a turn of its own.
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
}

test('what all groups have read goes once it is too old, and nothing else', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path, { retainFor: '1m' });
  const slow = { ...rig.group, name: 'slow' };
  await rig.provision('latest', slow);
  const member = await rig.member();
  await rig.publish(...Array.from({ length: 1_200 }, (_, n) => String(n)));
  await member.receiver.settle((await member.take(2_000)).map(ack));
  await rig.clock.advance(120_000);
  await round(rig);
  expect(count(path, 'log')).toBe(1_200); // the other group has read nothing of it
  const other = await rig.member(lease, slow);
  const taken = await other.take(2_000);
  expect(taken).toHaveLength(1_200);
  await other.receiver.settle(taken.slice(1).map(ack));
  await other.receiver.settle(taken.slice(0, 1).map((one) => giveBack(one, { after: 3_600_000, attempt: 2 })));
  await round(rig);
  // What waits for its retry is kept, apart from the log.
  expect([count(path, 'log'), count(path, 'messages')]).toEqual([0, 1]);
  await rig.clock.advance(3_600_000);
  const retried = await other.take();
  expect(texts(retried)).toEqual(['0']);
  await other.receiver.settle(retried.map(ack));
  await rig.publish('new');
  await round(rig);
  expect([count(path, 'log'), count(path, 'messages'), count(path, 'copies')]).toEqual([1, 1, 0]);
  await rig.connection.close();
});

test('what all groups have read goes once it is too much', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path, { retainBytes: 100 });
  const member = await rig.member();
  await rig.publish(...Array.from({ length: 1_000 }, () => '0123456789'));
  await member.receiver.settle((await member.take(2_000)).map(ack));
  await round(rig);
  expect(count(path, 'log')).toBe(10);
  await rig.connection.close();
});

test('a group leaves nothing behind, nor does a topic', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path, { retainFor: '1m' });
  const member = await rig.member();
  await rig.publish(...Array.from({ length: 700 }, (_, n) => String(n)));
  const [first, ...others] = await member.take(700);
  await member.receiver.settle(others.map((one) => giveBack(one, { after: 1_000 })));
  if (first !== undefined) await member.receiver.settle([deadLetter(first)]);
  await rig.connection.removeGroup(rig.group);
  await round(rig);
  expect(['groups', 'copies', 'dead_letters', 'removed'].map((table) => count(path, table))).toEqual([0, 0, 0, 0]);
  const database = new DatabaseSync(path);
  database.exec('DELETE FROM topics');
  database.close();
  await round(rig);
  expect(['topics', 'messages', 'removed'].map((table) => count(path, table))).toEqual([0, 0, 0]);
  await rig.connection.close();
});

test('a message that a stranger deletes is told as lost, and its key goes on without it (RET-02)', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path, {}, { ordered: true, lanes: 1 });
  const member = await rig.member();
  await rig.publish(keyed('k', 'a'), keyed('k', 'b'), keyed('k', 'c'));
  expect(texts(await member.take())).toEqual(['a']);
  const database = new DatabaseSync(path);
  database.exec("DELETE FROM messages WHERE CAST(body AS TEXT) = 'a'");
  database.close();
  await rig.clock.advance(lease);
  await member.take();
  expect(texts(await member.take())).toEqual(['b']);
  expect(member.told.map(([what]) => what)).toContain('positionLost');
  await rig.connection.close();
});

test('a redriven message comes although its topic has forgotten it', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path, { retainFor: '1m' });
  const member = await rig.member();
  await rig.publish('a');
  const [taken] = await member.take();
  if (taken !== undefined) await member.receiver.settle([deadLetter(taken)]);
  await rig.clock.advance(120_000);
  await round(rig);
  expect(count(path, 'messages')).toBe(0);
  const scan = await rig.connection.openDeadLetters(rig.group);
  expect(await scan.redrive(await scan.next(10))).toEqual(['applied']);
  expect(texts(await member.take())).toEqual(['a']);
  await rig.connection.close();
});

/** A clock that can jump, as a machine's does when it wakes up, or is set. */
class JumpingClock extends FakeClock {
  jumped = 0;

  override now(): number {
    return super.now() + this.jumped;
  }
}

test('a broadcast keeps its group while a round of upkeep takes long, and others look after the file too (SUB-07)', async () => {
  const path = join(folder(), 'orders.db');
  const clock = new FakeClock();
  const rig = await openRig(path, {}, { clock });
  const big = { ...rig.group, topic: { ...rig.group.topic, name: 'big' }, name: 'b' };
  await rig.provision('latest', big);
  const letters = Array.from({ length: 1_000 }, () => ({ topic: big.topic, body: new Uint8Array(10) }));
  for (let batch = 0; batch < 100; batch++) await rig.publish(...letters);
  const broadcast = { ...rig.group, name: 'broadcast', temporary: true };
  await rig.provision('latest', broadcast);
  const member = await rig.member(lease, broadcast);
  const database = new DatabaseSync(path);
  database.exec("DELETE FROM topics WHERE name = 'big'");
  database.close();
  await clock.advance(35_000);
  const other = await openRig(path, {}, { clock });
  await clock.advance(15_000);
  expect(count(path, 'removed')).toBeGreaterThan(0); // it is still at it
  await rig.publish('a');
  expect(texts(await member.take())).toEqual(['a']);
  expect(member.told.map(([what]) => what)).not.toContain('positionLost');
  await rig.connection.close();
  await other.connection.close();
});

test('a broadcast keeps its group over a jump of the clock; one whose member is gone does not (SUB-07)', async () => {
  const path = join(folder(), 'orders.db');
  const clock = new JumpingClock();
  const other = await openRig(path, {}, { clock }); // its upkeep comes first
  const rig = await openRig(path, {}, { clock });
  const broadcast = { ...rig.group, name: 'broadcast', temporary: true };
  await rig.provision('latest', broadcast);
  await rig.provision('latest', { ...broadcast, name: 'abandoned' });
  const member = await rig.member(lease, broadcast);
  clock.jumped = 3_600_000;
  await clock.advance(2 * upkeepPulse);
  await round(other);
  await rig.publish('a');
  expect(texts(await member.take())).toEqual(['a']);
  expect(member.told.map(([what]) => what)).not.toContain('positionLost');
  expect(count(path, 'groups')).toBe(2);
  await rig.connection.close();
  await other.connection.close();
});

test('a clock may count fractions of a millisecond', async () => {
  const clock = new JumpingClock();
  clock.jumped = 0.7;
  const rig = await openRig(join(folder(), 'orders.db'), {}, { clock });
  const broadcast = { ...rig.group, name: 'broadcast', temporary: true };
  await rig.provision('latest', broadcast);
  await rig.member(lease, broadcast);
  const member = await rig.member();
  const times = { publishedAt: clock.now(), deliverAt: clock.now() + 10, expiresAt: clock.now() + 1_000 };
  expect(await rig.publish('a', { ...times, body: new TextEncoder().encode('b') })).toMatchObject([
    { status: 'stored' },
    { status: 'stored' },
  ]);
  await clock.advance(2 * upkeepPulse + 0.4);
  const taken = await member.take();
  expect(texts(taken)).toEqual(['a', 'b']);
  expect(await member.receiver.settle(taken.map((one) => giveBack(one, { after: 0.3 })))).toEqual([
    'applied',
    'applied',
  ]);
  await rig.connection.close();
});

test('what is due is found soon after a jump of the clock (DELAY-01)', async () => {
  const clock = new JumpingClock();
  const rig = await openRig(join(folder(), 'orders.db'), {}, { clock });
  const member = await rig.member();
  await rig.publish({ deliverAt: clock.now() + 3_600_000 });
  const received = member.receiver.receive(10, new AbortController().signal);
  await clock.advance(1_000);
  clock.jumped = 3_600_000;
  await clock.advance(30_000);
  expect(await received).toHaveLength(1);
  await rig.connection.close();
});

test('what comes due at once moves into the log in pieces, whose bytes the event loop can bear', async () => {
  const path = join(folder(), 'orders.db');
  const rig = await openRig(path);
  const deliverAt = rig.clock.now() + 60_000;
  for (let n = 0; n < 8; n++) await rig.publish({ body: new Uint8Array(1_000_000), deliverAt });
  await rig.clock.advance(60_000);
  await rig.publish('a');
  expect(count(path, 'delayed')).toBeGreaterThan(0);
  const member = await rig.member();
  const sizes: number[] = [];
  while (sizes.length < 9) sizes.push(...(await member.take()).map(({ body }) => body.byteLength));
  expect(sizes.filter((size) => size === 1_000_000)).toHaveLength(8);
  await rig.connection.close();
});

test('a write-ahead log that does not come to its end is told', async () => {
  const path = join(folder(), 'orders.db');
  const warnings: string[] = [];
  const clock = new FakeClock();
  const logger = { debug() {}, info() {}, error() {}, warn: (text: string) => void warnings.push(text) };
  const bus = await connect(sqlite({ path }), { clock, logger });
  await bus.publish('t', 1);
  truncateSync(`${path}-wal`, 300_000_000); // what follows the last commit does not count
  await clock.advance(3 * upkeepPulse);
  expect(warnings).toEqual([expect.stringContaining('write-ahead log has grown to 300000000 bytes')]);
  await bus.close();
});
