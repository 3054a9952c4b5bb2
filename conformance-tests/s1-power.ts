import { connect } from '@waybill/core';
import { startRabbitmq } from '/work/main/conformance-tests/src/brokers/start.ts';
const b = await startRabbitmq();
const t0 = performance.now(); const log = (...a: unknown[]) => console.log((performance.now()-t0).toFixed(0), ...a);
const bus = await connect(b.url + '?heartbeat=1s', { logger: { debug(){}, info: log, warn: log, error: log } as never });
await bus.provision([{ topic: 't', groups: ['a','b'] }]);
for (let i=0;i<50;i++) await bus.publish('t', i);
await b.kill(); log('killed');
await b.restart(); log('restarted');
const after = await connect(b.url + '?heartbeat=1s'); log('connected');
for (const group of ['a','b']) { let n = 0; const sub = await after.subscribe('t', { group }, () => { n++; }); log('subscribed', group); 
 for (let i=0;i<30 && n<50;i++) { await new Promise(r=>setTimeout(r,500)); } log(group, n, sub.stats()); }
await after.close(); log('closed after'); await bus.close(); log('closed'); await b.stop();
