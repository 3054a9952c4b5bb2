import { type Clock, sleep } from '@waybill/core/adapter';

/** Waits for work to end, however it ends, but no longer than this. */
export async function shortly(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  const done = new AbortController();
  const finish = (): void => done.abort();
  work.then(finish, finish);
  await sleep(clock, ms, done.signal);
}

/** How long closing waits for a broker that does not answer. */
export const LAST_WORDS = 3_000;
