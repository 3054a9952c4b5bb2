import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A path for a database, in a folder that goes with it. */
export function temporaryFile(): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'waybill-once-'));
  return { path: join(folder, 'test.db'), remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Where the store of the suite's other process is. */
export const placeVariable = 'WAYBILL_TEST_STORE';

export function openIn(kind: 'postgres' | 'mysql' | 'sqlite' | 'redis', where: string): string {
  process.env[placeVariable] = where;
  return new URL(`./open-${kind}.ts`, import.meta.url).href;
}
