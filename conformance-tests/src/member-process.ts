import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { eventually, PATIENCE, settles } from './eventually.ts';
import type { Member } from './member.ts';
import type { MemberEvent } from './member-program.ts';

/** Everything a child needs; it stands on its command line. */
export interface MemberOrder {
  readonly program: string;
  readonly args: unknown;
  readonly url: string;
  /** What to import for the adapter's factory. */
  readonly module: string | undefined;
}

/** The file descriptor on which a child tells its events. */
export const EVENTS_FD = 3;
const ENDS_WITHIN = 30_000;

// This file runs as it was written and as it was built; the child's program stands beside it in the same form.
const main = fileURLToPath(new URL(`./member-main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url));

export interface MemberProcess extends Member {
  /** What it printed, for the report of a failed test. */
  readonly printed: () => string;
}

export function startMemberProcess(order: MemberOrder): MemberProcess {
  const child = spawn(process.execPath, ['--no-warnings', main, JSON.stringify(order)], {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
  });
  let printed = '';
  const print = (chunk: Buffer): void => {
    printed += chunk.toString();
  };
  child.stdout.on('data', print);
  child.stderr.on('data', print);
  // A child that is dead already does not read its commands; `ended` tells.
  child.stdin.on('error', () => {});

  const events: MemberEvent[] = [];
  const lines = createInterface({ input: child.stdio[EVENTS_FD] as Readable });
  lines.on('line', (line) => {
    const event = JSON.parse(line) as { type: string; at: number };
    events.push({ ...event, at: event.at - performance.timeOrigin });
  });
  const drained = new Promise<void>((resolve) => lines.once('close', resolve));
  let over: number | string | undefined;
  const ended = new Promise<number | string>((resolve) => {
    child.once('error', (error) => resolve(String(error)));
    child.once('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  }).then(async (how) => {
    await drained;
    over = how;
    return how;
  });

  return {
    events,
    told: (type) => events.filter((event) => event.type === type),
    waitFor: (until, within) =>
      waitForEvents(
        events,
        until,
        within,
        () => over,
        () => printed,
      ),
    tell: (command, value) => void child.stdin.write(`${JSON.stringify({ command, value })}\n`),
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
    freeze: async () => void child.kill('SIGSTOP'),
    thaw: async () => void child.kill('SIGCONT'),
    close: async () => {
      child.kill('SIGTERM');
      const how = await settles('the member ends by itself after SIGTERM', ended, ENDS_WITHIN);
      if (how !== 0) throw new Error(`the member ended with ${how}:\n${printed}`);
    },
    ended,
    printed: () => printed,
  };
}

/** Milliseconds: before a member tells anything its process starts, beside those of other tests. */
const STARTS_WITHIN = 30_000;

/** Shared by both kinds of members. */
export async function waitForEvents(
  events: readonly MemberEvent[],
  until: string | ((events: readonly MemberEvent[]) => boolean),
  within = events.length === 0 ? STARTS_WITHIN : PATIENCE,
  over: () => number | string | undefined = () => undefined,
  printed: () => string = () => '',
): Promise<readonly MemberEvent[]> {
  const enough = typeof until === 'string' ? (): boolean => events.some(({ type }) => type === until) : until;
  const what = typeof until === 'string' ? `the member tells "${until}"` : 'the member tells what was waited for';
  await eventually(
    what,
    () => {
      const ended = over();
      return { enough: enough(events), ended, told: events, printed: printed().slice(-2_000) };
    },
    { within, until: (state) => state.enough || state.ended !== undefined },
  );
  if (!enough(events)) throw new Error(`${what}: it ended with ${over()} instead:\n${printed()}`);
  return events;
}
