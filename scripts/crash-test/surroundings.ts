import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { type RunningBroker, startForTest } from '../../conformance-tests/dist/brokers/start.js';
import type { DatabaseKind, ShopAddress } from './shop.ts';

export const databaseKinds = ['postgres', 'mariadb', 'sqlite'] as const satisfies readonly DatabaseKind[];
export const brokerKinds = ['rabbitmq', 'kafka', 'redis', 'sqlite', 'sqs', 'pubsub'] as const;
export type BrokerKind = (typeof brokerKinds)[number];

export interface Pair {
  readonly database: DatabaseKind;
  readonly broker: BrokerKind;
}

/** Something that is restarted now and then. */
export interface Restartable {
  readonly what: 'database' | 'broker';
  /** Resolves when it answers again. */
  restart(how: 'in good order' | 'killed', pause: number): Promise<void>;
}

/** Database and broker of one run, and nobody else's. */
export interface Surroundings extends AsyncDisposable {
  readonly shop: ShopAddress;
  readonly broker: string;
  readonly restartable: readonly Restartable[];
}

/** Emulators keep what they have in memory. */
const forgetful: readonly BrokerKind[] = ['sqs', 'pubsub'];

export async function surroundingsOf({ database, broker }: Pair): Promise<Surroundings> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'waybill-crash-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const restartable: Restartable[] = [];
  const start = async (kind: Exclude<DatabaseKind | BrokerKind, 'sqlite'>, what: Restartable['what']) => {
    const container = stack.use(await startForTest(kind));
    if (!forgetful.some((one) => one === kind)) restartable.push({ what, restart: restarting(container) });
    return container.url;
  };
  const shop = {
    kind: database,
    url: database === 'sqlite' ? join(folder, 'shop.db') : await start(database, 'database'),
  };
  const url = broker === 'sqlite' ? `sqlite:${join(folder, 'broker.db')}` : await start(broker, 'broker');
  const held = stack.move();
  return { shop, broker: url, restartable, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

function restarting(container: RunningBroker): Restartable['restart'] {
  return async (how, pause) => {
    if (how === 'killed') {
      await container.kill();
      await wait(pause);
    }
    await container.restart();
  };
}
