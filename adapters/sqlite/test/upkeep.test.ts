import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { expect, test } from 'vitest';
import { ack, deadLetter, giveBack, keyed, lease, texts } from '../../../packages/core/test/memory-rig.ts';
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
