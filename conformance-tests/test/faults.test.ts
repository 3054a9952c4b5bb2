import { describe, expect, test } from 'vitest';
import { openBench } from '../src/bench.ts';
import type { ContractId } from '../src/contract.ts';
import { faults, withFault } from '../src/faults/index.ts';
import { memoryUnderTest } from '../src/harness/memory.ts';
import { runBehaviour, selectBehaviours } from '../src/run.ts';

/** What the first failing test of an id said; `undefined` when all of its tests pass. */
type Verdicts = Partial<Record<ContractId, string | undefined>>;

describe.concurrent('the suite catches a broker that', () => {
  for (const fault of faults) {
    test(`${fault.name}: ${fault.wrong}`, { timeout: 240_000 }, async () => {
      const bench = await openBench(withFault(memoryUnderTest(), fault));
      const verdicts: Verdicts = {};
      for (const id of fault.caughtBy) {
        verdicts[id] = undefined;
        for (const behaviour of selectBehaviours([id])) {
          verdicts[id] = await runBehaviour(bench, behaviour).then(
            () => undefined,
            (error: unknown) => `${behaviour.facet}: ${error}`.split('\n\nThe buses')[0],
          );
          if (verdicts[id] !== undefined) break;
        }
      }
      await bench.broker.dispose();
      const missed = fault.caughtBy.filter((id) => verdicts[id] === undefined);
      expect(missed, 'ids whose tests all pass in spite of the fault').toEqual([]);
      if (process.env['S2_DEBUG']) console.log(fault.name, verdicts);
    });
  }
});
