import { DatabaseSync } from 'node:sqlite';
import { sqliteStore } from '../src/sqlite.ts';
import { defineIdempotencyStoreSuite } from '../src/suite.ts';
import { openIn, temporaryFile } from './places.ts';

defineIdempotencyStoreSuite('sqlite', async () => {
  const file = temporaryFile();
  const database = new DatabaseSync(file.path);
  database.exec('PRAGMA journal_mode = WAL');
  await sqliteStore(file.path).migrate();
  return {
    open: () => sqliteStore(file.path),
    otherProcess: openIn('sqlite', file.path),
    entries: async () => Number(database.prepare('SELECT count(*) AS n FROM waybill_idempotency').get()?.['n']),
    close: () => {
      database.close();
      file.remove();
    },
  };
});
