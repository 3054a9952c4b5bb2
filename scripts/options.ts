/** @throws Error with what there is */
export function oneOf<Known extends string>(option: string, known: readonly Known[], given: string): Known {
  const found = known.find((one) => one === given);
  if (found === undefined) throw new Error(`--${option} ${given} is none of ${known.join(', ')}`);
  return found;
}

/** @throws Error unless it is a whole number from 1 on */
export function whole(option: string, given: string): number {
  const number = Number(given);
  if (!Number.isInteger(number) || number < 1) throw new Error(`--${option} ${given} is not a whole number from 1 on`);
  return number;
}
