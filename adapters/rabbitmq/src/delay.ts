import type { Channel, Options } from 'amqplib';
import { reply, replyCode } from './errors.ts';
import type { BrokerNames } from './names.ts';

/** The shortest level, in milliseconds. A delay is rounded up to a multiple of it. */
export const delayUnit = 100;
/** Level n waits for 2^n units. */
export const delayLevels = 25;
/** Milliseconds of the longest delay: all levels one after the other, 38.8 days. */
export const maxDelay = (2 ** delayLevels - 1) * delayUnit;

/**
 * Messages that go nowhere when their time has come (their group was removed, or a topic has none) are kept for
 * somebody who looks for them, but not for ever.
 */
const lostMessages = { count: 1_000, ms: 7 * 86_400_000 };

/**
 * Where a delayed message is published: to the highest level it needs, with the delay in binary and the destination
 * as routing key. A level's exchange sends it into the level's queue where the bit is 1, past it where it is 0; from
 * the queue it comes out after the level's fixed time, into the next lower level. So no message ever waits behind one
 * with a longer time, and whole delays need no client (DELAY-01, DELAY-02).
 *
 * @param ms more than 0, at most `maxDelay`
 * @param address of `addressOf`
 */
export function delayRoute(ms: number, address: string): { readonly level: number; readonly routingKey: string } {
  const units = Math.min(2 ** delayLevels - 1, Math.max(1, Math.ceil(ms / delayUnit)));
  const bits = units.toString(2);
  return { level: bits.length - 1, routingKey: `${bits.padStart(delayLevels, '0').split('').join('.')}.${address}` };
}

/** The exchange of a level. */
export function delayExchange(names: BrokerNames, level: number): string {
  return names.delay(String(level));
}

/** Binds a destination: what is delayed for this address arrives in the queue. */
export async function bindDelayed(channel: Channel, names: BrokerNames, queue: string, address: string): Promise<void> {
  await channel.bindQueue(queue, names.delay('deliver'), `#.${address}`);
}

/**
 * Makes the levels, once for all groups of a prefix. Whoever finds the object that is made last finds all of them.
 *
 * @param onChannels runs pieces of work side by side, each on a channel of its own
 * @param force also when the last one is there: something behind it was deleted
 */
export async function makeDelayLevels(
  names: BrokerNames,
  queueType: 'quorum' | 'classic',
  onChannels: (work: readonly ((channel: Channel) => Promise<void>)[]) => Promise<void>,
  force: boolean,
): Promise<void> {
  const complete = names.delay('complete');
  if (!force && (await exists(complete, onChannels))) return;
  const deliver = names.delay('deliver');
  const lost = names.delay('lost');
  await onChannels([
    async (channel) => {
      // A dead-lettering queue holds on to what cannot be routed, at most 32 of them, and then stands still for
      // everybody; so everything that arrives at the end is routed somewhere.
      await channel.assertExchange(lost, 'fanout');
      await channel.assertQueue(lost, {
        arguments: {
          'x-queue-type': queueType,
          'x-max-length': lostMessages.count,
          'x-message-ttl': lostMessages.ms,
          'x-overflow': 'drop-head',
        },
      });
      await channel.bindQueue(lost, lost, '');
      await channel.assertExchange(deliver, 'topic', { alternateExchange: lost });
    },
    async (channel) => {
      for (let level = 0; level < delayLevels; level++) {
        await channel.assertExchange(delayExchange(names, level), 'topic');
      }
    },
  ]);
  const makers = Array.from({ length: 5 }, (_, share) => async (channel: Channel) => {
    for (let level = share; level < delayLevels; level += 5) await makeLevel(channel, names, queueType, level);
  });
  await onChannels(makers);
  await onChannels([async (channel) => void (await channel.assertExchange(complete, 'fanout', { internal: true }))]);
}

async function makeLevel(
  channel: Channel,
  names: BrokerNames,
  queueType: 'quorum' | 'classic',
  level: number,
): Promise<void> {
  const exchange = delayExchange(names, level);
  const next = level === 0 ? names.delay('deliver') : delayExchange(names, level - 1);
  await channel.assertQueue(exchange, levelQueue(queueType, level, next));
  const bits = '*.'.repeat(delayLevels - 1 - level);
  await channel.bindQueue(exchange, exchange, `${bits}1.#`);
  await channel.bindExchange(next, exchange, `${bits}0.#`);
}

function levelQueue(queueType: 'quorum' | 'classic', level: number, next: string): Options.AssertQueue {
  return {
    arguments: {
      'x-queue-type': queueType,
      'x-message-ttl': delayUnit * 2 ** level,
      'x-dead-letter-exchange': next,
      // At least once: a message leaves the queue only when the next one has it. The broker asks for reject-publish
      // beside it; classic queues have neither.
      ...(queueType === 'quorum' ? { 'x-dead-letter-strategy': 'at-least-once', 'x-overflow': 'reject-publish' } : {}),
    },
  };
}

async function exists(
  exchange: string,
  onChannels: (work: readonly ((channel: Channel) => Promise<void>)[]) => Promise<void>,
): Promise<boolean> {
  try {
    await onChannels([async (channel) => void (await channel.checkExchange(exchange))]);
    return true;
  } catch (error) {
    if (replyCode(error) === reply.notFound) return false;
    throw error;
  }
}
