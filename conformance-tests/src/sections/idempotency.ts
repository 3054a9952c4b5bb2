import { randomUUID } from 'node:crypto';
import { topic as declare, type IdempotencyStore, type Message, type Subscription } from '@waybill/core';
import { expect } from 'vitest';
import type { ContractId } from '../contract.ts';
import { openInbox, openStore, type Place, placeForTest, places, withTransactions } from '../places.ts';
import {
  AT_ONCE,
  type BehaviourOptions,
  contract,
  RECOVERY,
  type Scenario,
  settles,
  TAKE_OVER_MARGIN,
} from '../scenario.ts';

/** A test of idempotency, on each place that stores are to be tested on. `open` gives a store over the place. */
function remembers(
  id: ContractId,
  facet: string,
  run: (s: Scenario, open: () => Promise<IdempotencyStore>, place: Place) => Promise<void>,
  options?: BehaviourOptions,
): void {
  for (const given of places()) {
    const title = given.kind === 'memory' ? facet : `${facet} (${given.kind})`;
    const onPlace = async (s: Scenario): Promise<void> => {
      const { place, remove } = placeForTest(given);
      s.afterwards(remove);
      const open = async (): Promise<IdempotencyStore> => {
        const opened = await openStore(place);
        s.afterwards(() => opened[Symbol.asyncDispose]());
        return opened.it;
      };
      await run(s, open, place);
    };
    contract(id, title, onPlace, options);
  }
}

const key = 'k';
const retry = { attempts: 2, delay: 50 };

remembers(
  'IDEM-01',
  'an id that is published twice is handled once, and the duplicate acked and counted',
  async (s, open) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const record = s.recorder<string>();
    const idempotency = await open();
    const subscription = await bus.subscribe(topic, { group: 'g', idempotency }, record.handler);
    await bus.publish(topic, 'first', { id: 'same', key });
    await record.waitFor(1);
    await bus.publish(topic, 'second', { id: 'same', key });
    await bus.publish(topic, 'other', { id: 'another', key });
    await s.eventually('two to be acked, one as a duplicate', () => subscription.stats(), {
      until: ({ acked, duplicates }) => acked === 2 && duplicates === 1,
    });
    await record.nothingMore();
    expect(record.data).toEqual(['first', 'other']);
    // Acked: a member that knows nothing of duplicates does not get it either.
    await subscription.close();
    const plain = s.recorder<string>();
    await bus.subscribe(topic, { group: 'g' }, plain.handler);
    await bus.publish(topic, 'marker', { key });
    await plain.waitFor((seen) => seen.some(({ data }) => data === 'marker'));
    expect(plain.data).toEqual(['marker']);
    expect((await bus.deadLetters(topic, 'g').count()).value).toBe(0);
  },
);

remembers(
  'IDEM-01',
  "members of a group share what they remember, and the bus's store is the default",
  async (s, open) => {
    const topic = s.topicName();
    const store = await open();
    const record = s.recorder<number>();
    const buses = [await s.connect({ idempotency: store }), await s.connect({ idempotency: store })];
    const subscriptions: Subscription[] = [];
    for (const bus of buses) subscriptions.push(await bus.subscribe(topic, { group: 'g' }, record.handler));
    const publisher = await s.connect();
    const ids = Array.from({ length: 10 }, (_, at) => at);
    for (let rounds = 0; rounds < 3; rounds++) {
      await publisher.publishBatch(
        topic,
        ids.map((data) => ({ data, id: `id-${data}` })),
      );
    }
    await s.eventually(
      'all to be settled',
      () => subscriptions.map((one) => one.stats()).reduce((sum, one) => sum + one.acked + one.duplicates, 0),
      { until: (settled) => settled === 30 },
    );
    expect([...record.data].sort()).toEqual(ids);
  },
);

remembers('IDEM-01', 'a key of the user and the window decide what is a duplicate', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<{ order: string; n: number }>();
  const idempotency = {
    store: await open(),
    key: (message: Message) => (message.data as { order: string }).order,
    // Longer than two publishes and their deliveries take on a busy machine.
    window: 6_000,
  };
  const subscription = await bus.subscribe(topic, { group: 'g', idempotency }, record.handler);
  await bus.publish(topic, { order: 'a', n: 1 }, { key });
  await bus.publish(topic, { order: 'b', n: 2 }, { key });
  await s.eventually('both to be acked', () => subscription.stats().acked === 2);
  const handled = performance.now();
  await bus.publish(topic, { order: 'a', n: 3 }, { key });
  await s.eventually('a duplicate', () => subscription.stats().duplicates === 1);
  await s.eventually('the window to pass', () => performance.now() - handled > 6_100);
  await bus.publish(topic, { order: 'a', n: 4 }, { key });
  await record.waitFor(3);
  expect(record.data.map(({ n }) => n).sort()).toEqual([1, 2, 4]);
});

remembers('IDEM-01', 'a raised epoch lets a replay run again', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const store = await open();
  const record = s.recorder<number>();
  const run = async (epoch: number): Promise<void> => {
    const subscription = await bus.subscribe(topic, { group: 'g', idempotency: { store, epoch } }, record.handler);
    await bus.publish(topic, epoch, { id: 'same', key });
    await s.eventually('the message to be settled', () => subscription.stats(), {
      until: ({ acked, duplicates }) => acked + duplicates === 1,
    });
    await subscription.close();
  };
  for (const epoch of [0, 1, 1, 2]) await run(epoch);
  expect(record.data).toEqual([0, 1, 2]);
});

remembers('IDEM-02', 'a failed attempt is run again, and marked only when it succeeds', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<number>(({ attempt }) => {
    if (attempt === 1) throw new Error('not yet');
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry, idempotency: await open() }, record.handler);
  await bus.publish(topic, 1, { id: 'same', key });
  await s.eventually('the second attempt to be acked', () => subscription.stats().acked === 1);
  await bus.publish(topic, 2, { id: 'same', key });
  await s.eventually('a duplicate', () => subscription.stats().duplicates === 1);
  expect(record.seen.map(({ data, attempt }) => [data, attempt])).toEqual([
    [1, 1],
    [1, 2],
  ]);
});

remembers('IDEM-02', 'what a handler retries or rejects by itself is not marked', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>(async (message) => {
    if (message.data === 'retried' && message.attempt === 1) await message.retry({ after: 50 });
    if (message.data === 'rejected') await message.reject('no');
  });
  const idempotency = await open();
  const subscription = await bus.subscribe(topic, { group: 'g', retry, idempotency }, record.handler);
  await bus.publish(topic, 'retried', { id: 'a', key });
  await bus.publish(topic, 'rejected', { id: 'b', key });
  await s.eventually('both to be settled', () => subscription.stats(), {
    until: ({ acked, deadLettered }) => acked === 1 && deadLettered === 1,
  });
  expect(record.of('retried')).toHaveLength(2);
  // A rejected message was not handled: its redrive runs.
  expect(await bus.deadLetters(topic, 'g').redrive('all')).toBe(1);
  await record.waitFor((seen) => seen.filter(({ data }) => data === 'rejected').length === 2);
});

remembers('IDEM-02', 'a retry that a handler of an ordered topic asks for is run, and then marked', async (s, open) => {
  const topic = declare<string>(s.topicName(), { ordered: true, key: () => key });
  const bus = await s.connect();
  const record = s.recorder<string>(async (message) => {
    if (message.data === 'retried' && message.attempt === 1) await message.retry({ after: 50 });
  });
  const subscription = await bus.subscribe(topic, { group: 'g', retry, idempotency: await open() }, record.handler);
  for (const data of ['retried', 'follower', 'retried']) await bus.publish(topic, data, { id: data });
  await s.eventually('two to be acked, one as a duplicate', () => subscription.stats(), {
    until: ({ acked, duplicates }) => acked === 2 && duplicates === 1,
  });
  expect(record.data).toEqual(['retried', 'retried', 'follower']);
});

remembers('IDEM-02', 'messages of a batch are marked one by one', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const calls: string[] = [];
  const options = { group: 'g', retry, idempotency: await open(), batch: { size: 4, wait: 300 } };
  const subscription = await bus.subscribeBatch(topic, options, async (messages) => {
    for (const message of messages) {
      calls.push(`${message.id} ${message.attempt}`);
      if (message.id === 'bad' && message.attempt === 1) await message.retry({ after: 50 });
    }
  });
  const publish = (ids: readonly string[]) =>
    bus.publishBatch(
      topic,
      ids.map((id) => ({ data: id, id, key })),
    );
  await publish(['a', 'bad', 'b']);
  await s.eventually('three acks', () => subscription.stats().acked === 3);
  await publish(['a', 'bad', 'b']);
  await s.eventually('three duplicates', () => subscription.stats().duplicates === 3);
  expect(calls.sort()).toEqual(['a 1', 'b 1', 'bad 1', 'bad 2']);
});

remembers(
  'IDEM-02',
  'a message whose member is cut off while handling it is run again',
  async (s, open) => {
    const topic = s.topicName();
    const store = await open();
    const options = { group: 'g', lease: s.lease, idempotency: store };
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const lost = s.recorder<number>(async ({ signal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      throw signal.reason;
    });
    await bus.subscribe(topic, options, lost.handler);
    const outside = await s.connect();
    await outside.publish(topic, 1, { id: 'same' });
    await lost.waitFor(1);
    await link.cut('blackhole');
    const heir = s.recorder<number>();
    const subscription = await outside.subscribe(topic, options, heir.handler);
    await heir.waitFor(1, s.takeOver + RECOVERY);
    await s.eventually('an ack', () => subscription.stats().acked === 1);
  },
  { deadly: true },
);

remembers('IDEM-03', 'every group and every topic remembers for itself', async (s, open) => {
  const [topic, other] = [s.topicName(), s.topicName()];
  const bus = await s.connect();
  const store = await open();
  const record = s.recorder<number>();
  for (const group of ['a', 'b']) await bus.subscribe(topic, { group, idempotency: store }, record.handler);
  await bus.subscribe(other, { group: 'a', idempotency: store }, record.handler);
  await bus.publish(topic, 1, { id: 'same' });
  await bus.publish(other, 1, { id: 'same' });
  await record.waitFor(3);
  await record.nothingMore();
  const places = record.seen.map((one) => `${one.topic}/${one.group}`).sort();
  expect(places).toEqual([`${topic}/a`, `${topic}/b`, `${other}/a`].sort());
});

remembers(
  'IDEM-04',
  'of two that hold one id at once one runs, and the other is a duplicate later',
  async (s, open) => {
    const topic = s.topicName();
    const store = await open();
    const gate = Promise.withResolvers<void>();
    s.afterwards(() => gate.resolve());
    const record = s.recorder<number>(() => gate.promise);
    const bus = await s.connect();
    // One attempt is all there is: were giving back to cost one, the second would be dead.
    const options = { group: 'g', concurrency: 4, idempotency: store, retry: { attempts: 1 } };
    const subscription = await bus.subscribe(topic, options, record.handler);
    for (const data of [1, 2]) await bus.publish(topic, data, { id: 'same' });
    await s.eventually('the second to be given back more than once', () => subscription.stats().givenBack >= 2);
    expect(record.count).toBe(1);
    gate.resolve();
    await s.eventually('one ack and one duplicate', () => subscription.stats(), {
      until: ({ acked, duplicates }) => acked === 1 && duplicates === 1,
    });
    await record.nothingMore();
    expect(record.count).toBe(1);
    expect(subscription.stats()).toMatchObject({ retried: 0, deadLettered: 0 });
  },
);

remembers(
  'IDEM-04',
  'when the one that runs fails, the other is the next runner, with its attempts untouched',
  async (s, open) => {
    const topic = s.topicName();
    const store = await open();
    const gate = Promise.withResolvers<void>();
    s.afterwards(() => gate.resolve());
    const record = s.recorder<number>(async (message, call) => {
      if (call > 1) return;
      await gate.promise;
      await message.reject('this copy is bad');
    });
    const subscriptions: Subscription[] = [];
    for (const bus of [await s.connect(), await s.connect()]) {
      const options = { group: 'g', concurrency: 2, idempotency: store, retry: { attempts: 2, delay: 50 } };
      subscriptions.push(await bus.subscribe(topic, options, record.handler));
    }
    const publisher = await s.connect();
    await publisher.publish(topic, 1, { id: 'same' });
    await record.waitFor(1);
    await publisher.publish(topic, 2, { id: 'same' });
    const sum = (count: 'givenBack' | 'acked'): number =>
      subscriptions.reduce((all, one) => all + one.stats()[count], 0);
    await s.eventually('the second to be given back', () => sum('givenBack') > 0);
    gate.resolve();
    await s.eventually('the second to be acked', () => sum('acked') === 1);
    expect(record.seen.map(({ data, attempt }) => [data, attempt])).toEqual([
      [1, 1],
      [2, 1],
    ]);
  },
);

remembers(
  'IDEM-04',
  'the claim of a dead member ends with it',
  async (s, _open, place) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease };
    // A member that lives in this process does not die with its claims: it has a store of its own. Another process and we
    // need a place that both have.
    const { place: shared, remove } = placeForTest(place.kind === 'memory' ? { kind: 'sqlite' } : place);
    s.afterwards(remove);
    const store: Place = s.broker.inProcess ? { kind: 'memory' } : shared;
    const heirs = await openStore(s.broker.inProcess ? place : shared);
    s.afterwards(() => heirs[Symbol.asyncDispose]());
    const member = await s.member('consumer', { topic, options, store, work: 'hold' });
    await member.waitFor('subscribed');
    const bus = await s.connect();
    await bus.publish(topic, 1, { id: 'same' });
    await member.waitFor('received');
    await member.kill();
    const heir = s.recorder<number>();
    const subscription = await bus.subscribe(topic, { ...options, idempotency: heirs.it }, heir.handler);
    // The claim may end a moment after the message has come, which then comes again by way of the delays: these may have
    // to be taken over too.
    await heir.waitFor(1, s.takeOver + TAKE_OVER_MARGIN);
    await bus.publish(topic, 2, { id: 'same' });
    await s.eventually('a duplicate', () => subscription.stats().duplicates === 1);
    expect(heir.data).toEqual([1]);
  },
  { deadly: true },
);

/** Tests of IDEM-05, on each place with transactions. */
for (const given of withTransactions(places())) {
  const on = given.url === undefined ? '' : ` (${given.kind})`;
  const begin = async (s: Scenario) => {
    const { place, remove } = placeForTest(given);
    s.afterwards(remove);
    const opened = await openInbox(place);
    s.afterwards(() => opened[Symbol.asyncDispose]());
    const { database } = opened.it;
    const table = `effects_${randomUUID().replaceAll('-', '')}`;
    await database.run(`CREATE TABLE ${table} (id VARCHAR(100) NOT NULL)`);
    const effects = async (): Promise<string[]> =>
      (await database.run(`SELECT id FROM ${table}`)).rows.map((row) => String(row['id']));
    const insert = (tx: unknown, id: string) =>
      opened.it.client.runner(tx).run(`INSERT INTO ${table} (id) VALUES ('${id}')`);
    return { ...opened.it, place, table, effects, insert };
  };

  contract('IDEM-05', `what a handler wrote is there once it has succeeded, and only then${on}`, async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const { inbox, effects, insert } = await begin(s);
    const options = { group: 'g', retry, inbox };
    const subscription = await bus.subscribe(topic, options, async (message: Message, tx) => {
      await insert(tx, `${message.id}-${message.attempt}`);
      if (message.attempt === 1) throw new Error('not yet');
    });
    await bus.publish(topic, 1, { id: 'a', key });
    await s.eventually('the second attempt to be acked', () => subscription.stats().acked === 1);
    expect(await effects()).toEqual(['a-2']);
    await bus.publish(topic, 1, { id: 'a', key });
    await s.eventually('a duplicate', () => subscription.stats().duplicates === 1);
    expect(await effects()).toEqual(['a-2']);
  });

  contract('IDEM-05', `the ack follows the commit${on}`, async (s) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const { inbox, effects, insert } = await begin(s);
    const gate = Promise.withResolvers<void>();
    s.afterwards(() => gate.resolve());
    const held: typeof inbox = {
      maxConcurrency: 1,
      run: async (claim, work) => {
        const outcome = await inbox.run(claim, work);
        await gate.promise;
        return outcome;
      },
    };
    const subscription = await bus.subscribe(topic, { group: 'g', inbox: held }, async (message: Message, tx) => {
      await insert(tx, message.id);
      await message.ack();
    });
    await bus.publish(topic, 1, { id: 'a', key });
    await s.eventually('the commit', async () => (await effects()).length === 1);
    expect(subscription.stats()).toMatchObject({ acked: 0, inFlight: 1 });
    gate.resolve();
    await s.eventually('the ack', () => subscription.stats().acked === 1);
  });

  contract(
    'IDEM-05',
    `each effect is there once, whenever members are killed${on}`,
    async (s) => {
      const topic = s.topicName();
      const bus = await s.connect();
      const { place, table, effects, database } = await begin(s);
      const options = { group: 'g', lease: s.lease, concurrency: place.kind === 'sqlite' ? 1 : 3 };
      const join = async () => {
        const member = await s.member('bookkeeper', { topic, options, place, table });
        await member.waitFor('subscribed');
        return member;
      };
      const members = [await join(), await join()];
      const ids = Array.from({ length: 150 }, (_, n) => `id-${n}`);
      // Each twice, so that a mark without its effect, or an effect without its mark, shows as well.
      for (let copies = 0; copies < 2; copies++) {
        await bus.publishBatch(
          topic,
          ids.map((id) => ({ data: id, id, key: id })),
        );
      }
      const count = async (): Promise<number> =>
        Number((await database.run(`SELECT COUNT(*) AS n FROM ${table}`)).rows[0]?.['n']);
      for (const before of [10, 40, 80]) {
        const within = s.takeOver + RECOVERY;
        await s.eventually(`${before} effects`, async () => (await count()) >= before, { within });
        await members.shift()?.kill();
        members.push(await join());
      }
      await s.eventually('all effects', async () => new Set(await effects()).size === ids.length, {
        within: s.takeOver + 2 * RECOVERY,
      });
      await s.eventually('nothing to be left', () => bus.lag(topic, 'g'), {
        until: ({ waiting, delayed, inFlight }) => waiting + delayed + inFlight === 0,
        within: s.takeOver + 2 * RECOVERY,
      });
      expect((await effects()).sort()).toEqual(ids.sort());
      expect((await bus.deadLetters(topic, 'g').count()).value).toBe(0);
    },
    { deadly: true, timeout: (lease) => 120_000 + 8 * lease },
  );
}

/** A store that is away until it is told to come back. */
function fragileStore(inner: IdempotencyStore): IdempotencyStore & { away: boolean; asked: number } {
  return {
    away: true,
    asked: 0,
    run(claim, work) {
      this.asked++;
      if (this.away) return Promise.reject(new Error('the store is on holiday'));
      return inner.run(claim, work);
    },
  };
}

remembers(
  'IDEM-06',
  'while the store is away nothing is handled, no attempt is used, and the health says why',
  async (s, open) => {
    const topic = s.topicName();
    const bus = await s.connect();
    const store = fragileStore(await open());
    const record = s.recorder<number>();
    // One attempt is all there is: were an absence to cost one, the messages would be dead.
    const options = { group: 'g', idempotency: store, retry: { attempts: 1 } };
    const subscription = await bus.subscribe(topic, options, record.handler);
    for (const data of [1, 2, 3]) await bus.publish(topic, data);
    await s.eventually('all to be given back, some of them twice', () => subscription.stats().givenBack > 3);
    const health = await bus.health();
    expect(health.status).toBe('degraded');
    expect(health.subscriptions[0]?.error).toMatch('the store is on holiday');
    expect(record.count).toBe(0);
    // Given back with a delay: a store that is away is not asked without end.
    const asked = store.asked;
    await record.nothingMore();
    expect(store.asked - asked).toBeLessThanOrEqual(9);

    store.away = false;
    await record.waitFor(3);
    await s.eventually('all to be acked', () => subscription.stats().acked === 3);
    expect(record.seen.map(({ attempt }) => attempt)).toEqual([1, 1, 1]);
    expect(subscription.stats().deadLettered).toBe(0);
    await s.eventually('the health to be good again', async () => (await bus.health()).status === 'up');
  },
);

remembers('IDEM-06', 'a store that fails after the handler leaves the message unacked', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const inner = await open();
  let failing = true;
  const store: IdempotencyStore = {
    async run(claim, work) {
      if (!failing) return await inner.run(claim, work);
      await work({});
      throw new Error('the mark could not be written');
    },
  };
  const record = s.recorder<number>();
  const subscription = await bus.subscribe(
    topic,
    { group: 'g', idempotency: store, retry: { attempts: 1 } },
    record.handler,
  );
  await bus.publish(topic, 1);
  await s.eventually('the message to be given back', () => subscription.stats().givenBack === 1);
  expect(subscription.stats().acked).toBe(0);
  failing = false;
  await s.eventually('the message to be acked', () => subscription.stats().acked === 1);
  expect(record.seen.map(({ attempt }) => attempt)).toEqual([1, 1]);
});

const text = (data: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(data));

remembers('IDEM-07', 'a foreign message is known by its place, or needs a key', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>();
  const options = { group: 'g', idempotency: await open(), retry: { attempts: 1 } };
  const subscription = await bus.subscribe(topic, options, record.handler);
  // The same body twice: two messages, which nothing but their places tells apart.
  for (let copies = 0; copies < 2; copies++) {
    await s.foreign.publish(topic, { body: text('same'), contentType: 'application/json', key });
  }
  await s.eventually('both to be settled', () => subscription.stats(), {
    until: ({ acked, deadLettered }) => acked + deadLettered === 2,
  });
  if (record.count > 0) {
    expect(record.data).toEqual(['same', 'same']);
    expect(new Set(record.seen.map(({ message }) => message.position)).size).toBe(2);
    expect(record.seen.map(({ message }) => typeof message.position)).toEqual(['string', 'string']);
    expect(subscription.stats()).toMatchObject({ acked: 2, duplicates: 0, deadLettered: 0 });
    return;
  }
  // Nothing identifies them here: they are set aside, with the reason and the way out.
  const letters = await s.eventually('two dead letters', () => bus.deadLetters(topic, 'g').peek(), {
    until: ({ length }) => length === 2,
  });
  expect(letters.map(({ reason, attempts }) => [reason, attempts])).toEqual([
    ['invalid', 0],
    ['invalid', 0],
  ]);
  expect(letters[0]?.error?.message).toMatch(/idempotency\.key/);
});

remembers(
  'IDEM-07',
  'a foreign message is not handled again after its handler succeeded and its ack was lost',
  async (s, open) => {
    const topic = s.topicName();
    const store = await open();
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const cut = Promise.withResolvers<void>();
    const record = s.recorder<string>((_, call) => (call === 1 ? cut.promise : undefined));
    const idempotency = { store, key: (message: Message) => message.position ?? String(message.data) };
    const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease, idempotency }, record.handler);
    await s.foreign.publish(topic, { body: text('foreign'), contentType: 'application/json', key });
    await record.waitFor(1);
    await link.cut('reset');
    cut.resolve();
    await s.eventually('the handler to end', () => record.running === 0);
    await link.mend();
    const outside = await s.connect();
    await outside.publish(topic, 'marker', { key });
    await record.waitFor((seen) => seen.some(({ data }) => data === 'marker'), RECOVERY + s.takeOver);
    await record.nothingMore();
    expect(record.data).toEqual(['foreign', 'marker']);
    expect(subscription.stats().deadLettered).toBe(0);
  },
  { deadly: true },
);

remembers('IDEM-07', 'with a key of the user foreign messages are told apart by it', async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>();
  const idempotency = { store: await open(), key: (message: Message) => String(message.data) };
  const subscription = await bus.subscribe(topic, { group: 'g', idempotency }, record.handler);
  for (const data of ['a', 'b', 'a']) {
    await s.foreign.publish(topic, { body: text(data), contentType: 'application/json', key });
  }
  await s.eventually('all to be settled', () => subscription.stats(), {
    until: ({ acked, duplicates }) => acked === 2 && duplicates === 1,
  });
  expect([...record.data].sort()).toEqual(['a', 'b']);
});

remembers('IDEM-07', "unidentified: 'handle' handles what nothing identifies", async (s, open) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const record = s.recorder<string>();
  const idempotency = { store: await open(), unidentified: 'handle' as const };
  const subscription = await bus.subscribe(topic, { group: 'g', idempotency }, record.handler);
  for (const data of ['a', 'b']) {
    await s.foreign.publish(topic, { body: text(data), contentType: 'application/json', key });
  }
  await record.waitFor(2, AT_ONCE + RECOVERY);
  await s.eventually('both to be acked', () => subscription.stats().acked === 2);
  expect([...record.data].sort()).toEqual(['a', 'b']);
  // Where the broker has positions they are known by those.
  const unknown = record.seen.filter(({ message }) => message.position === undefined);
  expect(subscription.stats().unidentified).toBe(unknown.length);
  await settles('close', subscription.close());
});
