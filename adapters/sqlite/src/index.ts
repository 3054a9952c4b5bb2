import type {} from '@waybill/core';
import type { Adapter, AdapterFactory } from '@waybill/core/adapter';
import { SqliteConnection, type SqliteNative } from './connection.ts';
import { adapterName } from './errors.ts';
import { optionsFromUrl, resolveOptions, type SqliteOptions } from './options.ts';

export type { SqliteNative } from './connection.ts';
export type { SqliteOptions } from './options.ts';
export type { SqliteMessage } from './receiver.ts';

declare module '@waybill/core' {
  interface NativeClients {
    sqlite: SqliteNative;
  }
}

/** Makes adapters for a file: `connect(sqlite({ path: './orders.db' }))`, or by URL. */
export interface SqliteFactory extends AdapterFactory {
  /** @throws ConfigError that names a wrong or unknown option (CFG-01) */
  (options: SqliteOptions): Adapter;
}

/**
 * A durable broker in one file, for any number of processes of one machine. On `node:sqlite`: nothing is installed and
 * nothing runs beside.
 *
 * URL: `sqlite:./orders.db` or `sqlite:/var/lib/orders.db`, with the parameters `synchronous`, `busyTimeout`,
 * `pollInterval`, `retainFor`, `retainBytes` and `maxMessageBytes` of `SqliteOptions`. The file is made when it is
 * missing; beside it stand `-wal` and `-shm`, which are a part of it, and `-wake`, by which processes wake each other.
 *
 * Delivery: at least once, with a lease on each delivery. A publish is confirmed when it is on the disk. A topic is a
 * log, and groups have their place in it. A retry waits in the file with its attempt number and leaves others in peace;
 * on ordered topics one message of a key is out at a time, and the key waits for its retry. Delays, dead letters, counts
 * of deliveries, lag, seek and replay are exact, and outlive every crash.
 *
 * Leases and delays go by the machine's clock: one that is set back makes them late. Not for network file systems, whose
 * locks cannot be relied on. Unsupported: nothing.
 */
export const sqlite: SqliteFactory = Object.assign(makeAdapter, {
  schemes: ['sqlite'],
  fromUrl: (url: string): Adapter => makeAdapter(optionsFromUrl(url)),
});
// A function's own name cannot be assigned, only defined.
Object.defineProperty(sqlite, 'name', { value: adapterName });

function makeAdapter(options: SqliteOptions): Adapter {
  const settings = resolveOptions(options);
  return {
    name: adapterName,
    target: settings.target,
    connect: async (context) => new SqliteConnection(settings, context),
  };
}
