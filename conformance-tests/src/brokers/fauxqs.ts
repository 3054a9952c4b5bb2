/**
 * What fauxqs 2.4.1 gets wrong with persistence, mended from outside, so that any image of it will do:
 *
 * - `ChangeMessageVisibility` 0 writes a null into a column that takes none, fails, and the message is gone;
 * - each message and each request is flushed to the disk, three milliseconds each in its only thread. What was written
 *   outlives a kill without that.
 */
const mending = `
import { DatabaseSync } from 'node:sqlite';
const { prepare, exec } = DatabaseSync.prototype;
DatabaseSync.prototype.prepare = function (sql) {
  return prepare.call(this, sql.replace('approximate_receive_count = ?', 'approximate_receive_count = coalesce(?, approximate_receive_count)'));
};
DatabaseSync.prototype.exec = function (sql) {
  return exec.call(this, sql.replace(/^PRAGMA journal_mode.*/, '$&; PRAGMA synchronous = OFF'));
};
`;

export const fauxqsEnvironment = {
  FAUXQS_PERSISTENCE: 'true',
  FAUXQS_DATA_DIR: '/data',
  NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(mending)}`,
} as const;
