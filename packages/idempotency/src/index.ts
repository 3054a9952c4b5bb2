export {
  type Claim,
  type ClaimOutcome,
  type Fence,
  type IdempotencyStore,
  type Inbox,
  type MemoryStoreOptions,
  memoryStore,
} from '@waybill/core';
export type { InboxOptions, SqlInbox } from './inbox.ts';
export type { Migratable, SqlStore, SqlStoreOptions, TableOptions } from './sql-store.ts';
