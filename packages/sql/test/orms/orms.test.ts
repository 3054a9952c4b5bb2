import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import type { Claim } from '@waybill/core';
import { postgresInbox } from '@waybill/idempotency/postgres';
import { postgresOutbox } from '@waybill/outbox/postgres';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { postgres } from '../databases.ts';
import { Wire } from '../wire.ts';
import { type Library, libraries } from './libraries.ts';

vi.setConfig({ testTimeout: 30_000 });

const connections = 3;

describe.each(Object.entries(libraries))('%s', (name, open) => {
  const database = `orms_${randomUUID().slice(0, 8)}`;
  let stop: () => Promise<void>;
  let admin: pg.Pool;
  let pool: pg.Pool;
  let where: string;
  let library: Library;
  let outbox: ReturnType<typeof outboxOf>;
  let inbox: ReturnType<typeof inboxOf>;

  const outboxOf = (one: Library) => postgresOutbox(pool, { client: one.client });
  const inboxOf = (one: Library) => postgresInbox(one.transactions);
  const claim = (more: Partial<Claim> = {}): Claim => ({
    scope: 't\0g\0',
    key: `it's ?? $1 \\? ${randomUUID()}`,
    lease: 10_000,
    window: 60_000,
    ...more,
  });
  const ids = async (table: 'orders' | 'waybill_outbox'): Promise<string[]> => {
    const column = table === 'orders' ? 'id' : 'message_id';
    return (await pool.query(`SELECT ${column} AS id FROM ${table}`)).rows.map((row) => String(row.id));
  };
  const waitFor = (check: () => Promise<void>): Promise<void> => vi.waitFor(check, { timeout: 10_000, interval: 20 });
  /** Of the library's own connections. */
  const cut = () =>
    admin.query(
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND application_name <> $2',
      [database, 'looks on'],
    );

  beforeAll(async () => {
    const broker = await postgres();
    stop = () => broker.stop();
    admin = new pg.Pool({ connectionString: broker.url, max: 1 });
    await admin.query(`CREATE DATABASE ${database}`);
    where = Object.assign(new URL(broker.url), { pathname: `/${database}` }).href;
    pool = new pg.Pool({ connectionString: where, max: 2, application_name: 'looks on' });
    pool.on('error', () => {});
    await pool.query('CREATE TABLE orders (id text PRIMARY KEY, total integer NOT NULL)');
    library = await open(where, connections);
    outbox = outboxOf(library);
    inbox = inboxOf(library);
    await outbox.migrate();
    await inbox.migrate();
  }, 120_000);
  afterAll(async () => {
    await library?.close();
    await pool?.end();
    await admin?.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
    await admin?.end();
    await stop?.();
  }, 60_000);

  it('publishes when the transaction commits', async () => {
    const id = randomUUID();
    const body = Uint8Array.from({ length: 256 }, (_, at) => at);
    await library.transaction(async (tx) => {
      await library.order(tx, id);
      await outbox.publish(tx, 'orders', body, { id, key: "a ? '$1' \\ b", headers: { note: 'ü' } });
    });
    expect(await ids('orders')).toContain(id);
    const { rows } = await pool.query('SELECT * FROM waybill_outbox WHERE message_id = $1', [id]);
    expect(rows).toMatchObject([
      { topic: 'orders', message_key: "a ? '$1' \\ b", message_type: null, deliver_at: null },
    ]);
    expect(new Uint8Array(rows[0].body)).toEqual(body);
    expect(JSON.parse(rows[0].headers)).toMatchObject({ note: 'ü' });
    expect(Math.abs(rows[0].published_at.getTime() - Date.now())).toBeLessThan(60_000);
  });

  it('publishes nothing when the transaction rolls back', async () => {
    const id = randomUUID();
    const rolledBack = library.transaction(async (tx) => {
      await library.order(tx, id);
      await outbox.publish(tx, 'orders', { id }, { id });
      throw new Error('no');
    });
    await expect(rolledBack).rejects.toThrow('no');
    expect(await ids('orders')).not.toContain(id);
    expect(await ids('waybill_outbox')).not.toContain(id);
  });

  it('publishes batches of any size', async () => {
    const batch = Array.from({ length: 501 }, () => ({ id: randomUUID(), data: { total: 1 } }));
    const results = await library.transaction((tx) => outbox.in(tx).publishBatch('orders', batch));
    expect(results.every(({ ok }) => ok)).toBe(true);
    const published = new Set(await ids('waybill_outbox'));
    expect(batch.filter(({ id }) => !published.has(id))).toEqual([]);
  });

  it('refuses what is no transaction, and one that has ended', async () => {
    const id = randomUUID();
    const kept: unknown[] = [];
    await library.transaction(async (tx) => {
      kept.push(tx);
      await outbox.publish(tx, 'orders', {});
    });
    await library
      .transaction(async (tx) => {
        kept.push(tx);
        await outbox.publish(tx, 'orders', {});
        throw new Error('no');
      })
      .catch(() => {});
    for (const tx of [...library.outside(), ...kept, undefined, {}]) {
      await expect(outbox.publish(tx, 'orders', {}, { id })).rejects.toMatchObject({ code: 'CONFIG', field: 'tx' });
    }
    expect(await ids('waybill_outbox')).not.toContain(id);
  });

  it('refuses a transaction that has ended though its connection serves the next one', async () => {
    const single = await open(where, 1);
    try {
      const id = randomUUID();
      let kept: unknown;
      await single.transaction(async (tx) => {
        kept = tx;
        await outboxOf(single).publish(tx, 'orders', {});
      });
      await single.transaction(async (tx) => {
        await single.order(tx, randomUUID());
        await expect(outboxOf(single).publish(kept, 'orders', {}, { id })).rejects.toMatchObject({ code: 'CONFIG' });
      });
      expect(await ids('waybill_outbox')).not.toContain(id);
    } finally {
      await single.close();
    }
  });

  it('publishes nothing in a transaction that had failed', async () => {
    const id = randomUUID();
    const failed = library.transaction(async (tx) => {
      await library.query(tx, 'SELECT 1 / 0').catch(() => {});
      await outbox.publish(tx, 'orders', {}, { id });
    });
    await expect(failed).rejects.toThrow();
    expect(await ids('waybill_outbox')).not.toContain(id);
  });

  it('names a missing table', async () => {
    const other = postgresOutbox(pool, { client: library.client, table: 'not_there' });
    await expect(library.transaction((tx) => other.publish(tx, 'orders', {}))).rejects.toMatchObject({
      code: 'CONFIG',
    });
  });

  it('commits effects, mark and messages of a handler together, once', async () => {
    const wanted = claim();
    const id = randomUUID();
    const outcome = await inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      await outbox.publish(tx, 'orders', {}, { id });
      return true;
    });
    expect(outcome).toBe('ran');
    expect(await ids('orders')).toContain(id);
    expect(await ids('waybill_outbox')).toContain(id);
    const never = vi.fn(async () => true);
    expect(await inbox.run(wanted, never)).toBe('duplicate');
    expect(never).not.toHaveBeenCalled();
  });

  it('rolls back effects and mark together', async () => {
    const wanted = claim();
    const id = randomUUID();
    const outcome = await inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      return false;
    });
    expect(outcome).toBe('failed');
    expect(await ids('orders')).not.toContain(id);
    expect(await inbox.run(wanted, async (tx) => library.order(tx, id).then(() => true))).toBe('ran');
    expect(await ids('orders')).toContain(id);
  });

  it('is busy while another one runs', async () => {
    const wanted = claim();
    const begun = Promise.withResolvers<void>();
    const end = Promise.withResolvers<boolean>();
    const running = inbox.run(wanted, () => {
      begun.resolve();
      return end.promise;
    });
    await begun.promise;
    expect(await inbox.run(wanted, async () => true)).toBe('busy');
    end.resolve(true);
    expect(await running).toBe('ran');
  });

  it('does not take the commit of a transaction that had failed for one', async () => {
    const wanted = claim();
    const id = randomUUID();
    const run = inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      await library.query(tx, 'SELECT 1 / 0').catch(() => {});
      return true;
    });
    await expect(run).rejects.toThrow();
    expect(await ids('orders')).not.toContain(id);
    expect(await inbox.run(wanted, async () => true)).toBe('ran');
  });

  it('does not take a failure that the handler did not wait for for a success', async () => {
    const wanted = claim();
    const id = randomUUID();
    const run = inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      library.query(tx, 'SELECT 1 / 0').catch(() => {});
      return true;
    });
    await expect(run).rejects.toThrow();
    expect(await ids('orders')).not.toContain(id);
  });

  it('does not commit twice when the handler commits', async () => {
    const run = inbox.run(claim(), async (tx) => {
      await library.query(tx, 'COMMIT');
      return true;
    });
    await expect(run).rejects.toThrow('the handler has ended the transaction itself');
    expect(await inbox.run(claim(), async () => true)).toBe('ran');
  });

  it.each(['commit', 'rollback'] as const)(
    'tells when the handler has called %s of the library, and publishes nothing more',
    async (how) => {
      if (library.ends === undefined) return;
      const id = randomUUID();
      const late = Promise.withResolvers<unknown>();
      const run = inbox.run(claim(), async (tx) => {
        await library.query(tx, 'SELECT 1');
        await library.ends?.[how](tx);
        late.resolve(await Promise.allSettled([outbox.publish(tx, 'orders', {}, { id })]));
        return true;
      });
      await expect(run).rejects.toThrow('the handler has ended the transaction itself');
      expect(await late.promise).toMatchObject([{ status: 'rejected' }]);
      expect(await ids('waybill_outbox')).not.toContain(id);
      for (let at = 0; at < 2 * connections; at++) expect(await inbox.run(claim(), async () => true)).toBe('ran');
    },
  );

  it('leaves nothing of a handler that was given up, and lets the next one in while it runs', async () => {
    const given = new AbortController();
    const wanted = claim({ signal: given.signal });
    const id = randomUUID();
    const begun = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const late = Promise.withResolvers<unknown>();
    const run = inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      begun.resolve();
      await goOn.promise;
      late.resolve(await Promise.allSettled([library.order(tx, randomUUID())]));
      return true;
    });
    await begun.promise;
    given.abort(new Error('given up'));
    await expect(run).rejects.toThrow('given up');
    const again = claim({ key: wanted.key });
    await waitFor(async () => expect(await inbox.run(again, async () => true)).toBe('ran'));
    goOn.resolve();
    expect(await late.promise).toMatchObject([{ status: 'rejected' }]);
    expect(await ids('orders')).not.toContain(id);
    // The library is none the worse for it.
    for (let at = 0; at < 2 * connections; at++) expect(await inbox.run(claim(), async () => true)).toBe('ran');
  });

  it('refuses what the handler does after its end', async () => {
    let kept: unknown;
    await inbox.run(claim(), async (tx) => {
      kept = tx;
      await library.query(tx, 'SELECT 1');
      return true;
    });
    const id = randomUUID();
    expect(await Promise.allSettled([library.order(kept, id)])).toMatchObject([{ status: 'rejected' }]);
    await expect(outbox.publish(kept, 'orders', {}, { id })).rejects.toMatchObject({ code: 'CONFIG' });
    expect(await ids('orders')).not.toContain(id);
  });

  it('survives a connection that breaks while a handler runs', async () => {
    const wanted = claim();
    const id = randomUUID();
    const run = inbox.run(wanted, async (tx) => {
      await library.order(tx, id);
      await cut();
      await wait(50);
      return true;
    });
    await expect(run).rejects.toMatchObject({ code: 'CONNECTION' });
    expect(await ids('orders')).not.toContain(id);
    await waitFor(async () => expect(await inbox.run(wanted, async () => true)).toBe('ran'));
  });

  // The Kysely of MikroORM 7.2 does.
  it.skipIf(name === 'mikro-orm')('loses no connection that breaks as its transaction begins', async () => {
    await using wire = await Wire.to(where);
    const single = await open(wire.url, 1);
    try {
      let breaks = 2;
      wire.asked = (chunk, { client, server }) => {
        if (/\b(begin|start transaction)\b/i.test(chunk.toString('latin1')) && breaks-- > 0) client.destroy();
        else server.write(chunk);
      };
      for (let at = 0; at < 2; at++) {
        const run = single.transactions.transaction(async () => {});
        await expect(run).rejects.toMatchObject({ code: 'CONNECTION' });
      }
      await single.transactions.transaction(async (tx) => single.order(tx, randomUUID()));
      expect(breaks).toBeLessThan(1);
    } finally {
      await single.close();
    }
  });

  it('says that the connection broke whatever the handler says', async () => {
    const run = library.transactions.transaction(async () => {
      await cut();
      await wait(50);
      throw new Error('something else');
    });
    await expect(run).rejects.toMatchObject({ code: 'CONNECTION' });
    const failed = library.transactions.transaction(async () => {
      throw new Error('something else');
    });
    await expect(failed).rejects.toThrow('something else');
  });

  it('runs as many handlers as its pool allows, less one', async () => {
    expect(library.transactions.maxConnections).toBe(connections);
    expect(inbox.maxConcurrency).toBe(connections - 1);
    // Several inboxes share them.
    expect(library.again()).toBe(library.transactions);
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, () =>
        inbox.run(claim(), async (tx) => {
          await library.order(tx, randomUUID());
          await library.transaction((beside) => library.query(beside, 'SELECT 1'));
          return true;
        }),
      ),
    );
    expect(outcomes).toEqual(Array.from({ length: 20 }, () => 'ran'));
  });

  it('begins nothing for what is not its own', () => {
    expect(name).toBe(library.client.name);
    expect(name).toBe(library.transactions.name);
  });
});
