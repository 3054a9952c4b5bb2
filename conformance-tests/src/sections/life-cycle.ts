import { inspect } from 'node:util';
import { type Bus, topic as declare, WaybillError } from '@waybill/core';
import { expect } from 'vitest';
import { z } from 'zod';
import {
  doubles,
  failure,
  failureWith,
  gate,
  lostAckWatch,
  publishAll,
  range,
  sorted,
  steadyLease,
} from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY, type Scenario, settles } from '../scenario.ts';

contract('LIFE-01', 'finishes what runs, gives back what waits at once, and redelivers nothing acked', async (s) => {
  const topic = s.topicName();
  const [leaving, staying, publisher] = [await s.connect(), await s.connect(), await s.connect()];
  const first = s.recorder<number>(() => new Promise((resolve) => setTimeout(resolve, 400)));
  const second = s.recorder<number>();
  // The lease is long, so that only giving back can make the others quick.
  const options = { group: 'g', lease: Math.min(60_000, s.capabilities.lease.max), concurrency: 2 };
  const subscription = await leaving.subscribe(topic, options, first.handler);
  await publishAll(publisher, topic, range(1, 60));
  await first.waitFor(2);
  await leaving.close();
  expect(first.running).toBe(0);
  expect(subscription.state).toBe('closed');
  await settles('the subscription has closed', subscription.closed, AT_ONCE);
  await settles('the bus has closed', leaving.closed, AT_ONCE);
  await staying.subscribe(topic, options, second.handler);
  const handled = first.count;
  await second.waitFor(60 - handled, AT_ONCE + 3_000);
  await second.nothingMore();
  expect(first.count).toBe(handled);
  expect(sorted([...first.data, ...second.data])).toEqual(range(1, 60));
  expect(second.seen.filter(({ attempt }) => attempt !== 1)).toEqual([]);
});

contract('LIFE-01', 'redelivers nothing acked when the leases of the member that left have ended', async (s) => {
  const topic = s.topicName();
  const [leaving, staying] = [await s.connect(), await s.connect()];
  const held = gate();
  s.afterwards(held.open);
  // Half of the acks are on their way when it closes, the others follow while it does.
  const first = s.recorder<number>(async ({ data }) => {
    await held.opened;
    if (data % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 200));
  });
  const options = { group: 'g', lease: steadyLease(s), concurrency: 16 };
  await leaving.subscribe(topic, options, first.handler);
  await publishAll(staying, topic, range(1, 16));
  await first.waitFor(16);
  held.open();
  await new Promise((resolve) => setImmediate(resolve));
  await leaving.close();
  const second = s.recorder<number>();
  await staying.subscribe(topic, options, second.handler);
  await staying.publish(topic, 17);
  await second.waitFor((seen) => seen.some(({ data }) => data === 17));
  await second.nothingMore(lostAckWatch(s, options.lease));
  expect(second.data).toEqual([17]);
  expect(sorted(first.data)).toEqual(range(1, 16));
});

contract('LIFE-01', 'flushes publishes that are under way', async (s) => {
  const topic = s.topicName();
  const [bus, publisher] = [await s.connect(), await s.connect()];
  const recorder = s.recorder<number>();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  const publishes = range(1, 500).map((data) => publisher.publish(topic, data));
  await publisher.close();
  await Promise.all(publishes);
  await recorder.waitFor(500);
  expect(sorted(recorder.data)).toEqual(range(1, 500));
});

contract('LIFE-01', 'lets the process end by itself', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const member = await s.member('consumer', { topic, options: { group: 'g' }, work: 200 });
  await member.waitFor('subscribed');
  await publishAll(bus, topic, range(1, 3));
  await member.waitFor('received');
  // The program calls nothing but bus.close(): what keeps the process after that is an open handle.
  await member.close();
  const ended = performance.now();
  expect(await member.ended).toBe(0);
  const [closed] = member.told('closed');
  expect(closed).toBeDefined();
  // One that lives for a while, such as a timer, keeps every deployment waiting.
  expect(ended - (closed?.at ?? 0), 'milliseconds from close to the end of the process').toBeLessThan(AT_ONCE);
  expect(member.told('aborted')).toEqual([]);
});

contract('LIFE-01', 'can be closed twice, and by disposal', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  {
    await using subscription = await bus.subscribe(topic, { group: 'g' }, () => {});
    expect(subscription.state).toBe('running');
  }
  await Promise.all([bus.close(), bus.close()]);
  await bus.close();
  await bus.closed;
});

contract('LIFE-02', 'returns in time, aborts the handlers, and leaves their messages to the lease', async (s) => {
  const topic = s.topicName();
  const [bus, other] = [await s.connect(), await s.connect()];
  const aborted: unknown[] = [];
  const held = gate();
  s.afterwards(held.open);
  const stuck = s.recorder<number>((message) => {
    message.signal.addEventListener('abort', () => aborted.push(message.signal.reason));
    return held.opened;
  });
  const options = { group: 'g', lease: s.lease };
  await bus.subscribe(topic, options, stuck.handler);
  await publishAll(bus, topic, range(1, 3));
  await stuck.waitFor(3);
  const start = performance.now();
  await bus.close({ timeout: 500 });
  const took = performance.now() - start;
  expect(took).toBeGreaterThanOrEqual(450);
  expect(took).toBeLessThan(500 + AT_ONCE);
  expect(aborted).toHaveLength(3);
  const recorder = s.recorder<number>();
  await other.subscribe(topic, options, recorder.handler);
  await recorder.waitFor(3, s.takeOver + RECOVERY);
  expect(sorted(recorder.data)).toEqual([1, 2, 3]);
  held.open();
  await recorder.nothingMore();
});

/** Publishes the numbers from 1 on until it is stopped; resolves with those that were confirmed. */
function confirmedOn(s: Scenario, bus: Bus, topic: string): () => Promise<number[]> {
  let stopped = false;
  const confirmed: number[] = [];
  const running = (async (): Promise<void> => {
    for (let n = 1; !stopped; n++) {
      // In flight side by side: an outage must not hide behind the one publish that waits for it.
      bus.publish(topic, n).then(
        () => confirmed.push(n),
        () => {},
      );
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  const stop = async (): Promise<number[]> => {
    stopped = true;
    await running;
    return confirmed;
  };
  s.afterwards(stop);
  return stop;
}

/** Messages flow, `outage` happens and ends; then all that was confirmed must have arrived and new ones flow. */
async function survives(s: Scenario, bus: Bus, outage: () => Promise<void>): Promise<void> {
  const topic = s.topicName();
  const recorder = s.recorder<number>();
  const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease }, recorder.handler);
  const stop = confirmedOn(s, bus, topic);
  await recorder.waitFor(20);
  await outage();
  const back = performance.now();
  await s.eventually('publishing works again', () => settles('a publish', bus.publish(topic, -1)), {
    within: RECOVERY,
  });
  await recorder.waitFor((seen) => seen.some(({ data }) => data === -1), RECOVERY + s.takeOver);
  expect(performance.now() - back).toBeLessThan(RECOVERY + s.takeOver);
  const confirmed = await stop();
  await s.eventually(
    'every confirmed message is handled',
    () => confirmed.filter((data) => !recorder.data.includes(data)),
    { within: RECOVERY + s.takeOver, until: (missing) => missing.length === 0 },
  );
  await s.eventually('the subscription runs', () => subscription.state, { until: (state) => state === 'running' });
  await s.eventually('the bus is up', async () => (await bus.health()).status, { until: (status) => status === 'up' });
}

contract(
  'LIFE-03',
  'goes on after a reset of the network',
  async (s) => {
    const link = await s.network();
    await survives(s, await s.connect({ to: link }), async () => {
      await link.cut('reset');
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await link.mend();
    });
  },
  { deadly: true },
);

contract(
  'LIFE-03',
  'goes on after a network in which nothing got through, longer than the lease',
  async (s) => {
    const link = await s.network();
    await survives(s, await s.connect({ to: link }), async () => {
      await link.cut('blackhole');
      await new Promise((resolve) => setTimeout(resolve, 2 * s.lease));
      await link.mend();
    });
  },
  { deadly: true, timeout: (lease) => 90_000 + 6 * lease },
);

contract(
  'LIFE-03',
  'goes on after many short interruptions',
  async (s) => {
    const link = await s.network();
    await survives(s, await s.connect({ to: link }), async () => {
      for (const wait of [10, 50, 100, 300, 20]) {
        await link.cut('reset');
        await link.mend();
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    });
  },
  { deadly: true },
);

contract(
  'LIFE-03',
  'finds the messages again whose delivery was lost with the connection',
  async (s) => {
    const link = await s.network();
    const [bus, consumer] = [await s.connect(), await s.connect({ to: link })];
    const topic = s.topicName();
    const recorder = s.recorder<number>();
    await consumer.subscribe(topic, { group: 'g', lease: s.lease }, recorder.handler);
    await bus.publish(topic, 0);
    await recorder.waitFor(1);
    await link.loseReplies();
    // The broker hands these out, and nobody gets them.
    await publishAll(bus, topic, range(1, 10));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(recorder.count).toBe(1);
    await link.cut('reset');
    await link.mend();
    await recorder.waitFor((seen) => new Set(seen.map(({ data }) => data)).size === 11, RECOVERY + s.takeOver);
    // Nobody has tried them before.
    expect(recorder.seen.filter(({ attempt }) => attempt !== 1)).toEqual([]);
  },
  { deadly: true },
);

contract(
  'LIFE-03',
  'goes on after a restart of the broker',
  async (s) => {
    await survives(s, await s.connect(), () => s.broker.restart());
  },
  { disruptive: true, timeout: (lease) => 150_000 + 6 * lease },
);

contract(
  'LIFE-03',
  'goes on after a power cut of the broker that lasts',
  async (s) => {
    await survives(s, await s.connect(), async () => {
      await s.broker.stop();
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      await s.broker.start();
    });
  },
  { disruptive: true, timeout: (lease) => 150_000 + 6 * lease },
);

contract(
  'LIFE-04',
  'rejects in time, naming the cause and the target but no secret',
  async (s) => {
    const doors = await s.broker.doors.closed();
    for (const door of doors) {
      const start = performance.now();
      const error = await failure(() => s.connect({ to: door.target, connectTimeout: 4_000 }));
      const took = performance.now() - start;
      const text = inspect(error, { depth: 10, showHidden: true });
      expect(
        WaybillError.is(error, 'CONNECTION') || WaybillError.is(error, 'CONNECT_TIMEOUT'),
        `${door.what}: ${text}`,
      ).toBe(true);
      expect((error as WaybillError).adapter, door.what).toBe(s.adapter.name);
      expect((error as Error).message, door.what).toMatch(door.cause);
      expect((error as Error).message, door.what).toContain(door.names);
      if (door.secret !== undefined) expect(text, door.what).not.toContain(door.secret);
      // What no second try can mend is told at once.
      expect(took, door.what).toBeLessThan(door.final ? AT_ONCE + 500 : 4_000 + AT_ONCE);
    }
  },
  { timeout: () => 120_000 },
);

contract('LIFE-05', 'refuses every use after close', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const subscription = await bus.subscribe(topic, { group: 'g' }, () => {});
  const letters = bus.deadLetters(topic, 'g');
  await subscription.close();
  await failureWith('CLOSED', () => subscription.pause());
  await failureWith('CLOSED', () => subscription.resume());
  await bus.close();
  const uses: Record<string, () => unknown> = {
    publish: () => bus.publish(topic, 1),
    subscribe: () => bus.subscribe(topic, { group: 'h' }, () => {}),
    subscribeBatch: () => bus.subscribeBatch(topic, { group: 'h', batch: { size: 2 } }, () => {}),
    messages: () => bus.messages(topic, { group: 'h' }),
    lag: () => bus.lag(topic, 'g'),
    seek: () => bus.seek(topic, 'g', 'latest'),
    provision: () => bus.provision([{ topic, groups: ['h'] }]),
    removeGroup: () => bus.removeGroup(topic, 'g'),
    count: () => letters.count(),
    peek: () => letters.peek(),
    redrive: () => letters.redrive('all'),
    purge: () => letters.purge('all'),
  };
  for (const [use, call] of Object.entries(uses)) {
    await failureWith('CLOSED', call).catch((error: unknown) => {
      throw new Error(`${use}: ${error}`);
    });
  }
  const results = await bus
    .publishBatch(topic, [{ data: 1 }])
    .catch((error: unknown) => [{ ok: false as const, error }]);
  expect(results.every((result) => !result.ok && WaybillError.is(result.error, 'CLOSED'))).toBe(true);
});

contract('LIFE-06', 'is up, tells each subscription, and leaves no trace', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  expect(await bus.health()).toEqual({ status: 'up', subscriptions: [] });
  const subscription = await bus.subscribe(topic, { group: 'g' }, () => {});
  const names = async (): Promise<readonly string[]> => [...(await s.foreign.namesWith(topic))].sort();
  const before = await names();
  for (const _ of range(1, 3)) {
    const health = await bus.health();
    expect(health.status).toBe('up');
    expect(health.subscriptions).toEqual([{ topic, group: 'g', state: 'running' }]);
  }
  expect(await names()).toEqual(before);
  await subscription.pause();
  expect((await bus.health()).subscriptions).toMatchObject([{ topic, group: 'g', state: 'paused' }]);
  await subscription.close();
  expect((await bus.health()).subscriptions).toEqual([]);
});

contract(
  'LIFE-06',
  'is not up without the broker, says why, and is up again after it',
  async (s) => {
    const link = await s.network();
    const bus = await s.connect({ to: link });
    const topic = s.topicName();
    const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease }, () => {});
    await link.cut('reset');
    const health = await s.eventually('the bus is not up', () => bus.health(), {
      until: ({ status, subscriptions }) => status !== 'up' && subscriptions[0]?.state === 'recovering',
    });
    expect(health.reason).toMatch(/./);
    expect(health.subscriptions[0]?.error).toMatch(/./);
    expect(subscription.state).toBe('recovering');
    await link.mend();
    await s.eventually('the bus is up', () => bus.health(), {
      within: RECOVERY,
      until: ({ status, subscriptions }) => status === 'up' && subscriptions[0]?.state === 'running',
    });
  },
  { deadly: true },
);

contract('LIFE-06', 'degrades when a subscription ends by itself, whose closed then rejects', async (s) => {
  const name = s.topicName();
  const bus = await s.connect();
  const topic = declare(name, { schema: z.object({ total: z.number() }) });
  const subscription = await bus.subscribe(topic, { group: 'g', invalid: 'stop' }, () => {});
  await bus.subscribe(name, { group: 'other' }, () => {});
  await bus.publish(name, 'no order');
  const error = await failure(() => settles('the subscription ends', subscription.closed));
  expect(WaybillError.is(error)).toBe(true);
  const health = await bus.health();
  expect(health.status).toBe('degraded');
  const ended = health.subscriptions.find(({ group }) => group === 'g');
  expect(ended?.state).toBe('failed');
  expect(ended?.error).toMatch(/./);
  expect(health.subscriptions.find(({ group }) => group === 'other')?.state).toBe('running');
});

for (const part of ['topic', 'group'] as const) {
  contract(
    'LIFE-07',
    `restores the ${part} that disappears under a subscription, or says so`,
    async (s) => {
      const topic = s.topicName();
      // What stands for a topic may be shared by all topics of a prefix.
      const prefix = `${s.topicName('own')}-`;
      const bus = await s.connect({ namePrefix: prefix });
      const recorder = s.recorder<number>();
      const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease }, recorder.handler);
      let ended: unknown;
      subscription.closed.catch((error: unknown) => {
        ended = error;
      });
      await bus.publish(topic, 0);
      await recorder.waitFor(1);
      await s.foreign.remove(part, { topic, group: 'g', prefix });
      let n = 0;
      await s.eventually(
        'new messages arrive, or the subscription has ended with an error',
        async () => {
          if (ended !== undefined) return true;
          await bus.publish(topic, ++n);
          return recorder.count > 1;
        },
        { within: RECOVERY + s.takeOver },
      );
      if (ended !== undefined) expect(WaybillError.is(ended)).toBe(true);
      // A spin shows in what is logged.
      expect(s.logs.filter(({ level }) => level !== 'debug').length).toBeLessThan(50);
    },
    { timeout: (lease) => 90_000 + 4 * lease },
  );
}

contract('LIFE-07', 'loses no message when the dead letters disappear', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect();
  const recorder = s.recorder<string>((message) => message.reject('as told'));
  const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease }, recorder.handler);
  let ended: unknown;
  subscription.closed.catch((error: unknown) => {
    ended = error;
  });
  await s.foreign.remove('dead-letters', { topic, group: 'g' });
  await bus.publish(topic, 'm');
  await recorder.waitFor(1);
  await s.eventually(
    'the dead letter stands there, or the subscription has ended with an error',
    async () => {
      if (ended !== undefined) return true;
      return (await bus.deadLetters(topic, 'g').count()).value === 1;
    },
    { within: RECOVERY + s.takeOver },
  );
  expect(s.logs.filter(({ level }) => level !== 'debug').length).toBeLessThan(50);
});

contract('LIFE-07', 'reports a topology that may not be created', async (s) => {
  const topic = s.topicName();
  const [maker, bus] = [await s.connect(), await s.connect({ topology: 'verify' })];
  await maker.provision([{ topic, groups: ['g'] }]);
  const recorder = s.recorder<number>();
  const subscription = await bus.subscribe(topic, { group: 'g', lease: s.lease }, recorder.handler);
  await maker.publish(topic, 0);
  await recorder.waitFor(1);
  await s.foreign.remove('group', { topic, group: 'g' });
  const error = await failure(() => settles('the subscription ends', subscription.closed, RECOVERY + s.takeOver));
  expect(WaybillError.is(error), String(error)).toBe(true);
  expect((error as Error).message).toContain(topic);
  expect(await s.foreign.exists('group', { topic, group: 'g' })).toBe(false);
  expect(doubles(recorder.data)).toEqual([]);
});
