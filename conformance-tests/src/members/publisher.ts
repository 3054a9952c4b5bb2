import { topic, WaybillError } from '@waybill/core';
import type { MemberProgram } from '../member-program.ts';

export interface PublisherArgs {
  readonly topic: string;
  readonly ordered?: boolean;
  /** Publishes the numbers from 1 to this. Default: on and on, until told to close. */
  readonly count?: number;
  /** Publishes in flight at once. Default: 1. */
  readonly inFlight?: number;
  /** Milliseconds between two publishes. Default: 0. */
  readonly every?: number;
  /** Keys `k0`, `k1`, … in turn. Default: no keys. */
  readonly keys?: number;
}

/** Publishes numbers and tells `confirmed` or `failed` (with `code`) for each, and `finished` at the end. */
export const publisher: MemberProgram<PublisherArgs> = async (member, args) => {
  const bus = await member.connect();
  const target = args.ordered ? topic<unknown>(args.topic, { ordered: true, key: () => '' }) : args.topic;
  let next = 1;
  const publishOn = async (): Promise<void> => {
    while (!member.closing.aborted && next <= (args.count ?? Number.POSITIVE_INFINITY)) {
      const data = next++;
      const key = args.keys === undefined ? {} : { key: `k${data % args.keys}` };
      try {
        const { id } = await bus.publish(target, data, key);
        member.emit('confirmed', { data, id });
      } catch (error) {
        member.emit('failed', { data, code: WaybillError.is(error) ? error.code : String(error) });
      }
      if (args.every) await new Promise((resolve) => setTimeout(resolve, args.every));
    }
  };
  await Promise.all(Array.from({ length: args.inFlight ?? 1 }, publishOn));
  member.emit('finished');
  await bus.close();
  member.emit('closed');
};
