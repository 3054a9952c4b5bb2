import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Something the person at the keyboard can mend: the message says what is missing and what to do, no stack needed. */
export class SetupError extends Error {
  override readonly name = 'SetupError';
}

export class CommandError extends Error {
  override readonly name = 'CommandError';
}

const OUTPUT_LIMIT = 64 * 1024 * 1024;
const SHOWN_LINES = 15;

/**
 * Runs a program to its end and gives what it printed on its standard output.
 * @throws CommandError with the last lines of what it printed
 */
export function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const options = { maxBuffer: OUTPUT_LIMIT, env: { ...process.env, ...env } };
  return new Promise((resolve, reject) => {
    execFile(command, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const seen = lastLines(`${stdout}${stderr}`) || error.message;
      reject(new CommandError(`${[command, ...args].join(' ')} failed:\n${seen}`));
    });
  });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function lastLines(text: string): string {
  return text.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n');
}

/** Whether a program of this name is on the PATH. */
export function hasProgram(name: string): boolean {
  const { PATH: path = '' } = process.env;
  return path.split(delimiter).some((folder) => isExecutable(join(folder, name)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Runs one long step and tells about it when it is done. */
export type Step = <T>(what: string, work: () => Promise<T>) => Promise<T>;

/** Progress goes to the standard error output, so that the standard output holds results only. */
export const reportStep: Step = async (what, work) => {
  const start = performance.now();
  const result = await work();
  console.error(`${what} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  return result;
};
