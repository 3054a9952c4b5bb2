import {
  type Adapter,
  type Bus,
  type Connection,
  ConnectionError,
  connect,
  memory,
  type OutgoingMessage,
  PublishError,
  type SendResult,
} from '@waybill/core';
import type { RelayOptions } from '../src/types.ts';

/** Short times, so that a test need not wait long. */
export const quick: RelayOptions = {
  pollInterval: 100,
  lease: '2s',
  logger: false,
  retryDelay: { initial: 20, max: 50 },
};

/** What a broker has stored, in its order. */
export interface Stored {
  readonly topic: string;
  readonly id: string;
  readonly key: string | undefined;
  readonly n: number;
  readonly message: OutgoingMessage;
}

export interface TestBus {
  readonly bus: Bus;
  readonly stored: Stored[];
  /** What the broker answers to a message instead of storing it. */
  fault: (message: OutgoingMessage) => SendResult | undefined;
  /** Answers come after this. */
  gate: Promise<void>;
}

/** The embedded broker, behind an adapter that notes what it stores and refuses what the test wants refused. */
export async function testBus(options: { publishTimeout?: number; stored?: Stored[] } = {}): Promise<TestBus> {
  const inner = memory();
  const stored = options.stored ?? [];
  const test: { fault: TestBus['fault']; gate: Promise<void> } = { fault: () => undefined, gate: Promise.resolve() };
  const publish = async (connection: Connection, batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> => {
    await test.gate;
    const faults = batch.map((message) => test.fault(message));
    const passed = batch.filter((_, at) => faults[at] === undefined);
    const results = [...(await connection.publish(passed))];
    for (const message of passed) {
      const { topic, id, key, body } = message;
      stored.push({ topic: topic.name, id, key, n: numberIn(body), message });
    }
    return faults.map((fault) => fault ?? (results.shift() as SendResult));
  };
  const adapter: Adapter = {
    name: inner.name,
    target: inner.target,
    async connect(context) {
      const connection = await inner.connect(context);
      return new Proxy(connection, {
        get(target, property) {
          if (property === 'publish') return (batch: readonly OutgoingMessage[]) => publish(target, batch);
          const value = Reflect.get(target, property, target) as unknown;
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
  const { publishTimeout } = options;
  const bus = await connect(adapter, { logger: false, ...(publishTimeout !== undefined && { publishTimeout }) });
  return Object.assign(test, { bus, stored });
}

function numberIn(body: Uint8Array): number {
  try {
    return Number((JSON.parse(Buffer.from(body).toString()) as { n?: unknown }).n);
  } catch {
    return Number.NaN;
  }
}

export const refused = (why = 'the broker says no'): SendResult => ({
  status: 'failed',
  outcome: 'not-sent',
  retryable: false,
  error: new PublishError(why, { outcome: 'not-sent' }),
});

export const away = (): SendResult => ({
  status: 'failed',
  outcome: 'not-sent',
  retryable: true,
  error: new ConnectionError('nobody answers'),
});
