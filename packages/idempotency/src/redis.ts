import { createHash } from 'node:crypto';
import type { IdempotencyStore } from '@waybill/core';
import { ConfigError, ConnectionError, checkOptions, type Duration, duration } from '@waybill/core/adapter';
import type { Cluster, Redis } from 'ioredis';
import { LeasedStore } from './leased-store.ts';
import type { Answer, ClaimTable, Wanted } from './table.ts';

export interface RedisStoreOptions {
  /** Before each key. Default: `waybill:once:`. */
  readonly prefix?: string;
  /** How long a question to Redis may take; then the store counts as away (IDEM-06). Default: `'10s'`. */
  readonly timeout?: Duration;
}

/** A key holds the token of its claim until the work is done, then a plus and the token. */
const scripts = {
  claim: `local held = redis.call('GET', KEYS[1])
if not held or held == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 'won'
end
if string.sub(held, 1, 1) == '+' then return 'duplicate' end
return 'busy'`,
  // A client sends again what had no answer when its connection broke: what has been marked stays so.
  mark: `local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= '+' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], '+' .. ARGV[1], 'PX', ARGV[2])
return 1`,
  renew: `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`,
  release: `if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1`,
} as const;

/**
 * An idempotency store in Redis, for any number of processes: one key a claim, which Redis itself lets go. It remembers
 * as well as Redis does: what is evicted, or lost in a fail-over or a crash between two flushes, may run again.
 *
 * @param client of ioredis; it stays the caller's, who closes it
 * @throws ConfigError for an option that is unknown or out of range
 */
export function redisStore(client: Redis | Cluster, options: RedisStoreOptions = {}): IdempotencyStore {
  checkOptions(options, ['prefix', 'timeout'], '');
  if (typeof client?.evalsha !== 'function') throw new ConfigError('client', 'is not a client of ioredis');
  const { prefix = 'waybill:once:', timeout = '10s' } = options;
  const store = new LeasedStore(redisTable(client, prefix), duration(timeout, 'timeout'));
  return { run: (claim, work) => store.run(claim, work) };
}

function redisTable(client: Redis | Cluster, prefix: string): ClaimTable {
  /** Each a command of its own, all in one turn and so in one packet: a cluster has them in different places. */
  const each = <R>(
    name: keyof typeof scripts,
    items: readonly Wanted[],
    ms: (item: Wanted) => number,
  ): Promise<R[]> => {
    const run = script(client, scripts[name]);
    const all = items.map((item) =>
      run(`${prefix}${item.id.toString('base64url')}`, item.token, Math.max(1, Math.ceil(ms(item)))),
    );
    return Promise.all(all) as Promise<R[]>;
  };
  const lease = ({ claim }: Wanted): number => claim.lease;
  const yes = (numbers: readonly number[]): boolean[] => numbers.map((number) => number === 1);
  return {
    claim: (wanted) => each<Answer>('claim', wanted, lease),
    mark: async (held) => yes(await each('mark', held, ({ claim }) => claim.window)),
    renew: async (held) => yes(await each('renew', held, lease)),
    async release(held) {
      await each('release', held, lease);
    },
  };
}

function script(client: Redis | Cluster, text: string) {
  const sha = createHash('sha1').update(text).digest('hex');
  return async (key: string, ...args: readonly (string | number)[]): Promise<unknown> => {
    try {
      return await client.evalsha(sha, 1, key, ...args);
    } catch (error) {
      // Redis forgets scripts when it restarts.
      if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw failure(error);
    }
    return client.eval(text, 1, key, ...args).catch((error: unknown) => {
      throw failure(error);
    });
  };
}

function failure(cause: unknown): ConnectionError {
  const text = cause instanceof Error ? cause.message : String(cause);
  return new ConnectionError(`Redis cannot be used: ${text}`, { adapter: 'redis', cause });
}
