import { type ContractId, promises } from './contract.ts';

/** How one promise of the contract stands with one adapter. */
export interface Verdict {
  readonly adapter: string;
  readonly id: ContractId;
  readonly status: 'passed' | 'failed' | 'unsupported' | 'pending';
  /** Why it is not passed. */
  readonly reason?: string;
}

/** How one test of a promise ended. */
export interface TestOutcome {
  readonly adapter: string;
  readonly id: string;
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'unsupported';
  readonly reason?: string;
}

/**
 * One verdict per promise: failed when one of its tests failed or none ran, unsupported when one of them found that the
 * broker cannot keep a part of it.
 *
 * @param why why there are no tests of this adapter, where that is known
 */
export function judge(
  adapter: string,
  ids: readonly ContractId[],
  outcomes: readonly TestOutcome[],
  why = 'no test of it ran',
): readonly Verdict[] {
  return promises
    .filter(({ id }) => ids.includes(id))
    .map(({ id, pending }): Verdict => {
      if (pending !== undefined) return { adapter, id, status: 'pending', reason: pending };
      const own = outcomes.filter((outcome) => outcome.adapter === adapter && outcome.id === id);
      if (own.length === 0) return { adapter, id, status: 'failed', reason: why };
      const failed = own.filter(({ status }) => status === 'failed');
      if (failed.length > 0) {
        return {
          adapter,
          id,
          status: 'failed',
          reason: failed.map(({ name, reason }) => `${name}: ${reason}`).join('; '),
        };
      }
      const unsupported = own.flatMap(({ status, reason }) => (status === 'unsupported' && reason ? [reason] : []));
      if (unsupported.length > 0) {
        return { adapter, id, status: 'unsupported', reason: [...new Set(unsupported)].join('; ') };
      }
      return { adapter, id, status: 'passed' };
    });
}

/** The counts of an adapter, in a line. */
export function countLine(adapter: string, verdicts: readonly Verdict[]): string {
  const own = verdicts.filter((verdict) => verdict.adapter === adapter);
  const count = (status: Verdict['status']): string => `${own.filter((one) => one.status === status).length} ${status}`;
  return `${adapter}: ${count('passed')}, ${count('failed')}, ${count('unsupported')}, ${count('pending')}`;
}
