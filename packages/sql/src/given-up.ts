/**
 * What `take` resolves with, unless the signal aborts before: then it rejects with its reason, and what comes later is
 * given back at once, because nobody waits for it any more.
 */
export async function unlessGivenUp<T>(
  take: () => Promise<T>,
  giveBack: (taken: T) => void,
  signal?: AbortSignal,
): Promise<T> {
  if (signal === undefined) return take();
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const giveUp = (): void => reject(signal.reason);
    signal.addEventListener('abort', giveUp, { once: true });
    take()
      .then((taken) => {
        if (signal.aborted) giveBack(taken);
        else resolve(taken);
      }, reject)
      .finally(() => signal.removeEventListener('abort', giveUp));
  });
}
