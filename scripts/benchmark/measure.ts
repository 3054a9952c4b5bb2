/** A figure that can be looked at again: what each round measured, and the middle of it. */
export interface Figure {
  readonly name: string;
  /** The middle one of `rounds`. */
  readonly value: number;
  readonly unit: 'ratio' | 'statements/s';
  readonly rounds: readonly number[];
  /** What it is held to, such as `>= 0.5`. */
  readonly wanted: string;
  readonly met: boolean;
}

export interface Bound {
  readonly atLeast?: number;
  readonly atMost?: number;
}

export function figure(
  name: string,
  rounds: readonly number[],
  { atLeast, atMost }: Bound,
  unit: Figure['unit'] = 'ratio',
): Figure {
  const value = median(rounds);
  return {
    name,
    value,
    unit,
    rounds,
    wanted: [atLeast !== undefined && `>= ${atLeast}`, atMost !== undefined && `<= ${atMost}`]
      .filter(Boolean)
      .join(' '),
    met: value >= (atLeast ?? -Infinity) && value <= (atMost ?? Infinity),
  };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/**
 * How many times as fast as `plain` something is, for each round: each is measured between two turns of `plain`, so that
 * both have the same weather. Both tell how many they do a second.
 */
export async function byTurns(
  rounds: number,
  plain: () => Promise<number>,
  other: () => Promise<number>,
): Promise<number[]> {
  await plain();
  await other();
  const ratios: number[] = [];
  let before = await plain();
  for (let round = 0; round < rounds; round++) {
    const between = await other();
    const after = await plain();
    ratios.push(between / ((before + after) / 2));
    before = after;
  }
  return ratios;
}

/** So many a second. */
export async function rate(count: number, work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return (count / (performance.now() - started)) * 1_000;
}
