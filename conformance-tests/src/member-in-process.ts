import { connect } from '@waybill/core';
import type { Adapter } from '@waybill/core/adapter';
import { settles } from './eventually.ts';
import { InProcessLink } from './harness/in-process-link.ts';
import type { Member } from './member.ts';
import { waitForEvents } from './member-process.ts';
import type { MemberContext, MemberEvent, MemberProgram } from './member-program.ts';

const ENDS_WITHIN = 30_000;

/** A member beside the test, for a broker that lives in this process: killed by severing its link for ever. */
export function startMemberInProcess<Args>(program: MemberProgram<Args>, args: Args, adapter: Adapter): Member {
  const link = new InProcessLink();
  const events: MemberEvent[] = [];
  const closing = new AbortController();
  const told: { command: string; value: unknown }[] = [];
  const waiting: { name: string; resolve: (value: unknown) => void }[] = [];
  let dead = false;
  let end: (how: number | string) => void = () => {};
  let over: number | string | undefined;
  const ended = new Promise<number | string>((resolve) => {
    end = (how) => {
      over ??= how;
      resolve(how);
    };
  });
  const kill = async (): Promise<void> => {
    dead = true;
    await link.sever();
    end('SIGKILL');
  };

  const context: MemberContext = {
    connect: (options) => connect(link.wrap(adapter), { logger: false, ...options, clock: link.clock }),
    emit: (type, fields) => {
      // As JSON, so that a test sees what it would see of a process.
      if (!dead) events.push({ ...JSON.parse(JSON.stringify(fields ?? {})), type, at: performance.now() });
    },
    command: (name) => {
      const at = told.findIndex(({ command }) => command === name);
      if (at >= 0) return Promise.resolve(told.splice(at, 1)[0]?.value);
      return new Promise((resolve) => waiting.push({ name, resolve }));
    },
    closing: closing.signal,
    die: async () => {
      await kill();
      return await new Promise<never>(() => {});
    },
  };
  program(context, args).then(
    () => end(0),
    (error: unknown) => end(error instanceof Error ? (error.stack ?? error.message) : String(error)),
  );

  return {
    events,
    told: (type) => events.filter((event) => event.type === type),
    waitFor: (until, within) => waitForEvents(events, until, within, () => over),
    tell: (command, value) => {
      const at = waiting.findIndex(({ name }) => name === command);
      if (at < 0) told.push({ command, value });
      else waiting.splice(at, 1)[0]?.resolve(value);
    },
    kill,
    freeze: async () => link.freeze(),
    thaw: async () => link.thaw(),
    close: async () => {
      closing.abort();
      const how = await settles('the member ends by itself', ended, ENDS_WITHIN);
      if (how !== 0) throw new Error(`the member ended with ${how}`);
    },
    ended,
  };
}
