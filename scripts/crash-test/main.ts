/**
 * `npm run crash-test -- [--broker KIND]… [--database KIND] [--rounds N] [--each N] [--seed N] [--json]`: whether outbox
 * and inbox keep their word when processes are killed. A service writes rows and their events, a relay sends them, a
 * consumer adds them up; one of the three is killed in each round, and database and broker are restarted now and then.
 * In the end each committed row must have had its effect once, in the order of its account, and no other row any.
 * Exit code 1 when that is not so, with what was found. What the processes printed stands in `out/crash-test/`.
 *
 * Brokers: rabbitmq, kafka, redis, sqlite, sqs, pubsub. Databases: postgres, mariadb, sqlite. Default: PostgreSQL with
 * RabbitMQ, Kafka and Redis, and SQLite with SQLite; 200 rounds each. With `--each` there are so many of each process.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { oneOf, whole } from '../options.ts';
import { type CrashReport, crash } from './crash.ts';
import { type BrokerKind, brokerKinds, databaseKinds, type Pair } from './surroundings.ts';

const differencesShown = 40;

const { values } = parseArgs({
  options: {
    broker: { type: 'string', multiple: true },
    database: { type: 'string' },
    rounds: { type: 'string', default: '200' },
    each: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(randomInt(1, 1_000_000)) },
    json: { type: 'boolean', default: false },
  },
});

function pairs(): readonly Pair[] {
  const database = values.database === undefined ? undefined : oneOf('database', databaseKinds, values.database);
  const usual: readonly BrokerKind[] =
    database === 'sqlite'
      ? ['sqlite']
      : ['rabbitmq', 'kafka', 'redis', ...(database === undefined ? ['sqlite' as const] : [])];
  const brokers = values.broker?.map((given) => oneOf('broker', brokerKinds, given)) ?? usual;
  return brokers.map((broker) => ({ broker, database: database ?? (broker === 'sqlite' ? 'sqlite' : 'postgres') }));
}

function figures(report: CrashReport): string {
  const { kills, restarts, rounds, seconds } = report;
  return [
    `${rounds} rounds in ${seconds} s: killed service ${kills.service}, relay ${kills.relay}, consumer ${kills.consumer}`,
    `restarted database ${restarts.database}, broker ${restarts.broker}`,
    `${report.rowsCommitted} rows committed, ${report.rolledBack} transactions rolled back, ${report.interrupted} interrupted`,
    `${report.eventsHandled} events handled, ${report.failedAttempts} attempts rolled back, ${report.duplicates} duplicates caught by the inbox`,
  ].join('; ');
}

const calledOff = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => calledOff.abort(new Error(`called off by ${signal}`)));
}
const say = (line: string): void => (values.json ? console.error(line) : console.log(line));
const options = {
  rounds: whole('rounds', values.rounds),
  each: whole('each', values.each),
  seed: whole('seed', values.seed),
  say,
  signal: calledOff.signal,
};
const reports: CrashReport[] = [];
let failed = false;
for (const pair of pairs()) {
  if (calledOff.signal.aborted) break;
  const name = `${pair.database} with ${pair.broker}`;
  say(`▶ ${name}, seed ${options.seed}`);
  try {
    const report = await crash(pair, options);
    reports.push(report);
    const { differences } = report;
    failed ||= differences.length > 0;
    say(`${differences.length === 0 ? '✓' : '✗'} ${name}: ${figures(report)}`);
    for (const line of differences.slice(0, differencesShown)) say(`  ${line}`);
    if (differences.length > differencesShown) say(`  and ${differences.length - differencesShown} more`);
  } catch (error) {
    failed = true;
    say(`✗ ${name}, seed ${options.seed}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
if (values.json) console.log(JSON.stringify(reports));
process.exitCode = failed ? 1 : 0;
