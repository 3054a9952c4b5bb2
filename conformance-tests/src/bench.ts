import { type Capabilities, connect } from '@waybill/core';
import type { AdapterUnderTest, BrokerUnderTest } from './harness.ts';

/** A started broker with what the tests ask of it beforehand. */
export interface Bench {
  readonly adapter: AdapterUnderTest;
  readonly broker: BrokerUnderTest;
  readonly capabilities: Capabilities;
}

export async function openBench(adapter: AdapterUnderTest): Promise<Bench> {
  const broker = await adapter.start();
  try {
    const bus = await connect(broker.target?.() ?? broker.url, {
      logger: false,
      adapters: adapter.factory === undefined ? [] : [adapter.factory],
    });
    const { capabilities } = bus;
    await bus.close();
    return { adapter, broker, capabilities };
  } catch (error) {
    await broker.dispose();
    throw error;
  }
}
