import type pg from 'pg';

/** Where the figures of a run come from. */
export interface Place {
  /** Of a database that has nothing else to do. */
  readonly pool: pg.Pool;
  /** Of each comparison; the middle one counts. */
  readonly rounds: number;
}

export async function inTransaction<T>(pool: pg.Pool, work: (tx: pg.PoolClient) => Promise<T>): Promise<T> {
  const tx = await pool.connect();
  try {
    await tx.query('BEGIN');
    const result = await work(tx);
    await tx.query('COMMIT');
    tx.release();
    return result;
  } catch (error) {
    tx.release(true);
    throw error;
  }
}
