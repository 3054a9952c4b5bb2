export {
  type Claim,
  type ClaimOutcome,
  type Fence,
  type IdempotencyStore,
  type Inbox,
  type MemoryStoreOptions,
  memoryStore,
} from '@waybill/core';
export type { Migratable, SqlStore, SqlStoreOptions, TableOptions } from './sql-store.ts';
