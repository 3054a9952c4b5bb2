import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brokerFor, type GivenBroker } from '../../../conformance-tests/src/harness/broker-for.ts';

/** The containers of a test file; `WAYBILL_POSTGRES_URL` and `WAYBILL_MARIADB_URL` name others. */
export const postgres = (): Promise<GivenBroker> => brokerFor('postgres');
export const mariadb = (): Promise<GivenBroker> => brokerFor('mariadb');

/** A path for a database, in a folder that goes with it. */
export function temporaryFile(): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'waybill-sql-'));
  return { path: join(folder, 'test.db'), remove: () => rmSync(folder, { recursive: true, force: true }) };
}
