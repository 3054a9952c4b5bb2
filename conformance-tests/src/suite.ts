import { afterAll, beforeAll, describe, test } from 'vitest';
import { type Bench, openBench } from './bench.ts';
import { type ContractId, promises } from './contract.ts';
import type { AdapterUnderTest } from './harness.ts';
import { runBehaviour, selectBehaviours, timeoutOf } from './run.ts';
import type { Behaviour } from './scenario.ts';
import './suite-meta.ts';

export interface SuiteOptions {
  /** Default: all. */
  readonly ids?: readonly ContractId[];
}

const START_WITHIN = 180_000;

/**
 * Registers the contract's tests for an adapter with vitest: tests that do not disturb each other run side by side,
 * then those that measure time, then those that kill members, at the end those that stop the broker.
 */
export function defineConformanceSuite(adapter: AdapterUnderTest, options: SuiteOptions = {}): void {
  let bench: Bench | undefined;

  const register = (behaviour: Behaviour): void => {
    const { id, facet } = behaviour;
    test(`${id} ${facet}`, { timeout: timeoutOf(behaviour, adapter.lease) }, async ({ task }) => {
      task.meta.waybill = { adapter: adapter.name, id };
      if (bench === undefined) throw new Error(`${adapter.name} did not start`);
      const reason = await runBehaviour(bench, behaviour);
      if (reason !== undefined) task.meta.waybill.unsupported = reason;
    });
  };
  const startBroker = (): void => {
    beforeAll(async () => {
      bench = await openBench(adapter);
    }, START_WITHIN);
    afterAll(async () => {
      await bench?.broker.dispose();
      bench = undefined;
    }, START_WITHIN);
  };

  describe(adapter.name, () => {
    const { together, alone, deadly, last } = groups(selectBehaviours(options.ids));
    describe.skipIf(together.length + alone.length + deadly.length === 0)('with the broker running', () => {
      startBroker();
      if (together.length > 0) describe.concurrent('side by side', () => together.forEach(register));
      if (alone.length > 0) describe('measured alone', () => alone.forEach(register));
      if (deadly.length > 0) describe.concurrent('with members killed', () => deadly.forEach(register));
    });
    // Another one, because what the tests before have left behind makes a broker slow to start.
    describe.skipIf(last.length === 0)('with the broker stopped', () => {
      startBroker();
      last.forEach(register);
    });
    for (const { id, title, pending } of promises) {
      if (pending !== undefined && (options.ids ?? [id]).includes(id)) test.todo(`${id} ${title}: ${pending}`);
    }
  });
}

function groups(
  selected: readonly Behaviour[],
): Record<'together' | 'alone' | 'deadly' | 'last', readonly Behaviour[]> {
  const found = Object.groupBy(selected, ({ options: { disruptive, timing, deadly } }) => {
    if (disruptive) return 'last';
    return timing ? 'alone' : deadly ? 'deadly' : 'together';
  });
  const { together = [], alone = [], deadly = [], last = [] } = found;
  return { together, alone, deadly, last };
}
