/** The main program of each of the three processes. */
import { connect } from '@waybill/core';
import type { MemberOrder } from './member.ts';
import { type Count, programs } from './programs.ts';
import { Random } from './random.ts';
import { openShop } from './shop.ts';

const order = JSON.parse(process.argv[2] ?? '') as MemberOrder;
const orphaned = (): void => process.exit(3);
process.once('disconnect', orphaned);
const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());

const shop = openShop(order.shop);
await programs[order.role]({
  shop,
  database: order.shop.kind,
  random: new Random(order.seed),
  connect: () => connect(order.broker, { connectTimeout: '2m' }),
  tell: (count: Count, by = 1) => void process.send?.({ count, by }),
  ready: () => void process.send?.({ ready: true }),
  stopping: stopping.signal,
});
await shop[Symbol.asyncDispose]();
// From here on the process must end by itself: an open handle of the library would keep it (LIFE-01).
process.off('disconnect', orphaned);
process.disconnect();
