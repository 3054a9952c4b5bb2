export { again, repeating } from './again.ts';
export { isLockTimeout, isTransient, sqlError } from './errors.ts';
export { ident, indexName, inLists, literal, qualified } from './ident.ts';
export { type MigrateResult, migrate, type Schema, schemaSql } from './migrate.ts';
export type * from './sql.ts';
