/** Entries of one request, to SQS and SNS alike. */
export const maxEntries = 10;

/** Cuts a list into pieces that one request takes, by number and by bytes. */
export function* batches<T extends { readonly bytes: number }>(items: readonly T[], maxBytes: number): Generator<T[]> {
  let batch: T[] = [];
  let bytes = 0;
  for (const item of items) {
    if (batch.length === maxEntries || (batch.length > 0 && bytes + item.bytes > maxBytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(item);
    bytes += item.bytes;
  }
  if (batch.length > 0) yield batch;
}

/** Cuts a list into pieces of ten. */
export function* tens<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += maxEntries) yield items.slice(at, at + maxEntries);
}
