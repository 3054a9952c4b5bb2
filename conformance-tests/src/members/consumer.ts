import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Message, RetryError, type SubscribeOptions, topic } from '@waybill/core';
import type { MemberProgram } from '../member-program.ts';
import { openStore, type Place } from '../places.ts';

/**
 * What a handler does with a message: `return` (an ack by returning), `ack` (acks, tells `acked`, then holds), `throw`,
 * `hold` (waits for the command `release` or for the signal), `crash` (the process dies), so many milliseconds of work
 * before it returns, or a RetryError with so many milliseconds.
 */
export type MemberWork = 'return' | 'ack' | 'throw' | 'hold' | 'crash' | number | { readonly retryAfter: number };

export interface ConsumerArgs {
  readonly topic: string;
  readonly ordered?: boolean;
  readonly options: SubscribeOptions;
  /** Handle each id once, by a store over this place. */
  readonly store?: Place;
  /** Default: `return`. */
  readonly work?: MemberWork;
  /** For messages with this data, as text, instead of `work`. */
  readonly workFor?: Readonly<Record<string, MemberWork>>;
}

/**
 * Subscribes and tells: `subscribed`; `received` with id, data, key, attempt; `acked`; `done` when a handler has
 * returned; `aborted` with the reason's code when its signal aborted; `closed` after the bus was closed. The command
 * `weigh` makes it tell `weighed` with the bytes in its buffers.
 */
export const consumer: MemberProgram<ConsumerArgs> = async (member, args) => {
  const bus = await member.connect();
  const source = args.ordered ? topic<unknown>(args.topic, { ordered: true, key: () => '' }) : args.topic;
  const released = member.command('release');

  const weigh = (): void => {
    // What it holds counts, not what nobody has collected yet.
    setFlagsFromString('--expose-gc');
    (runInNewContext('gc') as () => void)();
    member.emit('weighed', { bytes: process.memoryUsage().arrayBuffers });
    void member.command('weigh').then(weigh);
  };
  void member.command('weigh').then(weigh);

  const handle = async (message: Message): Promise<void> => {
    const { id, data, key, attempt, body } = message;
    const told = { id, data: data instanceof Uint8Array ? `${body.length} bytes` : data, key, attempt };
    member.emit('received', told);
    message.signal.addEventListener('abort', () => {
      const reason: unknown = message.signal.reason;
      const code = typeof reason === 'object' && reason !== null && 'code' in reason ? reason.code : String(reason);
      member.emit('aborted', { ...told, code });
    });
    const work = args.workFor?.[String(data)] ?? args.work ?? 'return';
    if (work === 'throw') throw new Error('as told');
    if (work === 'crash') await member.die();
    if (work === 'ack') {
      await message.ack();
      member.emit('acked', told);
    }
    if (work === 'hold' || work === 'ack') await Promise.race([released, aborted(message.signal)]);
    if (typeof work === 'object') throw new RetryError({ after: work.retryAfter });
    if (typeof work === 'number') await new Promise((resolve) => setTimeout(resolve, work));
    member.emit('done', told);
  };

  await using opened = args.store && (await openStore(args.store));
  const idempotency = opened && { idempotency: opened.it };
  await bus.subscribe(source, { ...args.options, ...idempotency }, handle);
  member.emit('subscribed');
  await aborted(member.closing);
  await bus.close();
  member.emit('closed');
};

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
