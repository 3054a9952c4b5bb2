import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type Rig, type RigOptions, openRig as rigOf } from '../../../packages/core/test/memory-rig.ts';
import { sqlite } from '../src/index.ts';
import type { SqliteOptions } from '../src/options.ts';

/** A folder that goes with the test. */
export function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'waybill-sqlite-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** What the memory broker's own tests use, on a file: `g` of topic `t`, and a clock that is moved by hand. */
export function openRig(path: string, options: Partial<SqliteOptions> = {}, rig: RigOptions = {}): Promise<Rig> {
  return rigOf({ ...rig, adapter: sqlite({ path, synchronous: 'normal', ...options }) });
}
