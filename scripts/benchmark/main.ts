/**
 * `npm run benchmark -- [--broker KIND]… [--only NAME]… [--rounds N] [--rows N] [--json]`: what outbox and inbox cost, as
 * ratios to doing without them, measured by turns in one run on PostgreSQL. Database and brokers run in containers of
 * their own. Wants a machine with nothing else to do. Exit code 1 when a figure is not what it is held to.
 *
 * Brokers, for relay and inbox: rabbitmq, kafka, redis, sqs, pubsub; default RabbitMQ, Kafka and Redis. Names: relay, publish,
 * inbox, idle, table; default all of them.
 */
import { parseArgs } from 'node:util';
import pg from 'pg';
import { startForTest } from '../../conformance-tests/dist/brokers/start.js';
import { connect } from '../../packages/core/dist/index.js';
import { oneOf, whole } from '../options.ts';
import { inboxToTransaction } from './inbox.ts';
import type { Figure } from './measure.ts';
import { fullToEmpty, idleStatements, publishToInsert, relayToDirect } from './outbox.ts';

const names = ['relay', 'publish', 'inbox', 'idle', 'table'] as const;
const brokers = ['rabbitmq', 'kafka', 'redis', 'sqs', 'pubsub'] as const;

const { values } = parseArgs({
  options: {
    broker: { type: 'string', multiple: true, default: ['rabbitmq', 'kafka', 'redis'] },
    only: { type: 'string', multiple: true, default: [...names] },
    rounds: { type: 'string', default: '5' },
    rows: { type: 'string', default: '20000' },
    json: { type: 'boolean', default: false },
  },
});

const wanted = new Set(values.only.map((name) => oneOf('only', names, name)));
const chosen = values.broker.map((broker) => oneOf('broker', brokers, broker));
const rows = whole('rows', values.rows);
const figures: Figure[] = [];

function tell(figure: Figure): void {
  figures.push(figure);
  if (values.json) return;
  const { name, value, unit, rounds, met } = figure;
  const each = rounds.map((round) => round.toFixed(2)).join(' ');
  console.log(`${met ? '✓' : '✗'} ${name}: ${value.toFixed(2)} ${unit}, wanted ${figure.wanted} (${each})`);
}

await using database = await startForTest('postgres');
// One connection for each handler of the inbox, and one beside them.
const pool = new pg.Pool({ connectionString: database.url, max: 17 });
const place = { pool, rounds: whole('rounds', values.rounds) };
try {
  if (wanted.has('idle') || wanted.has('table')) {
    await using bus = await connect('memory:');
    // First: what the server does of itself after the others' writes would count.
    if (wanted.has('idle')) tell(await idleStatements(place, bus));
    // Shorter turns measure what the disk is at beside them.
    if (wanted.has('table')) tell(await fullToEmpty(place, bus, 3 * rows));
  }
  if (wanted.has('publish')) tell(await publishToInsert(place));
  for (const kind of wanted.has('relay') || wanted.has('inbox') ? chosen : []) {
    await using broker = await startForTest(kind);
    await using bus = await connect(broker.url);
    if (wanted.has('relay')) tell(await relayToDirect(place, bus, kind, rows));
    if (wanted.has('inbox')) tell(await inboxToTransaction(place, bus, kind, 3_000));
  }
} finally {
  await pool.end();
}
if (values.json) console.log(JSON.stringify(figures, null, 2));
process.exitCode = figures.every(({ met }) => met) ? 0 : 1;
