import { afterEach, describe, expect, test, vi } from 'vitest';
import { connect } from '../src/connect.ts';
import { ConfigError, ConnectionError, PermanentError } from '../src/errors.ts';
import type { Claim, Inbox } from '../src/idempotency.ts';
import type { Bus, BusOptions, ConsumeMiddleware, Message, Subscription } from '../src/types.ts';

/** A list that commits at once what a handler has added to it, and forgets it otherwise. */
interface Tx {
  add(text: string): void;
}

class ListInbox implements Inbox<Tx> {
  readonly committed: string[] = [];
  readonly done = new Set<string>();
  readonly running = new Set<string>();
  readonly claims: Claim[] = [];
  /** What the next begin, or the next commit, fails with. */
  beginFails: unknown[] = [];
  commitFails: unknown[] = [];
  maxConcurrency?: number;

  async run(claim: Claim, work: (tx: Tx, fence: object) => Promise<boolean>) {
    this.claims.push(claim);
    if (this.beginFails.length > 0) throw this.beginFails.shift();
    const id = `${claim.scope} ${claim.key}`;
    if (this.done.has(id)) return 'duplicate' as const;
    if (this.running.has(id)) return 'busy' as const;
    this.running.add(id);
    try {
      const added: string[] = [];
      if (!(await work({ add: (text) => added.push(text) }, {}))) return 'failed' as const;
      if (this.commitFails.length > 0) throw this.commitFails.shift();
      this.committed.push(...added);
      this.done.add(id);
      return 'ran' as const;
    } finally {
      this.running.delete(id);
    }
  }
}

const retry = { attempts: 3, delay: 10 };
const buses: Bus[] = [];
afterEach(async () => {
  for (const bus of buses.splice(0)) await bus.close({ timeout: 0 });
});
const open = async (options: BusOptions = {}): Promise<Bus> => {
  const bus = await connect('memory:', { logger: false, ...options });
  buses.push(bus);
  return bus;
};
const until = (what: () => boolean | number, subscription?: Subscription): Promise<void> =>
  vi.waitFor(() => {
    if (!what()) throw new Error(`not yet: ${JSON.stringify(subscription?.stats())}`);
  }, 5_000);

describe('a subscription with an inbox (IDEM-05)', () => {
  test('the ack follows the commit, and a duplicate is acked without the handler', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    const seen: string[] = [];
    const subscription = await bus.subscribe('t', { group: 'g', inbox }, (message: Message, tx: Tx) => {
      expect(inbox.committed).toEqual([]);
      seen.push(message.id);
      tx.add(message.data as string);
    });
    await bus.publish('t', 'effect', { id: 'same' });
    await until(() => subscription.stats().acked === 1, subscription);
    expect(inbox.committed).toEqual(['effect']);
    await bus.publish('t', 'effect', { id: 'same' });
    await until(() => subscription.stats().duplicates === 1, subscription);
    expect(seen).toEqual(['same']);
  });

  test.each<[string, (message: Message) => unknown]>([
    ['throws', () => Promise.reject(new Error('no'))],
    ['says retry()', (message) => message.retry({ after: 10 })],
    ['acks and then throws', (message) => message.ack().then(() => Promise.reject(new Error('no')))],
  ])('what a handler wrote that %s is rolled back, and it runs again', async (_, fail) => {
    const bus = await open();
    const inbox = new ListInbox();
    const attempts: number[] = [];
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, async (message: Message, tx: Tx) => {
      attempts.push(message.attempt);
      tx.add(`by attempt ${message.attempt}`);
      if (message.attempt === 1) await fail(message);
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(inbox.committed).toEqual(['by attempt 2']);
    expect(attempts).toEqual([1, 2]);
  });

  test('reject() rolls back and makes a dead letter, whose redrive runs', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    let rejects = true;
    const subscription = await bus.subscribe('t', { group: 'g', inbox }, async (message: Message, tx: Tx) => {
      tx.add('effect');
      if (rejects) await message.reject('no');
    });
    await bus.publish('t', 1, { id: 'a' });
    await until(() => subscription.stats().deadLettered === 1, subscription);
    expect(inbox.committed).toEqual([]);
    rejects = false;
    await bus.deadLetters('t', 'g').redrive('all');
    await until(() => inbox.committed.length === 1);
  });

  test('a handler may await ack(), which does not wait for the commit', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    const subscription = await bus.subscribe('t', { group: 'g', inbox }, async (message: Message, tx: Tx) => {
      await message.ack();
      expect(subscription.stats().acked).toBe(0);
      tx.add('after the ack');
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(inbox.committed).toEqual(['after the ack']);
  });

  test('a claim that somebody else holds goes back, and uses no attempt (IDEM-04)', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    const attempts: number[] = [];
    inbox.running.add('t\0g\x000 a');
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, (message: Message) => {
      attempts.push(message.attempt);
    });
    await bus.publish('t', 1, { id: 'a' });
    await until(() => subscription.stats().givenBack === 1, subscription);
    inbox.running.clear();
    await until(() => subscription.stats().acked === 1, subscription);
    expect(attempts).toEqual([1]);
  });

  test('a database that is away uses no attempt, and health says so (IDEM-06)', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    inbox.beginFails = [new Error('the pool is exhausted')];
    const attempts: number[] = [];
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, (message: Message) => {
      attempts.push(message.attempt);
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().givenBack === 1, subscription);
    expect(await bus.health()).toMatchObject({
      status: 'degraded',
      reason: 'topic "t", group "g": the inbox fails: the pool is exhausted',
    });
    await until(() => subscription.stats().acked === 1, subscription);
    expect(attempts).toEqual([1]);
    expect((await bus.health()).status).toBe('up');
  });

  test('a commit without an answer uses no attempt; one that the database refuses does', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    inbox.commitFails = [
      new ConnectionError('the connection was lost', { adapter: 'list' }),
      new Error('deferred constraint'),
    ];
    const attempts: number[] = [];
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, (message: Message) => {
      attempts.push(message.attempt);
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(attempts).toEqual([1, 1, 2]);
  });

  test('a handler that is out of time is rolled back when it ends, and told by the signal', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    const attempts: number[] = [];
    const options = { group: 'g', inbox, retry, timeout: 50 };
    const subscription = await bus.subscribe('t', options, async (message: Message, tx: Tx) => {
      attempts.push(message.attempt);
      tx.add(`by attempt ${message.attempt}`);
      if (message.attempt > 1) return;
      await new Promise((resolve) => message.signal.addEventListener('abort', resolve));
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(inbox.claims[0]?.signal?.aborted).toBe(true);
    expect(inbox.committed).toEqual(['by attempt 2']);
  });

  test('what was rolled back because close ran out of time is not acked', async () => {
    const shared = `memory:inbox-${process.pid}`;
    const inbox = new ListInbox();
    const bus = await connect(shared, { logger: false });
    const gate = Promise.withResolvers<void>();
    let runs = 0;
    const options = { group: 'g', inbox, lease: '1s' } as const;
    await bus.subscribe('t', options, async (message: Message, tx: Tx) => {
      runs++;
      await gate.promise;
      tx.add(message.id);
    });
    await bus.publish('t', 1, { id: 'a' });
    await until(() => runs === 1);
    const closing = bus.close({ timeout: 20 });
    await until(() => inbox.claims[0]?.signal?.aborted === true);
    gate.resolve();
    await closing;
    await until(() => inbox.running.size === 0);
    expect(inbox.committed).toEqual([]);
    const next = await connect(shared, { logger: false });
    buses.push(next);
    await next.subscribe('t', options, (message: Message, tx: Tx) => tx.add(message.id));
    await until(() => inbox.committed.length === 1);
  });

  test('a transaction that was cut off uses no attempt, whatever the handler made of it', async () => {
    const bus = await open();
    const cut = new AbortController();
    const attempts: number[] = [];
    const list = new ListInbox();
    const inbox: Inbox<Tx> = {
      run: (claim, work) => list.run(claim, (tx) => work(tx, attempts.length === 0 ? { signal: cut.signal } : {})),
    };
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, (message: Message) => {
      attempts.push(message.attempt);
      if (attempts.length > 1) return;
      cut.abort();
      throw new Error('connection terminated');
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(attempts).toEqual([1, 1]);
  });

  test.each([true, false])(
    'what is not committed is not acked, though middleware swallows the error (ack(): %s)',
    async (acks) => {
      const inbox = new ListInbox();
      inbox.commitFails = [
        new ConnectionError('the connection was lost', { adapter: 'list' }),
        new Error('deferred constraint'),
      ];
      const swallow: ConsumeMiddleware = (_, next) => next().catch(() => {});
      const bus = await open({ middleware: { consume: [swallow] } });
      const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, async (message: Message, tx: Tx) => {
        tx.add(`by attempt ${message.attempt}`);
        if (acks) await message.ack();
      });
      await bus.publish('t', 1);
      await until(() => subscription.stats().acked === 1, subscription);
      expect(inbox.committed).toEqual(['by attempt 2']);
      expect(subscription.stats()).toMatchObject({ givenBack: 1, retried: 1 });
    },
  );

  test('what has not been committed yet is not acked, though middleware does not wait for it', async () => {
    const inbox = new ListInbox();
    const gate = Promise.withResolvers<void>();
    const impatient: ConsumeMiddleware = (_, next) => {
      void next().catch(() => {});
      return new Promise((resolve) => setTimeout(resolve, 20));
    };
    const bus = await open({ middleware: { consume: [impatient] } });
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, async (message: Message, tx: Tx) => {
      tx.add(`by attempt ${message.attempt}`);
      if (message.attempt > 1) return;
      await gate.promise;
      throw new Error('no');
    });
    await bus.publish('t', 1);
    await until(() => subscription.stats().retried === 1, subscription);
    expect(subscription.stats().acked).toBe(0);
    gate.resolve();
    await until(() => subscription.stats().acked === 1, subscription);
    expect(inbox.committed).toEqual(['by attempt 2']);
  });

  test('what middleware makes of the error of a handler counts', async () => {
    const inbox = new ListInbox();
    const final: ConsumeMiddleware = (_, next) =>
      next().catch((cause: unknown) => Promise.reject(new PermanentError('no use', { cause })));
    const bus = await open({ middleware: { consume: [final] } });
    const subscription = await bus.subscribe('t', { group: 'g', inbox, retry }, () => Promise.reject(new Error('no')));
    await bus.publish('t', 1);
    await until(() => subscription.stats().deadLettered === 1, subscription);
    expect(subscription.stats().retried).toBe(0);
  });

  test('a commit that is never answered uses no attempt, and health says so', async () => {
    const bus = await open();
    const list = new ListInbox();
    let hangs = true;
    const inbox: Inbox<Tx> = {
      async run(claim, work) {
        const outcome = await list.run({ ...claim, key: `${claim.key}${hangs}` }, work);
        return hangs ? new Promise<never>(() => {}) : outcome;
      },
    };
    const attempts: number[] = [];
    const options = { group: 'g', inbox, timeout: 100, retry: { attempts: 1 } };
    const subscription = await bus.subscribe('t', options, (message: Message) => attempts.push(message.attempt));
    await bus.publish('t', 1);
    await until(() => subscription.stats().givenBack === 1, subscription);
    expect((await bus.health()).status).toBe('degraded');
    hangs = false;
    await until(() => subscription.stats().acked === 1, subscription);
    expect(attempts).toEqual([1, 1]);
  });

  test('middleware runs outside of the transaction', async () => {
    const seen: string[] = [];
    const inbox = new ListInbox();
    const bus = await open({
      middleware: {
        consume: [
          async (_, next) => {
            seen.push(`before ${inbox.running.size}`);
            await next();
            seen.push(`after ${inbox.committed.length}`);
          },
        ],
      },
    });
    const subscription = await bus.subscribe('t', { group: 'g', inbox }, (_: Message, tx: Tx) => tx.add('effect'));
    await bus.publish('t', 1);
    await until(() => subscription.stats().acked === 1, subscription);
    expect(seen).toEqual(['before 0', 'after 1']);
  });

  test('key, window and epoch are those of idempotency, and the default is smaller where the pool is', async () => {
    const bus = await open();
    const store = new ListInbox();
    store.maxConcurrency = 2;
    let most = 0;
    const inbox = { store, key: (message: Message) => message.data as string, window: '1h', epoch: 3 } as const;
    const subscription = await bus.subscribe('t', { group: 'g', inbox }, async () => {
      most = Math.max(most, store.running.size);
      await new Promise((resolve) => setImmediate(resolve));
    });
    await Promise.all(['a', 'b', 'c', 'd', 'a'].map((data) => bus.publish('t', data)));
    await until(() => subscription.stats().acked === 4 && subscription.stats().duplicates === 1, subscription);
    expect(most).toBe(2);
    expect(store.claims[0]).toMatchObject({ scope: 't\0g\x003', window: 3_600_000, lease: 30_000 });
  });

  test('what cannot be is refused at the call', async () => {
    const bus = await open();
    const inbox = new ListInbox();
    inbox.maxConcurrency = 4;
    const group = 'g';
    const handler = (): void => {};
    await expect(bus.subscribe('t', { group, inbox, concurrency: 5 }, handler)).rejects.toThrow(ConfigError);
    await expect(bus.subscribe('t', { group, inbox, idempotency: false } as never, handler)).rejects.toThrow('inbox');
    await expect(bus.subscribe('t', { group, inbox: {} } as never, handler)).rejects.toThrow('inbox.store');
    await expect(bus.messages('t', { group, inbox } as never)).rejects.toThrow('belongs to subscribe');
    await expect(bus.subscribeBatch('t', { group, inbox, batch: { size: 2 } } as never, handler)).rejects.toThrow(
      'inbox',
    );
  });
});
