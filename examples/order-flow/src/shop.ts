/**
 * The shop's own database, with two things of Waybill in it: an outbox, so that what it wrote and what it announced
 * agree, and an inbox, so that a message handled twice has its effect once. On PostgreSQL or MySQL it is the same, by
 * `postgresOutbox(pool)` and `postgresInbox(pool)`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { sqliteInbox } from '@waybill/idempotency/sqlite';
import { sqliteOutbox } from '@waybill/outbox/sqlite';

const folder = mkdtempSync(join(tmpdir(), 'waybill-shop-'));
const file = join(folder, 'shop.db');

export const db = new DatabaseSync(file);
export const outbox = sqliteOutbox(file);
export const inbox = sqliteInbox(file);

export async function openShop(): Promise<void> {
  await outbox.migrate();
  await inbox.migrate();
  db.exec('CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT NOT NULL, total REAL NOT NULL) STRICT');
  db.exec('CREATE TABLE charges (order_id TEXT NOT NULL, amount REAL NOT NULL) STRICT');
}

/** Commits when the work resolves, and rolls back when it does not. */
export async function transaction(work: (tx: DatabaseSync) => Promise<void>): Promise<void> {
  db.exec('BEGIN IMMEDIATE');
  try {
    await work(db);
    db.exec('COMMIT');
  } catch (error) {
    db.exec('ROLLBACK');
    throw error;
  }
}

/** The ids that a table holds, in order. */
export function idsIn(table: 'orders' | 'charges'): string[] {
  const column = table === 'orders' ? 'id' : 'order_id';
  return db
    .prepare(`SELECT ${column} AS id FROM ${table} ORDER BY 1`)
    .all()
    .map((row) => String(row['id']));
}

export function closeShop(): void {
  outbox.close();
  db.close();
  rmSync(folder, { recursive: true });
}
