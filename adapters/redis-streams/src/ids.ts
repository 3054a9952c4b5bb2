/** Ids of entries: milliseconds, a dash, and a number that may be larger than JavaScript counts. */

const zero = '0';

export function isAfter(a: string, b: string): boolean {
  const [aTime = zero, aSequence = zero] = a.split('-');
  const [bTime = zero, bSequence = zero] = b.split('-');
  if (aTime !== bTime) return Number(aTime) > Number(bTime);
  return BigInt(aSequence) > BigInt(bSequence);
}

export function largest(a: string, b: string): string {
  return isAfter(a, b) ? a : b;
}
