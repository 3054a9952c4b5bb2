import { topic as declare, WaybillError } from '@waybill/core';
import { expect } from 'vitest';
import { failure, failureWith } from '../helpers.ts';
import { contract } from '../scenario.ts';

contract('CFG-01', 'opens from a URL alone', async (s) => {
  const topic = s.topicName();
  const bus = await s.connect({ to: s.broker.url });
  const recorder = s.recorder();
  await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  await bus.publish(topic, 'through a URL');
  await recorder.waitFor(1);
});

contract('CFG-01', 'rejects unknown URLs, parameters and options by name', async (s) => {
  const topic = s.topicName();
  await failureWith('CONFIG', () => s.connect({ to: s.broker.doors.unknownParameter }), { message: /nonsense/ });
  await failureWith('CONFIG', () => s.connect({ to: 'nonsense://localhost' }), { message: /nonsense/ });
  await failureWith('CONFIG', () => s.connect({ nonsense: 1 } as never), { message: /nonsense/ });
  const bus = await s.connect();
  const handler = (): void => {};
  const nonsense = { nonsense: 1 };
  const broker = { [s.adapter.name]: nonsense };
  const calls: Record<string, () => unknown> = {
    'a topic option': () => declare(topic, nonsense as never),
    'a subscribe option': () => bus.subscribe(topic, { group: 'g', nonsense: 1 } as never, handler),
    'a retry option': () => bus.subscribe(topic, { group: 'g', retry: nonsense as never }, handler),
    'a subscribe option of the adapter': () => bus.subscribe(topic, { group: 'g', broker }, handler),
    'a publish option of the adapter': () => bus.publish(topic, 1, { broker }),
    'a topic option of the adapter': () => bus.provision([{ topic: declare(topic, { broker }), groups: ['g'] }]),
  };
  for (const [what, call] of Object.entries(calls)) {
    const error = await failure(call).catch((problem: unknown) => {
      throw new Error(`${what}: ${problem}`);
    });
    expect(WaybillError.is(error, 'CONFIG') || WaybillError.is(error, 'INVALID_MESSAGE'), `${what}: ${error}`).toBe(
      true,
    );
    expect((error as Error).message, what).toContain('nonsense');
  }
  // What is meant for another broker is none of this one's business.
  await bus.publish(topic, 1, { broker: { 'some-other-broker': nonsense } });
});

contract('CFG-02', 'lists all that is missing in one error, and creates nothing', async (s) => {
  const [one, two] = [s.topicName('one'), s.topicName('two')];
  const bus = await s.connect({ topology: 'verify' });
  const error = await failureWith('CONFIG', () =>
    bus.provision([
      { topic: one, groups: ['g'] },
      { topic: two, groups: ['h'] },
    ]),
  );
  for (const name of [one, two]) expect(error.message).toContain(name);
  await failureWith('CONFIG', () => bus.subscribe(one, { group: 'g' }, () => {}), { message: new RegExp(one) });
  for (const name of [one, two]) {
    expect(await s.foreign.namesWith(name), `what stands on the broker for ${name}`).toEqual([]);
  }
});

contract('CFG-02', 'lists a group that is missing on a topic that stands', async (s) => {
  const topic = s.topicName();
  const [maker, bus] = [await s.connect(), await s.connect({ topology: 'verify' })];
  await maker.provision([{ topic, groups: ['stands'] }]);
  const error = await failureWith('CONFIG', () => bus.provision([{ topic, groups: ['stands', 'is-missing'] }]));
  expect(error.message).toContain('is-missing');
  expect(error.message).not.toContain('stands');
  expect(await s.foreign.exists('group', { topic, group: 'is-missing' })).toBe(false);
});

for (const topology of ['verify', 'none'] as const) {
  contract('CFG-02', `works with ${topology} on what has been created`, async (s) => {
    const topic = s.topicName();
    const [maker, bus] = [await s.connect(), await s.connect({ topology })];
    await maker.provision([{ topic, groups: ['g'] }]);
    if (topology === 'verify') await bus.provision([{ topic, groups: ['g'] }]);
    const recorder = s.recorder<string>(async (message) => {
      if (message.data === 'reject') await message.reject();
      if (message.data === 'retry' && message.attempt === 1) await message.retry({ after: 10 });
    });
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    for (const data of ['plain', 'reject', 'retry']) await bus.publish(topic, data);
    await recorder.waitFor(4);
    await s.eventually('the dead letter', async () => (await bus.deadLetters(topic, 'g').count()).value === 1);
  });
}

contract(
  'CFG-03',
  'comes in through every door: TLS and each authentication',
  async (s) => {
    for (const door of await s.broker.doors.open()) {
      const topic = s.topicName();
      try {
        if (door.refused) {
          await failure(() => s.connect({ to: door.target, connectTimeout: 4_000 }));
          await door.verify?.();
          continue;
        }
        const bus = await s.connect({ to: door.target });
        const recorder = s.recorder();
        await bus.subscribe(topic, { group: 'g' }, recorder.handler);
        await bus.publish(topic, door.what);
        await recorder.waitFor(1);
        await door.verify?.();
        await bus.close();
      } catch (error) {
        throw new Error(`${door.what}: ${error}`, { cause: error });
      } finally {
        await door.close?.();
      }
    }
  },
  { timeout: () => 180_000 },
);

contract('CFG-04', 'uses topics and groups that stand on the broker under names of their own', async (s) => {
  const own = await s.foreign.makeOwn();
  const bus = await s.connect({ to: own.target, names: { topic: () => own.topic, group: () => own.group } });
  const recorder = s.recorder<string>();
  await bus.subscribe('orders', { group: 'billing' }, recorder.handler);
  await own.publish({ body: Buffer.from('"from a stranger"') });
  await bus.publish('orders', 'from us');
  await recorder.waitFor(2);
  expect([...recorder.data].sort()).toEqual(['from a stranger', 'from us']);
  expect(new Set(recorder.seen.map((one) => `${one.topic}/${one.group}`))).toEqual(new Set(['orders/billing']));
});

contract('CFG-04', 'puts a prefix before every name', async (s) => {
  const prefix = `${s.topicName('stage')}-`;
  const topic = s.topicName();
  const [staged, plain] = [await s.connect({ namePrefix: prefix }), await s.connect()];
  const [inside, outside] = [s.recorder<string>(), s.recorder<string>()];
  await staged.subscribe(topic, { group: 'g' }, inside.handler);
  await plain.subscribe(topic, { group: 'g' }, outside.handler);
  const names = await s.foreign.namesWith(topic);
  expect(names.filter((name) => name.includes(prefix)).length).toBeGreaterThan(0);
  await staged.publish(topic, 'staged');
  await plain.publish(topic, 'plain');
  await Promise.all([inside.waitFor(1), outside.waitFor(1)]);
  await staged.publish(topic, 'marker');
  await plain.publish(topic, 'marker');
  await Promise.all([inside.waitFor(2), outside.waitFor(2)]);
  expect([...inside.data].sort()).toEqual(['marker', 'staged']);
  expect([...outside.data].sort()).toEqual(['marker', 'plain']);
});
