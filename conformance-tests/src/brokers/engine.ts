import { spawn } from 'node:child_process';
import { existsSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { engineVersion } from './docker.ts';
import { hasProgram, lastLines, run, SetupError, type Step } from './run.ts';

const ENGINE_LOG = '/var/log/dockerd.log';
const ENGINE_STARTS_WITHIN_MS = 60_000;
const OTHER_ENGINE_STARTS_WITHIN_MS = 10_000;
const ASK_EVERY_MS = 100;

/** How a person gives the permission to install; named in every message about something missing. */
const PERMISSION = 'run `npm run brokers -- up --install` as root on Debian';

/** Debian's package for each program that is asked for here. */
const packages = {
  docker: 'docker.io',
  dockerd: 'docker.io',
  containerd: 'containerd',
  iptables: 'iptables',
  mmdebstrap: 'mmdebstrap',
  mvn: 'maven',
} as const;

export type Program = keyof typeof packages;

export interface Installer {
  /**
   * Sees to it that programs are there, by installing what is missing where that is allowed.
   * @throws SetupError that names what is missing and what to run
   */
  need(programs: readonly Program[], why: string): Promise<void>;
  /** Why nothing may be installed or started on this machine; `undefined` when it may. */
  readonly forbidden: string | undefined;
}

/**
 * Installs from Debian's packages, and only on a machine that is meant for it: Debian, as root, and either with CI set
 * or asked to by the person.
 */
export function installer(asked: boolean, step: Step): Installer {
  const forbidden = whyForbidden(asked);
  const installMissing = async (programs: readonly Program[], why: string): Promise<void> => {
    const missing = programs.filter((program) => !hasProgram(program));
    if (missing.length === 0) return;
    if (forbidden !== undefined) {
      throw new SetupError(`${missing.join(', ')} is missing, ${why}. ${forbidden}: ${PERMISSION}.`);
    }
    const names = [...new Set(missing.map((program) => packages[program]))];
    await step(`installed ${names.join(', ')}`, () => install(names));
  };
  // One at a time: apt does not wait for itself.
  let turn: Promise<unknown> = Promise.resolve();
  return {
    forbidden,
    need(programs, why) {
      const installed = turn.then(() => installMissing(programs, why));
      turn = installed.catch(() => undefined);
      return installed;
    },
  };
}

function whyForbidden(asked: boolean): string | undefined {
  if (!isDebian()) return 'Installing is only known on Debian';
  if (process.getuid?.() !== 0) return 'Installing needs root';
  const { CI: ci = '' } = process.env;
  if (!asked && (ci === '' || ci === 'false')) return 'Installing was not asked for';
  return undefined;
}

function isDebian(): boolean {
  const release = '/etc/os-release';
  return existsSync(release) && /^ID=debian$/m.test(readFileSync(release, 'utf8'));
}

async function install(names: readonly string[]): Promise<void> {
  const quiet = { DEBIAN_FRONTEND: 'noninteractive' };
  const patient = ['-qq', '-o', 'DPkg::Lock::Timeout=300'];
  await run('apt-get', [...patient, 'update'], quiet);
  await run('apt-get', [...patient, 'install', '--yes', '--no-install-recommends', ...names], quiet);
}

/**
 * Gives the version of the engine that answers; where none does, installs and starts one if that is allowed.
 * @throws SetupError that says what is missing and which command to run
 */
export async function ensureEngine(installing: Installer, step: Step): Promise<string> {
  const running = await engineVersion();
  if (running !== undefined) return running;
  const { DOCKER_HOST: elsewhere = '' } = process.env;
  if (elsewhere !== '') {
    throw new SetupError(`No container engine answers at DOCKER_HOST=${elsewhere}: start it, or unset the variable.`);
  }
  if (installing.forbidden !== undefined) {
    throw new SetupError(
      `No container engine answers (\`docker version\` fails). Start Docker, or ${PERMISSION}. ${installing.forbidden}.`,
    );
  }
  await installing.need(['docker', 'dockerd', 'containerd', 'iptables'], 'which the container engine consists of');
  // Where the package's service can run, installing has started it already.
  return (await engineVersion()) ?? (await step('started the container engine', startEngine));
}

async function startEngine(): Promise<string> {
  if (existsSync('/run/systemd/system')) {
    await run('systemctl', ['start', 'docker']);
    return untilEngineAnswers(() => false);
  }
  return untilEngineAnswers(startDaemon());
}

/**
 * The daemon outlives this process and holds none of its output, so that a script that calls us can end.
 * @returns whether it has ended since
 */
function startDaemon(): () => boolean {
  const log = openSync(ENGINE_LOG, 'a');
  const daemon = spawn('dockerd', [], { detached: true, stdio: ['ignore', log, log] });
  let ended = false;
  for (const event of ['error', 'exit']) daemon.on(event, () => (ended = true));
  daemon.unref();
  return () => ended;
}

async function untilEngineAnswers(hasEnded: () => boolean): Promise<string> {
  let deadline = performance.now() + ENGINE_STARTS_WITHIN_MS;
  for (;;) {
    const version = await engineVersion();
    if (version !== undefined) return version;
    // A daemon ends at once when another process has just started one: that one then has its time to answer.
    if (hasEnded()) deadline = Math.min(deadline, performance.now() + OTHER_ENGINE_STARTS_WITHIN_MS);
    if (performance.now() > deadline) {
      const seen = existsSync(ENGINE_LOG)
        ? `; the end of ${ENGINE_LOG}:\n${lastLines(readFileSync(ENGINE_LOG, 'utf8'))}`
        : '';
      throw new SetupError(`The container engine was started and does not answer${seen}`);
    }
    await wait(ASK_EVERY_MS);
  }
}
