import { EventEmitter } from 'node:events';
import type { Channel } from 'amqplib';
import { expect, test } from 'vitest';
import { closeChannel } from '../src/channel.ts';
import { DeliveryChannel, type Probe } from '../src/delivery-channel.ts';

/** A broker that answers every request, and remembers what it was sent. */
class FakeChannel extends EventEmitter {
  readonly sent: string[] = [];
  ack({ fields }: { fields: { deliveryTag: number } }, allUpTo: boolean): void {
    this.sent.push(`${allUpTo ? 'upTo' : 'ack'} ${fields.deliveryTag}`);
  }
  async prefetch(count: number): Promise<void> {
    this.sent.push(`prefetch ${count}`);
  }
  async get(): Promise<false> {
    this.sent.push('get');
    return false;
  }
  async consume(): Promise<void> {
    this.sent.push('consume');
  }
  async cancel(): Promise<void> {
    this.sent.push('cancel');
  }
  close(): Promise<void> {
    return new Promise(() => {});
  }
}

function open(probe?: Probe): { readonly fake: FakeChannel; readonly channel: DeliveryChannel } {
  const fake = new FakeChannel();
  return { fake, channel: new DeliveryChannel(fake as unknown as Channel, probe) };
}

const everyOther = Array.from({ length: 40 }, (_, i) => 2 * (i + 1));
const probe: Probe = { queue: 'q', single: false, arrived: () => {} };

test('one request answers for all acks that came while another was under way', async () => {
  const { fake, channel } = open();
  const results = [channel.ack([1])];
  await Promise.resolve();
  results.push(channel.ack([3]), channel.ack([2]), channel.ack([5]));
  expect(await Promise.all(results)).toEqual(['applied', 'applied', 'applied', 'applied']);
  expect(fake.sent).toEqual(['upTo 1', 'prefetch 0', 'ack 3', 'upTo 2', 'ack 5', 'prefetch 0']);
});

test('many acks are applied only when the queue has answered a request behind them (ACK-02)', async () => {
  const { fake, channel } = open(probe);
  expect(await channel.ack(everyOther)).toBe('applied');
  expect(fake.sent.slice(-3)).toEqual(['ack 80', 'get', 'prefetch 0']);
  await channel.ack([1]);
  expect(fake.sent.slice(-2)).toEqual(['upTo 1', 'prefetch 0']);
});

test('a queue with a single active consumer is asked by one that joins and leaves', async () => {
  const { fake, channel } = open({ ...probe, single: true });
  await channel.ack(everyOther);
  expect(fake.sent.slice(-4)).toEqual(['prefetch 1', 'consume', 'cancel', 'prefetch 0']);
});

test('acks of a channel that has ended are lost, and nothing is sent (ACK-07)', async () => {
  const { fake, channel } = open();
  fake.emit('close');
  expect(await channel.ack([1])).toBe('lost');
  expect(fake.sent).toEqual([]);
});

test('closing ends when the connection is lost before the answer', async () => {
  const { fake } = open();
  const closed = closeChannel(fake as unknown as Channel);
  fake.emit('close');
  await closed;
});
