/**
 * How the time for which a broker leaves a delivery with one member is shared: five sixths for its handler, counted from
 * the first call on, and one for what it waits in the member before.
 */

/** Milliseconds for handlers, `lease.maxHandling`, of all that the broker leaves it there. */
export function handlingWithin(kept: number): number {
  return (kept * 5) / 6;
}

/** Milliseconds that it may wait before, where handlers have `maxHandling`. */
export function waitBefore(maxHandling: number): number {
  return maxHandling / 5;
}
