/**
 * Everything that Waybill does, once, on the broker of BROKER_URL: the same program on each. It prints a line for each
 * thing, and ends with exit code 1 when one of them went wrong.
 */
import { connect } from '@waybill/core';
import { consuming } from './consuming.ts';
import { operating } from './operating.ts';
import { publishing, stamp } from './publishing.ts';
import { settling } from './settling.ts';
import { topics } from './stop.ts';

const { BROKER_URL = 'memory:' } = process.env;
const bus = await connect(BROKER_URL, { name: 'tour', middleware: { publish: [stamp] }, logger: false });
let failed = 0;
for (const { what, show } of [...publishing, ...consuming, ...settling, ...operating]) {
  const begun = performance.now();
  try {
    await show(bus);
    console.log(`✓ ${what} (${(performance.now() - begun).toFixed(0)} ms)`);
  } catch (error) {
    failed++;
    console.log(`✗ ${what}`);
    console.error(error);
  }
}
await bus.idle();
await bus.close();

// What a broker keeps of this run is of no use to anybody.
const cleaner = await connect(BROKER_URL, { name: 'tour', logger: false });
for (const topic of topics) {
  for (const group of ['billing', 'shipping', 'audit', 'late']) await cleaner.removeGroup(topic, group);
}
await cleaner.close();
console.log(failed === 0 ? 'everything works' : `${failed} went wrong`);
process.exitCode = failed === 0 ? 0 : 1;
