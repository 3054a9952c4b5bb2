import type { Bus, BusOptions } from '@waybill/core';

/** What a program that runs as a member of its own gets: in a process of its own, or severable inside this one. */
export interface MemberContext {
  /** A bus to the broker under test. The program closes it. */
  connect(options?: BusOptions): Promise<Bus>;
  /** Tells the test something; written before this returns, so that it outlives a death right after it. */
  emit(type: string, fields?: Readonly<Record<string, unknown>>): void;
  /** Resolves with the next command of this name that the test tells. */
  command(name: string): Promise<unknown>;
  /** Aborts when the member is to end in good order. */
  readonly closing: AbortSignal;
  /** Dies on the spot, as by SIGKILL. Never resolves. */
  die(): Promise<never>;
}

/** Runs until `closing`, closes what it opened and returns. */
export type MemberProgram<Args> = (member: MemberContext, args: Args) => Promise<void>;

/** Something that a member told. */
export interface MemberEvent {
  readonly type: string;
  /** When the member told it, in `performance.now()` of this process. */
  readonly at: number;
  readonly [field: string]: unknown;
}
