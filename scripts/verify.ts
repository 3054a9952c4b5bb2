/**
 * `npm run verify`: everything that has to hold, from nothing to green, on a machine with only Node. Each step prints
 * a line when it starts and when it ends; what a step printed stands in `out/verify/`, and on the screen if it failed.
 * What failed is told once more at the end, shortly, for a log of which only the end is kept.
 */
import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { startForTest } from '../conformance-tests/dist/brokers/start.js';

interface Step {
  readonly name: string;
  readonly run: (log: (text: string) => void) => Promise<void>;
}

/** A step that knows by itself what is to be told again at the end. */
class Failure extends Error {
  readonly told: string;

  constructor(message: string, told: string) {
    super(message);
    this.told = told;
  }
}

/** One promise of the contract on one adapter, as the conformance command writes it. */
interface Verdict {
  readonly adapter: string;
  readonly id: string;
  readonly status: 'passed' | 'failed' | 'unsupported' | 'pending';
  readonly reason?: string;
}

/** A broker for an example, gone when it is disposed of. */
interface Target extends AsyncDisposable {
  readonly url: string;
}

/** Every adapter, and where its example runs. */
const adapters: Readonly<Record<string, () => Promise<Target>>> = {
  memory: async () => ({ url: 'memory:', [Symbol.asyncDispose]: async () => {} }),
  sqlite: async () => {
    const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
    const remove = () => rm(folder, { recursive: true, force: true });
    return { url: `sqlite:${join(folder, 'shop.db')}`, [Symbol.asyncDispose]: remove };
  },
  rabbitmq: () => startForTest('rabbitmq'),
  kafka: () => startForTest('kafka'),
  'redis-streams': () => startForTest('redis'),
  sqs: () => startForTest('sqs'),
  pubsub: () => startForTest('pubsub'),
};
const results = 'out/conformance.json';
/** A step that hangs fails. */
const STEP_WITHIN_MS = 40 * 60_000;
/** Where idempotency is tested to remember, on every adapter. */
const stores = ['memory', 'sqlite', 'redis', 'postgres', 'mariadb'];

/** Other versions and forms of brokers, each under the whole suite. */
interface Variant {
  readonly name: string;
  readonly adapter: string;
  /** As `npm run brokers -- up --only` takes it. */
  readonly image: string;
  readonly env: NodeJS.ProcessEnv;
}

/** The slowest first, so that the others run beside it. */
const variants: readonly Variant[] = [
  {
    name: 'ElasticMQ',
    adapter: 'sqs',
    image: 'elasticmq',
    // It does a few hundred messages a second.
    env: { WAYBILL_SQS_EMULATOR: 'elasticmq', WAYBILL_SIDE_BY_SIDE: '2' },
  },
  { name: 'RabbitMQ 3.10', adapter: 'rabbitmq', image: 'rabbitmq@3.10', env: { WAYBILL_RABBITMQ_VERSION: '3.10' } },
  { name: 'Kafka 4.1', adapter: 'kafka', image: 'kafka@4.1', env: { WAYBILL_KAFKA_VERSION: '4.1' } },
  { name: 'Redis 7.0', adapter: 'redis-streams', image: 'redis@7.0', env: { WAYBILL_REDIS_VERSION: '7.0' } },
  { name: 'Redis Cluster', adapter: 'redis-streams', image: 'redis', env: { WAYBILL_REDIS_CLUSTER: '1' } },
];
/** A broker that somebody has named by its URL is not the variant. */
const ofItsOwn: NodeJS.ProcessEnv = Object.fromEntries(
  ['RABBITMQ', 'KAFKA', 'REDIS', 'SQS', 'ELASTICMQ'].map((broker) => [`WAYBILL_${broker}_URL`, '']),
);
const resultsOf = ({ name }: Variant): string => `out/conformance-${name.replaceAll(' ', '-')}.json`;

const command =
  (program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Step['run'] =>
  (log) =>
    new Promise((resolve, reject) => {
      const child = spawn(program, args, {
        env: { ...process.env, ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: STEP_WITHIN_MS,
        killSignal: 'SIGKILL',
      });
      child.stdout.on('data', (chunk: Buffer) => log(chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => log(chunk.toString()));
      child.on('error', reject);
      const ended = (code: number | null, signal: NodeJS.Signals | null): void => {
        if (code === 0) resolve();
        else reject(new Error(`${program} ${args.join(' ')} ended with ${signal ?? `exit code ${code}`}`));
      };
      child.on('close', ended);
      // A child of its own that outlives it keeps the pipes open: what is printed a moment later is nobody's.
      child.on('exit', (code, signal) => setTimeout(() => ended(code, signal), 2_000).unref());
    });

/** The suite on a variant; a line of counts when it ends. */
const onVariant = (variant: Variant): Step['run'] =>
  command(
    process.execPath,
    ['conformance-tests/dist/cli.js', '--adapter', variant.adapter, '--json', resultsOf(variant)],
    { ...ofItsOwn, ...variant.env },
  );

/** Runs all of them to their ends, so many at a time. What each prints stands together, under its name. */
const sideBySide =
  (steps: readonly Step[], atOnce = Math.max(2, availableParallelism())): Step['run'] =>
  async (log) => {
    const left = [...steps];
    const failures: string[] = [];
    const work = async (): Promise<void> => {
      for (let step = left.shift(); step !== undefined; step = left.shift()) {
        const { name, run } = step;
        const printed: string[] = [];
        await run((text) => printed.push(text)).catch((error: unknown) => {
          failures.push(`${name}: ${textOf(error)}\n${failuresIn(printed.join(''))}`);
        });
        log(`${name}\n${printed.join('')}\n`);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, work));
    if (failures.length > 0) throw new Failure(`${failures.length} of ${steps.length} failed`, failures.join('\n'));
  };

const node = (...args: string[]): Step['run'] => command(process.execPath, args);

/** An example, as it stands, on a broker of its own. */
const example =
  (name: string, start: () => Promise<Target>): Step['run'] =>
  async (log) => {
    await using target = await start();
    await command(process.execPath, [`examples/${name}/dist/main.js`], { BROKER_URL: target.url })(log);
  };

/** The HTTP service and its consumer, on a database and a broker. */
const fastifyOrders: Step['run'] = async (log) => {
  await using database = await startForTest('postgres');
  await using broker = await startForTest('redis');
  const env = { DATABASE_URL: database.url, BROKER_URL: broker.url };
  await command(process.execPath, ['examples/fastify-orders/dist/main.js'], env)(log);
};

const steps: readonly Step[] = [
  { name: 'types of tests and scripts', run: command('tsc', ['-p', 'tsconfig.tests.json']) },
  { name: 'lint', run: command('biome', ['check', '--error-on-warnings', '.']) },
  { name: 'packages', run: node('scripts/check-packages.ts') },
  { name: 'samples of the documents', run: node('scripts/doc-samples.ts') },
  { name: 'options in the documents', run: node('scripts/doc-options.ts') },
  // Before the unit tests, of which those of stores and outbox ask real databases.
  { name: 'brokers and databases', run: node('conformance-tests/dist/brokers/cli.js', 'up', '--images-only') },
  { name: 'unit tests', run: command('vitest', ['run']) },
  {
    name: 'images of other versions of brokers',
    run: node(
      'conformance-tests/dist/brokers/cli.js',
      'up',
      '--images-only',
      '--only',
      variants.map(({ image }) => image).join(),
    ),
  },
  {
    name: 'conformance',
    run: node('conformance-tests/dist/cli.js', '--json', results, ...stores.flatMap((store) => ['--store', store])),
  },
  { name: 'parity table', run: node('conformance-tests/dist/parity.js', '--check', results) },
  {
    // The planted faults wait more than they work.
    name: 'conformance on other versions of brokers, and planted faults',
    run: sideBySide([
      ...variants.map((variant) => ({ name: variant.name, run: onVariant(variant) })),
      {
        name: 'planted faults',
        run: command('vitest', ['run', '--config', 'conformance-tests/vitest.config.ts', 'faults', 'array']),
      },
    ]),
  },
  { name: 'fastify-orders', run: fastifyOrders },
  {
    name: 'outbox and inbox with processes killed',
    run: node('scripts/crash-test/main.ts', '--rounds', '12', '--broker', 'redis', '--broker', 'sqlite'),
  },
  { name: 'a worker that is killed, on sqlite', run: node('examples/order-flow/dist/restart.js') },
  ...['order-flow', 'tour'].flatMap((name) =>
    Object.entries(adapters).map(([adapter, start]) => ({ name: `${name} on ${adapter}`, run: example(name, start) })),
  ),
];

const seconds = (since: number): string => `${((performance.now() - since) / 1_000).toFixed(1)} s`;

/** Lines that are told again at the end: of each failed test, or of what names none. */
const TOLD = { ofTest: 20, ofOthers: 60 };

/** The beginnings of what a test runner reports of each failed test, or else the end of what was printed. */
function failuresIn(printed: string): string {
  const lines = stripVTControlCharacters(printed).trimEnd().split('\n');
  const starts = lines.flatMap((line, at) => (/^ *FAIL /.test(line) || /⎯ Unhandled /.test(line) ? [at] : []));
  if (starts.length === 0) return lines.slice(-TOLD.ofOthers).join('\n');
  const reports = starts.map((start, at) =>
    lines.slice(start, Math.min(start + TOLD.ofTest, starts[at + 1] ?? Infinity)),
  );
  return reports.map((report) => report.filter((line) => line.trim() !== '').join('\n')).join('\n');
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Why it failed; undefined when it passed. */
async function runStep(step: Step): Promise<string | undefined> {
  console.log(`▶ ${step.name}`);
  const started = performance.now();
  const printed: string[] = [];
  const file = createWriteStream(`out/verify/${step.name.replaceAll(' ', '-')}.log`);
  try {
    await step.run((text) => {
      printed.push(text);
      file.write(text);
    });
    console.log(`✓ ${step.name} (${seconds(started)})`);
    return undefined;
  } catch (error) {
    const told = error instanceof Failure ? error.told : failuresIn(printed.join(''));
    const outcome = `✗ ${step.name} (${seconds(started)}): ${textOf(error)}`;
    console.log(printed.join(''));
    console.log(outcome);
    return `${outcome}\n${told}`;
  } finally {
    file.end();
  }
}

/** A line per adapter and variant; one that did not run, or left ids out, counts as a failure. */
async function summary(): Promise<{ passed: number; failed: number }> {
  const total = { passed: 0, failed: 0 };
  const add = async (name: string, adapter: string, file: string): Promise<void> => {
    const own = (await verdictsIn(file)).filter((verdict) => verdict.adapter === adapter);
    const count = (status: Verdict['status']): number => own.filter((verdict) => verdict.status === status).length;
    const skipped = own.length === 0;
    for (const { id, reason } of own.filter(({ status }) => status === 'failed')) {
      console.log(`failed: ${name} ${id}: ${reason}`);
    }
    console.log(
      skipped
        ? `${name}: did not run`
        : `${name}: ${count('passed')} passed, ${count('failed')} failed, ${count('unsupported')} unsupported, ${count('pending')} pending`,
    );
    total.passed += count('passed') + count('unsupported');
    total.failed += count('failed') + (skipped ? 1 : 0);
  };
  for (const variant of variants)
    await add(`${variant.adapter} on ${variant.name}`, variant.adapter, resultsOf(variant));
  for (const adapter of Object.keys(adapters)) await add(adapter, adapter, results);
  return total;
}

function verdictsIn(file: string): Promise<Verdict[]> {
  return readFile(file, 'utf8').then(
    (text) => JSON.parse(text) as Verdict[],
    () => [],
  );
}

await mkdir('out/verify', { recursive: true });
// What an earlier run left must not stand for one that did not happen.
for (const file of [results, ...variants.map(resultsOf)]) await rm(file, { force: true });
const begun = performance.now();
const failures: string[] = [];
for (const step of steps) {
  const failure = await runStep(step);
  if (failure !== undefined) failures.push(failure);
}
for (const failure of failures) console.log(`\n${failure}`);
if (failures.length > 0) console.log();
const contract = await summary();
const passed = steps.length - failures.length;
console.log(`steps: ${passed} passed, ${failures.length} failed, in ${seconds(begun)}`);
const failed = failures.length + contract.failed;
console.log(`${passed + contract.passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
