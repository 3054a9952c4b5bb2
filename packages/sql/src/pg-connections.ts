import { ConfigError } from '@waybill/core/adapter';
import type { Pool } from 'pg';

/** Milliseconds of silence after which a server is asked whether it is still there. */
const silence = 30_000;

/** What clients of pg have underneath. */
interface Inside {
  readonly connection?: {
    readonly stream?: { destroy(): void; setKeepAlive?(enable: boolean, initialDelay: number): void };
  };
}

const guarded = new WeakSet<object>();

/**
 * A connection that breaks ends the process when nobody listens to it, be it idle or in use; and pg waits for ever for
 * a server that is gone without a word.
 *
 * @throws ConfigError for what is not a pool
 */
export function guardPool(pool: Pool): void {
  if (typeof pool?.connect !== 'function' || !('totalCount' in pool)) {
    throw new ConfigError('pool', 'is not a Pool of pg');
  }
  if (guarded.has(pool)) return;
  guarded.add(pool);
  pool.on('error', noop);
  pool.on('acquire', (client) => {
    if (guarded.has(client)) return;
    guarded.add(client);
    client.on('error', noop);
    keepAlive(pool, client);
  });
}

/** A connection that was made as the pool makes its own. */
export function keepAlive(pool: Pool, client: object): void {
  if (pool.options.keepAlive === undefined) (client as Inside).connection?.stream?.setKeepAlive?.(true, silence);
}

/**
 * Cuts the connection: the server rolls back, and no later statement gets anywhere. A polite end would wait for a server
 * that may not answer.
 */
export function hangUp(client: object): void {
  (client as Inside).connection?.stream?.destroy();
}

function noop(): void {}
