import { isTransient } from './errors.ts';
import type { Dialect, SqlDatabase } from './sql.ts';

/** Tries again what others got in the way of, by a deadlock for instance: the database has done nothing of it then. */
export async function again<T>(dialect: Dialect, step: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await step();
    } catch (error) {
      if (tries === 5 || !isTransient(dialect, error)) throw error;
    }
  }
}

/** The same database, which tries each statement and each transaction again that others got in the way of. */
export function repeating(database: SqlDatabase): SqlDatabase {
  const { dialect } = database;
  return {
    ...database,
    run: (text, values) => again(dialect, () => database.run(text, values)),
    transaction: (work) => again(dialect, () => database.transaction(work)),
  };
}
