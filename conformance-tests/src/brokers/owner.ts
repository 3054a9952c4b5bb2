import { hostname } from 'node:os';

/**
 * Who will stop a test's container, `<hostname>:<pid>`: a test run that is killed cannot, and where the reaper's image
 * cannot be pulled nobody else would.
 */
export function thisProcess(): string {
  return `${hostname()}:${process.pid}`;
}

/** Whether the owner is known to be gone. Of one on another host, or in another container, nothing is known. */
export function isGone(owner: string): boolean {
  const [host, pid] = owner.split(':');
  return host === hostname() && !isAlive(Number(pid));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it is there, and another user's.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
