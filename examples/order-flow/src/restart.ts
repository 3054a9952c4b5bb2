/**
 * The second half of the story: a worker is killed in the middle of its work and started again, and nothing is lost.
 * The broker is a file, which is all that the two processes share.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from '@waybill/core';
import { Orders, type Progress, packing } from './packing.ts';
import { note, noted, until } from './timeline.ts';

const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
const url = `sqlite:${join(folder, 'shop.db')}`;
const orders = Array.from({ length: 10 }, (_, n) => ({ orderId: `o-${n + 1}` }));

function startWorker(): ChildProcess {
  const worker = fork(join(import.meta.dirname, 'packing.js'), [url]);
  worker.on('message', ({ orderId, packed }: Progress) => note('packing', packed ? 'packed' : 'begins', orderId));
  return worker;
}

const packed = (): number => new Set(noted('packing', 'packed').map(({ orderId }) => orderId)).size;

console.log(`\nA worker is killed in the middle; the broker is the file ${url.slice('sqlite:'.length)}\n`);
const bus = await connect(url);
// The group is there before its first member, so that it gets what is published meanwhile.
await bus.provision([packing]);
for (const order of orders) await bus.publish(Orders, order);
await bus.close();
note('orders', 'published', `${orders.length} orders`);

const first = startWorker();
await until('some orders are packed', () => packed() >= 4);
first.kill('SIGKILL');
const begun = noted('packing', 'begins').length;
note('packing', 'was killed', `with ${begun - packed()} orders in hand, ${orders.length - begun} to come`);

const second = startWorker();
await until('every order is packed', () => packed() === orders.length);
second.kill('SIGTERM');
await new Promise((resolve) => second.once('exit', resolve));
await rm(folder, { recursive: true });

const again = orders.filter(({ orderId }) => noted('packing', 'begins', orderId).length > 1);
console.log(`\n✓ every order was packed; begun again: ${again.map(({ orderId }) => orderId).join(', ') || 'none'}`);
