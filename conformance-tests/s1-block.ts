import { connect } from '@waybill/core';
let uncaught = 0;
process.on('uncaughtException', (e) => { if (uncaught++ < 4) console.log('UNCAUGHT', e.message, e.stack?.split('\n').slice(1,6).join('\n')); });
const url = 'amqp://guest:guest@localhost:5672?heartbeat=1s';
const block = (ms: number) => { const t = performance.now(); while (performance.now() - t < ms); };
for (const delay of [0, 2, 4, 6, 8, 10, 12, 15, 20]) {
  const p = connect(url, { logger: false, connectTimeout: 20000 }).then((b) => b, (e) => { console.log('connect', e.message); return undefined; });
  await new Promise(r => setTimeout(r, delay)); block(3500);
  const bus = await p; 
  if (bus) { const c = bus.close({timeout: 1000}); await new Promise(r => setTimeout(r, delay / 2)); block(3500); await c; }
  console.log(delay, 'uncaught', uncaught);
}
await new Promise(r => setTimeout(r, 3000)); console.log('end', uncaught);
process.exit();
