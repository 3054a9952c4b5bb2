import type { Claim, IdempotencyStore } from '@waybill/core';

/** The other process of the suite: runs what it is told on a store that the module of its argument opens. */
const [, , module = ''] = process.argv;
const { default: open } = (await import(module)) as { default: () => IdempotencyStore | Promise<IdempotencyStore> };
const store = await open();

const tell = (said: object): void => void process.send?.(said);
process.on('message', ({ claim, last }: { claim: Claim; last: number }) => {
  const working = (fence: { signal?: AbortSignal }): Promise<boolean> => {
    tell({ said: 'working' });
    fence.signal?.addEventListener('abort', () => tell({ said: 'lost' }));
    return new Promise((resolve) => setTimeout(() => resolve(true), last));
  };
  store.run(claim, working).then(
    (outcome) => tell({ said: outcome }),
    (error: unknown) => tell({ said: 'error', text: String(error) }),
  );
});
tell({ said: 'ready' });
