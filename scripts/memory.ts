/**
 * `npm run memory -- [URL] [--messages N] [--json]`: whether a consumer's memory stays flat over a million messages. A
 * process of its own publishes; this one handles, acks, and looks at its heap after a full collection ten times.
 * Exit code 1 when the heap has grown.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connect } from '../packages/core/dist/index.js';

/** More than the noise of one collection to the next, and far less than a leak of a few bytes a message. */
const GROWTH_ALLOWED = 8 * 1024 * 1024;
const BATCH = 1_000;
const MEGABYTE = 1024 * 1024;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    messages: { type: 'string', default: '1000000' },
    json: { type: 'boolean', default: false },
    publish: { type: 'string' },
  },
});
const url = positionals[0] ?? process.env['BROKER_URL'] ?? 'redis://localhost:6379';
const total = Number(values.messages);

interface Sample {
  readonly handled: number;
  readonly heapMiB: number;
  readonly rssMiB: number;
}

/** Keeps 20 batches ahead of the consumer at most, so that the broker need not hold them all. */
async function publish(topic: string): Promise<void> {
  const bus = await connect(url);
  const data = 'x'.repeat(256);
  let handled = 0;
  let heard = Promise.withResolvers<void>();
  process.on('message', (count: number) => {
    handled = count;
    heard.resolve();
    heard = Promise.withResolvers();
  });
  for (let sent = 0; sent < total; sent += BATCH) {
    while (sent - handled > 20 * BATCH) await heard.promise;
    const count = Math.min(BATCH, total - sent);
    for (const result of await bus.publishBatch(
      topic,
      Array.from({ length: count }, () => ({ data })),
    )) {
      if (!result.ok) throw result.error;
    }
  }
  await bus.close();
  process.disconnect();
}

function sample(handled: number): Sample {
  globalThis.gc?.();
  const { heapUsed, rss } = process.memoryUsage();
  const taken = { handled, heapMiB: heapUsed / MEGABYTE, rssMiB: rss / MEGABYTE };
  if (!values.json) {
    console.log(`${handled} handled: heap ${taken.heapMiB.toFixed(1)} MiB, rss ${taken.rssMiB.toFixed(0)} MiB`);
  }
  return taken;
}

async function consume(): Promise<boolean> {
  if (globalThis.gc === undefined) throw new Error('run it as `npm run memory`, which lets it collect garbage');
  const bus = await connect(url);
  const topic = `memory-${Date.now()}`;
  const samples: Sample[] = [];
  const every = Math.ceil(total / 10);
  let handled = 0;
  const done = Promise.withResolvers<void>();
  const subscription = await bus.subscribe(topic, { group: 'memory', concurrency: 256 }, () => {
    handled++;
    if (handled % BATCH === 0) publisher.send(handled, () => {});
    if (handled % every === 0) samples.push(sample(handled));
    if (handled === total) done.resolve();
  });
  const args = [url, '--publish', topic, '--messages', String(total)];
  const publisher = fork(fileURLToPath(import.meta.url), args, { execArgv: [] });
  const failed = once(publisher, 'exit').then(([code]) => {
    if (code !== 0) throw new Error(`the publisher ended with exit code ${code}`);
    return done.promise;
  });
  await Promise.race([done.promise, failed]);
  await subscription.close();
  await bus.removeGroup(topic, 'memory');
  await bus.close();
  // The first samples are of a program that is still being compiled.
  const [early, late] = [samples.slice(1, 4), samples.slice(-3)].map((some) =>
    Math.max(...some.map(({ heapMiB }) => heapMiB)),
  );
  const growthMiB = (late ?? 0) - (early ?? 0);
  const flat = growthMiB * MEGABYTE <= GROWTH_ALLOWED;
  if (values.json) console.log(JSON.stringify({ url, flat, growthMiB, samples }));
  else console.log(`${flat ? 'flat' : 'grown'}: ${growthMiB.toFixed(1)} MiB from the first third to the last`);
  return flat;
}

if (values.publish !== undefined) await publish(values.publish);
else process.exitCode = (await consume()) ? 0 : 1;
