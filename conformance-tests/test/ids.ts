import { selectIds } from '../src/contract.ts';
import type { SuiteOptions } from '../src/suite.ts';

/** `npm run conformance -- --id RETRY` runs these files with the prefixes in `WAYBILL_IDS`. */
export function idsFromEnvironment(): SuiteOptions {
  const prefixes = process.env['WAYBILL_IDS']?.split(',').filter(Boolean) ?? [];
  return { ids: selectIds(prefixes) };
}
