import type { AnyTopic, Bus } from '@waybill/core';
import { WaybillError } from '@waybill/core';
import { show } from './eventually.ts';
import { EARLY, late, type Scenario } from './scenario.ts';

/** The whole numbers from `first` to `last`. */
export function range(first: number, last: number): number[] {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
}

/** Publishes all of these at once; resolves when all are stored. */
export async function publishAll(bus: Bus, topic: AnyTopic | string, data: readonly unknown[]): Promise<void> {
  const results = await bus.publishBatch(
    topic,
    data.map((one) => ({ data: one })),
  );
  for (const result of results) if (!result.ok) throw result.error;
}

/** What holds where a topic has one group only: that one works, and another one or a broadcast is refused. */
export async function oneGroup(s: Scenario): Promise<void> {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder();
  await bus.subscribe(topic, { group: 'a' }, record.handler);
  await bus.publish(topic, 1);
  await record.waitFor(1);
  await s.unsupported('groups', () => bus.subscribe(topic, { group: 'b' }, () => {}));
  await s.unsupported('groups', () => bus.subscribe(topic, { broadcast: true }, () => {}));
}

/**
 * Milliseconds to watch for what a member had acked when it left: where each delivery has a lease of its own, an ack that
 * was lost shows itself when that ends; elsewhere at once, for which the usual time is enough.
 */
export function lostAckWatch({ capabilities }: Scenario, lease: number): number | undefined {
  return capabilities.lease.kind === 'delivery' ? lease + 1_000 : undefined;
}

/** Milliseconds of a lease that a busy machine does not stand still for, where nothing may come twice. */
export function steadyLease({ lease }: Scenario): number {
  return Math.max(lease, 3_000);
}

/** Something came later than the contract allows on an idle machine. */
export class TooLate extends Error {
  /** In `performance.now()`. */
  readonly from: number;
  readonly came: number;
  /** Noted by whoever runs the test. */
  machineWasIdle = true;

  constructor(message: string, from: number, came: number) {
    super(message);
    this.from = from;
    this.came = came;
  }
}

/**
 * Asserts that something that was due `delay` milliseconds after `from` came in time.
 *
 * @throws TooLate for the tests that have `timing`
 */
export function expectInTime(what: unknown, from: number, delay: number, came = Number.NaN): void {
  const after = Math.round(came - from);
  const told = `${what}: due after ${delay} ms, came after ${after} ms`;
  if (!(after >= delay - EARLY)) throw new Error(told);
  if (after > delay + late(delay)) throw new TooLate(told, from, came);
}

/** A promise that is opened by hand. */
export interface Gate {
  readonly opened: Promise<void>;
  open(): void;
}

export function gate(): Gate {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

export function sorted(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b);
}

/** What stands more than once in a list. */
export function doubles<T>(list: readonly T[]): T[] {
  return [...new Set(list.filter((one, i) => list.indexOf(one) !== i))];
}

/** Resolves with the error of a call that must fail, also when it throws instead of rejecting. */
export async function failure(call: () => unknown): Promise<unknown> {
  let result: unknown;
  try {
    result = await call();
  } catch (error) {
    return error;
  }
  throw new Error(`an error was due; it went well instead, with ${show(result)}`);
}

/**
 * The error of a call that must fail with this code; `holds` are further fields.
 *
 * @throws Error with what came instead
 */
export async function failureWith(
  code: WaybillError['code'],
  call: () => unknown,
  holds: Readonly<Record<string, unknown>> = {},
): Promise<WaybillError & Readonly<Record<string, unknown>>> {
  const error = await failure(call);
  const seen = error as WaybillError & Readonly<Record<string, unknown>>;
  const fits = (expected: unknown, value: unknown): boolean =>
    expected instanceof RegExp ? expected.test(String(value)) : expected === value;
  const wrong = Object.keys(holds).filter((name) => !fits(holds[name], seen[name]));
  if (!WaybillError.is(error, code) || wrong.length > 0) {
    throw new Error(`an error ${code} ${show(holds)} was due; seen: ${show(error)}`);
  }
  return seen;
}
