import { expect } from 'vitest';
import { doubles, publishAll, range, sorted } from '../helpers.ts';
import { AT_ONCE, contract, RECOVERY } from '../scenario.ts';

contract(
  'GUAR-01',
  'loses nothing confirmed when publisher and consumer are killed',
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease, concurrency: 4 };
    const first = await s.member('consumer', { topic, options, work: 'ack' });
    // With the gate open from the start, every handler acks, says so and returns.
    first.tell('release');
    await first.waitFor('subscribed');
    const publisher = await s.member('publisher', { topic, inFlight: 8, every: 2 });
    await first.waitFor(() => first.told('acked').length >= 50);
    await first.kill();
    await publisher.waitFor(() => publisher.told('confirmed').length >= 150);
    await publisher.kill();

    const bus = await s.connect();
    const second = s.recorder<number>();
    await bus.subscribe(topic, { ...options, concurrency: 16 }, second.handler);
    const confirmed = publisher.told('confirmed').map(({ data }) => data as number);
    const acked = new Set(first.told('acked').map(({ data }) => data as number));
    // What the first had in hand when it died it had asked to ack, and nobody knows whether that arrived.
    const inHand = first.told('received').flatMap(({ data }) => (acked.has(data as number) ? [] : [data as number]));
    expect(inHand.length).toBeLessThanOrEqual(options.concurrency);
    const missing = (): number[] =>
      confirmed.filter((data) => !acked.has(data) && !inHand.includes(data) && !second.data.includes(data));
    await s.eventually('every confirmed message is handled', missing, {
      within: s.takeOver + RECOVERY,
      until: (left) => left.length === 0,
    });
    // A second delivery needs a cause: an ack that had resolved is none.
    expect(second.data.filter((data) => acked.has(data))).toEqual([]);
    expect(doubles(second.data)).toEqual([]);
  },
  { deadly: true },
);

contract(
  'GUAR-01',
  'stores a message whose confirmation is lost, once or twice',
  async (s) => {
    const link = await s.network();
    const [bus, publisher] = [await s.connect(), await s.connect({ to: link })];
    const topic = s.topicName();
    const recorder = s.recorder<number>();
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
    await publisher.publish(topic, 0);
    await link.loseReplies();
    const receipts = range(1, 5).map((data) => publisher.publish(topic, data, { id: `m${data}` }));
    await recorder.waitFor((seen) => range(1, 5).every((data) => seen.some((one) => one.data === data)), AT_ONCE * 2);
    await link.cut('reset');
    await link.mend();
    expect((await Promise.all(receipts)).map(({ id }) => id)).toEqual(range(1, 5).map((data) => `m${data}`));
    await publisher.publish(topic, 6);
    await recorder.waitFor((seen) => seen.some(({ data }) => data === 6));
    for (const data of range(1, 5)) expect(recorder.of(data).length, `deliveries of ${data}`).toBeLessThanOrEqual(2);
    expect(recorder.of(0)).toHaveLength(1);
  },
  { deadly: true },
);

contract(
  'GUAR-01',
  'loses nothing when the outcome of a settle is lost',
  async (s) => {
    const link = await s.network();
    const [bus, consumer] = [await s.connect(), await s.connect({ to: link })];
    const topic = s.topicName();
    const recorder = s.recorder<number>(async () => {
      if (recorder.count === 3) await link.loseReplies();
    });
    await consumer.subscribe(topic, { group: 'g', lease: s.lease, concurrency: 1 }, recorder.handler);
    await publishAll(bus, topic, range(1, 3));
    await recorder.waitFor(3);
    await link.cut('reset');
    await link.mend();
    await publishAll(bus, topic, range(4, 20));
    await recorder.waitFor((seen) => new Set(seen.map(({ data }) => data)).size === 20, RECOVERY + s.takeOver);
    for (const data of range(1, 20)) expect(recorder.of(data).length, `deliveries of ${data}`).toBeLessThanOrEqual(2);
  },
  { deadly: true },
);

contract('GUAR-01', 'doubles nothing without a cause', async (s) => {
  const topic = s.topicName();
  const recorder = s.recorder<number>();
  const publisher = await s.connect();
  for (const bus of [await s.connect(), await s.connect()]) {
    await bus.subscribe(topic, { group: 'g' }, recorder.handler);
  }
  await publishAll(publisher, topic, range(1, 500));
  await recorder.waitFor(500);
  await publisher.publish(topic, 501);
  await recorder.waitFor((seen) => seen.some(({ data }) => data === 501));
  expect(sorted(recorder.data)).toEqual(range(1, 501));
});

contract(
  'GUAR-02',
  "drops the settle of a member that was stopped, and applies it to nobody else's delivery",
  async (s) => {
    const topic = s.topicName();
    const options = { group: 'g', lease: s.lease };
    const stopped = await s.member('consumer', { topic, options, work: 'hold' });
    await stopped.waitFor('subscribed');
    const bus = await s.connect();
    await bus.publish(topic, 'm');
    await stopped.waitFor('received');
    await stopped.freeze();

    const holder = await s.member('consumer', { topic, options, work: 'hold' });
    await holder.waitFor('received', s.takeOver + RECOVERY);
    stopped.tell('release');
    await stopped.thaw();
    await stopped.waitFor('done', s.takeOver);
    // It leaves in good order, so all that it wanted to settle has reached the broker.
    await stopped.close();
    await holder.kill();

    const recorder = s.recorder<string>();
    await bus.subscribe(topic, options, recorder.handler);
    await recorder.waitFor(1, s.takeOver + RECOVERY);
    expect(recorder.data).toEqual(['m']);
  },
  { deadly: true, timeout: (lease) => 90_000 + 6 * lease },
);
