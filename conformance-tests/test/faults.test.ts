import { describe, expect, test } from 'vitest';
import { type Bench, openBench } from '../src/bench.ts';
import type { ContractId } from '../src/contract.ts';
import { faults, withFault } from '../src/faults/index.ts';
import { memoryUnderTest } from '../src/harness/memory.ts';
import { runBehaviour, selectBehaviours } from '../src/run.ts';

/** Whether a test of this id fails; the first one that does is enough. */
async function catches(bench: Bench, id: ContractId): Promise<boolean> {
  for (const behaviour of selectBehaviours([id])) {
    const failed = await runBehaviour(bench, behaviour).then(
      () => false,
      () => true,
    );
    if (failed) return true;
  }
  return false;
}

// That the same tests pass without a fault is what memory.test.ts shows.
describe.concurrent('the suite catches a broker that', () => {
  for (const fault of faults) {
    test(`${fault.name}: ${fault.wrong}`, { timeout: 240_000 }, async () => {
      const bench = await openBench(withFault(memoryUnderTest(), fault));
      const missed: ContractId[] = [];
      for (const id of fault.caughtBy) if (!(await catches(bench, id))) missed.push(id);
      await bench.broker.dispose();
      expect(missed, 'ids whose tests all pass in spite of the fault').toEqual([]);
    });
  }
});
