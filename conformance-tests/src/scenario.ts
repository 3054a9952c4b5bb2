import type { Bus, BusOptions, Capabilities } from '@waybill/core';
import type { ContractId } from './contract.ts';
import type { EventuallyOptions } from './eventually.ts';
import type { AdapterUnderTest, BrokerUnderTest, ForeignClient, NetworkLink, Target } from './harness.ts';
import type { Member } from './member.ts';
import type { ProgramArgs, Programs } from './members/programs.ts';
import type { Recorder, Work } from './recorder.ts';

export { PATIENCE, settles } from './eventually.ts';
export { Recorder, type Seen, type Work } from './recorder.ts';

/** The numbers at the head of the contract, in milliseconds. */
export const AT_ONCE = 2_000;
export const RECOVERY = 15_000;
export const TAKE_OVER_MARGIN = 5_000;
/** How much a delay may be early. */
export const EARLY = 50;
/** How much a delay of `delay` milliseconds may be late. */
export const late = (delay: number): number => 500 + 0.02 * delay;

/** One facet of one promise. */
export interface Behaviour {
  readonly id: ContractId;
  readonly facet: string;
  readonly run: (s: Scenario) => Promise<void>;
  readonly options: BehaviourOptions;
}

export interface BehaviourOptions {
  /** Stops or restarts the whole broker: runs alone, at the end. */
  readonly disruptive?: boolean;
  /** Measures time: runs alone, and what comes too late while the machine is not idle is measured again. */
  readonly timing?: boolean;
  /**
   * Kills members, or cuts them off: runs beside others of the kind, after the rest. What a dead member held of
   * machinery that all share (a forwarder of delays) is late, and may be doubled, for everybody.
   */
  readonly deadly?: boolean;
  /** Milliseconds until the test is given up, of an adapter with this lease. Default: 60 s + 4 leases. */
  readonly timeout?: (lease: number) => number;
}

const registered: Behaviour[] = [];

/** Registers a test named `RETRY-03 only the group that failed sees the retry`. */
export function contract(
  id: ContractId,
  facet: string,
  run: (s: Scenario) => Promise<void>,
  options: BehaviourOptions = {},
): void {
  if (registered.some((one) => one.id === id && one.facet === facet)) throw new Error(`twice: ${id} ${facet}`);
  registered.push({ id, facet, run, options });
}

/** All tests of the sections that have been imported. */
export function behaviours(): readonly Behaviour[] {
  return registered;
}

/** Capabilities that a broker has or has not. */
export type Flag = {
  [Name in keyof Capabilities]: Capabilities[Name] extends { readonly supported: boolean } ? Name : never;
}[keyof Capabilities];

export type ConnectOptions = BusOptions & {
  /** Where to connect instead of straight to the broker. */
  readonly to?: NetworkLink | Target;
};

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly text: string;
  readonly details: object | undefined;
}

/** What a test is given. All that it opens is closed after it. */
export interface Scenario {
  readonly adapter: AdapterUnderTest;
  readonly broker: BrokerUnderTest;
  readonly foreign: ForeignClient;
  readonly capabilities: Capabilities;
  /** Milliseconds: the shortest lease for tests. Subscriptions that are to be taken over ask for it. */
  readonly lease: number;
  /** Milliseconds within which another member takes over: the lease and the margin of the contract. */
  readonly takeOver: number;
  /** What the buses of this test logged; shown when it fails. */
  readonly logs: readonly LogLine[];
  /** A bus to the broker under test. */
  connect(options?: ConnectOptions): Promise<Bus>;
  /** A name that no other test has. */
  topicName(hint?: string): string;
  /** Starts a program as a member of its own, which can be killed. */
  member<Name extends keyof Programs>(program: Name, args: ProgramArgs<Name>, link?: NetworkLink): Promise<Member>;
  /** A network of its own, which can be cut. */
  network(): Promise<NetworkLink>;
  recorder<T = unknown>(work?: Work<T>): Recorder<T>;
  eventually<T>(description: string, probe: () => T | Promise<T>, options?: EventuallyOptions<T>): Promise<T>;
  supports(capability: Flag): boolean;
  /**
   * For a promise that this broker cannot keep: asserts that the capability is false with a reason, and that `run`,
   * where an option asks for it, rejects with an UnsupportedError that tells both. Marks the id as unsupported.
   */
  unsupported(capability: Flag, run?: () => Promise<unknown>): Promise<void>;
  /** Runs after the test, before the buses are closed; the last first. */
  afterwards(clean: () => unknown): void;
}
