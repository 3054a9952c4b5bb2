/** `npm run conformance`: runs the suite of this repository and reports per adapter and promise. */
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Reporter, TestCase, TestModule } from 'vitest/node';
import { startVitest } from 'vitest/node';
import { startForTest } from './brokers/start.ts';
import { selectIds } from './contract.ts';
import { type Opened, PLACES_SETTING, type Place } from './places.ts';
import { countLine, judge, type TestOutcome, type Verdict } from './report.ts';
import './suite-meta.ts';

const ADAPTERS = ['memory', 'sqlite', 'rabbitmq', 'kafka', 'redis-streams', 'sqs', 'pubsub'] as const;

const STORES = ['memory', 'sqlite', 'redis', 'postgres', 'mariadb'] as const;
type StoreName = (typeof STORES)[number];

/** Adapters under test at once: each of them, and its broker, is kept busy, and measures time. */
const SIDE_BY_SIDE = Math.max(2, availableParallelism());

const USAGE = `Usage: npm run conformance -- [options]

  --adapter NAME            one adapter (repeatable): ${ADAPTERS.join(', ')}; default all of them
  --id PREFIX               only promises that begin so (repeatable): RETRY, PUB-0, ACK-02
  --json FILE               writes an array of { adapter, id, status, reason }
  --broker-version B=V      another version of a broker (repeatable): rabbitmq=3.10, redis=7.0
  --store NAME              where idempotency is tested to remember (repeatable): memory, sqlite, redis, postgres,
                            mariadb; default memory, and inboxes on sqlite
  --serial                  one adapter after the other; by default as many at once as there are cores

Brokers run in containers of their own. WAYBILL_<BROKER>_URL names one that runs already, and WAYBILL_<BROKER>_CONTAINER
its container, for the tests that stop it; a BROKER is one of RABBITMQ, KAFKA, REDIS, SQS, ELASTICMQ and PUBSUB.
WAYBILL_SQS_EMULATOR=elasticmq has sqs tested on ElasticMQ, which has no SNS, instead of fauxqs; it is slow, so give it
fewer tests at once than the usual 8: WAYBILL_SIDE_BY_SIDE=1.`;

interface Options {
  readonly adapters: readonly string[];
  readonly prefixes: readonly string[];
  readonly json: string | undefined;
  readonly versions: Readonly<Record<string, string>>;
  readonly serial: boolean;
  readonly stores: readonly StoreName[];
}

class UsageError extends Error {}

function readOptions(args: readonly string[]): Options | 'help' {
  const many = { type: 'string', multiple: true } as const;
  const flag = { type: 'boolean', default: false } as const;
  const { values } = parse(() =>
    parseArgs({
      args: [...args],
      options: {
        adapter: many,
        id: many,
        json: { type: 'string' },
        'broker-version': many,
        store: many,
        serial: flag,
        help: flag,
      },
    }),
  );
  if (values.help) return 'help';
  const adapters = values.adapter ?? [...ADAPTERS];
  for (const adapter of adapters) {
    if (!ADAPTERS.some((known) => known === adapter)) throw new UsageError(`There is no adapter "${adapter}".`);
  }
  const prefixes = values.id ?? [];
  for (const prefix of prefixes) {
    if (selectIds([prefix]).length === 0) throw new UsageError(`No promise begins with "${prefix}".`);
  }
  const versions = (values['broker-version'] ?? []).map((text) => {
    const [broker = '', version = ''] = text.split('=');
    if (broker === '' || version === '') throw new UsageError(`"${text}" is not like rabbitmq=3.10.`);
    return [broker, version] as const;
  });
  return {
    adapters: [...new Set(adapters)],
    prefixes,
    json: values.json,
    versions: Object.fromEntries(versions),
    serial: values.serial,
    stores: [...new Set(values.store ?? ['memory'])].map(storeName),
  };
}

function storeName(text: string): StoreName {
  const name = STORES.find((known) => known === text);
  if (name === undefined) throw new UsageError(`There is no store "${text}"; there are ${STORES.join(', ')}.`);
  return name;
}

/** What the stores stand on, in containers of their own where they need one. */
async function startStores(names: readonly StoreName[]): Promise<Opened<readonly Place[]>> {
  const containers = new AsyncDisposableStack();
  try {
    const started = names.map(async (kind): Promise<Place> => {
      if (kind === 'memory' || kind === 'sqlite') return { kind };
      return { kind, url: containers.use(await startForTest(kind)).url };
    });
    // All of them, so that none comes to be after the others were disposed of.
    await Promise.allSettled(started);
    return { it: await Promise.all(started), [Symbol.asyncDispose]: () => containers.disposeAsync() };
  } catch (error) {
    await containers.disposeAsync();
    throw error;
  }
}

function parse<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** Notes how each test ended, and why a file could not be run. */
class Collector implements Reporter {
  readonly outcomes: TestOutcome[] = [];
  readonly problems = new Map<string, string>();

  onTestCaseResult(test: TestCase): void {
    const meta = test.meta().waybill;
    if (meta === undefined) return;
    const result = test.result();
    const about = { adapter: meta.adapter, id: meta.id, name: test.name };
    if (result.state === 'passed') {
      const reason = meta.unsupported;
      this.outcomes.push(
        reason === undefined ? { ...about, status: 'passed' } : { ...about, status: 'unsupported', reason },
      );
    } else if (result.state === 'failed') {
      this.outcomes.push({ ...about, status: 'failed', reason: firstLine(result.errors[0]?.message) });
    }
  }

  onTestModuleEnd(module: TestModule): void {
    const adapter = /([^/\\]+)\.test\.ts$/.exec(module.moduleId)?.[1];
    const errors = [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())];
    if (adapter !== undefined && errors.length > 0) this.problems.set(adapter, firstLine(errors[0]?.message));
  }
}

function firstLine(text = 'it failed'): string {
  return text.split('\n', 1)[0] ?? text;
}

async function run(options: Options): Promise<number> {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
  process.env['WAYBILL_IDS'] = options.prefixes.join(',');
  for (const [broker, version] of Object.entries(options.versions)) {
    process.env[`WAYBILL_${broker.toUpperCase()}_VERSION`] = version;
  }
  await using stores = await startStores(options.stores);
  process.env[PLACES_SETTING] = JSON.stringify(stores.it);
  const collector = new Collector();
  const vitest = await startVitest(
    options.adapters.map((adapter) => `test/${adapter}.test.ts`),
    {
      root,
      config: resolve(root, 'vitest.config.ts'),
      watch: false,
      reporters: ['default', collector],
      maxWorkers: options.serial ? 1 : SIDE_BY_SIDE,
    },
  );
  const unhandled = vitest.state.getUnhandledErrors();
  await vitest.close();

  const ids = selectIds(options.prefixes);
  const verdicts = options.adapters.flatMap((adapter) =>
    judge(adapter, ids, collector.outcomes, collector.problems.get(adapter)),
  );
  if (options.json !== undefined) await writeJson(resolve(options.json), verdicts);
  for (const { adapter, id, status, reason } of verdicts) {
    if (status === 'failed') console.log(`failed: ${adapter} ${id}: ${reason}`);
  }
  if (unhandled.length > 0) console.log(`failed: ${unhandled.length} errors that nobody handled, see above`);
  for (const adapter of options.adapters) console.log(countLine(adapter, verdicts));
  return unhandled.length > 0 || verdicts.some(({ status }) => status === 'failed') ? 1 : 0;
}

async function writeJson(file: string, verdicts: readonly Verdict[]): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(verdicts, null, 2)}\n`);
}

try {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') console.log(USAGE);
  // The test runner leaves an exit code of its own behind; this one is the suite's.
  else process.exit(await run(options));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(`${error.message}\n\n${USAGE}`);
  process.exitCode = 2;
}
