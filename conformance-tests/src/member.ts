import type { MemberEvent } from './member-program.ts';

/** A member that runs apart from the test: a child process, or for a broker of this process a link that can be cut. */
export interface Member {
  readonly events: readonly MemberEvent[];
  /** The events of this type. */
  told(type: string): readonly MemberEvent[];
  /**
   * Waits for an event of this type, or for what `until` asks of all events, up to `within` milliseconds: 15 s, and 30 s
   * for the first.
   */
  waitFor(
    until: string | ((events: readonly MemberEvent[]) => boolean),
    within?: number,
  ): Promise<readonly MemberEvent[]>;
  /** Gives the program a command: `release`. */
  tell(command: string, value?: unknown): void;
  /** SIGKILL; resolves when it is dead. */
  kill(): Promise<void>;
  /** SIGSTOP: nothing runs, connections stay open. */
  freeze(): Promise<void>;
  /** SIGCONT. */
  thaw(): Promise<void>;
  /** SIGTERM; resolves when the process has ended by itself, rejects when it has not within 30 s. */
  close(): Promise<void>;
  /** Resolves when it is dead, by whatever cause: its exit code, or the signal's name. */
  readonly ended: Promise<number | string>;
}
