/** The main program of a member's process: runs one of `members/` and tells its events on a pipe. */
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { type AdapterFactory, connect } from '@waybill/core';
import { EVENTS_FD, type MemberOrder } from './member-process.ts';
import type { MemberContext, MemberProgram } from './member-program.ts';
import { programs } from './members/programs.ts';

const order = JSON.parse(process.argv[2] ?? '') as MemberOrder;
const closing = new AbortController();
process.once('SIGTERM', () => closing.abort());

const told: { command: string; value?: unknown }[] = [];
const waiting: { name: string; resolve: (value: unknown) => void }[] = [];
const commands = createInterface({ input: process.stdin });
commands.on('line', (line) => {
  const { command, value } = JSON.parse(line) as { command: string; value?: unknown };
  const at = waiting.findIndex(({ name }) => name === command);
  if (at < 0) told.push({ command, value });
  else waiting.splice(at, 1)[0]?.resolve(value);
});

async function factories(): Promise<readonly AdapterFactory[]> {
  if (order.module === undefined) return [];
  const found: Record<string, unknown> = await import(order.module);
  return Object.values(found).filter(isFactory);
}

function isFactory(value: unknown): value is AdapterFactory {
  return (typeof value === 'function' || typeof value === 'object') && value !== null && 'fromUrl' in value;
}

function write(line: string): void {
  const bytes = Buffer.from(`${line}\n`);
  for (let sent = 0; sent < bytes.length; ) {
    try {
      sent += writeSync(EVENTS_FD, bytes, sent);
    } catch (error) {
      // The pipe is full for the moment.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
  }
}

const context: MemberContext = {
  connect: async (options) => connect(order.url, { adapters: await factories(), ...options }),
  emit: (type, fields) => write(JSON.stringify({ ...fields, type, at: performance.timeOrigin + performance.now() })),
  command: (name) => {
    const at = told.findIndex(({ command }) => command === name);
    if (at >= 0) return Promise.resolve(told.splice(at, 1)[0]?.value);
    return new Promise((resolve) => waiting.push({ name, resolve }));
  },
  closing: closing.signal,
  die: () => {
    process.kill(process.pid, 'SIGKILL');
    return new Promise(() => {});
  },
};

const program = (programs as unknown as Record<string, MemberProgram<unknown> | undefined>)[order.program];
if (program === undefined) throw new Error(`there is no member program "${order.program}"`);
await program(context, order.args);
// From here on the process must end by itself: an open handle of the library would keep it (LIFE-01).
process.stdin.unref?.();
commands.close();
process.stdin.destroy();
