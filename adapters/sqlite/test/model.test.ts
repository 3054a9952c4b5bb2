import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  abandon,
  ack,
  deadLetter,
  giveBack,
  keyed,
  lease,
  openRig as openMemory,
  type Rig,
  type RigMember,
  text,
} from '../../../packages/core/test/memory-rig.ts';
import { folder, openRig } from './rig.ts';

/** What may happen to a group; numbers choose among what there is. */
type Step =
  | { readonly do: 'publish'; readonly key: number; readonly count: number; readonly delay: number }
  | { readonly do: 'take'; readonly member: number; readonly max: number }
  | { readonly do: 'take alone'; readonly member: number }
  | { readonly do: 'settle'; readonly verb: 'ack' | 'abandon' | 'retry' | 'alone' | 'bury'; readonly which: number }
  | { readonly do: 'extend'; readonly which: number }
  | { readonly do: 'redrive' | 'crash' }
  | { readonly do: 'seek'; readonly to: number }
  | { readonly do: 'wait'; readonly ms: number };

type Kind = 'without order' | 'ordered' | 'ordered, with redrives';

const stepsOf = (kind: Kind): fc.Arbitrary<Step[]> =>
  fc.array(
    fc.oneof(
      fc.record({
        do: fc.constant('publish' as const),
        key: fc.nat(4),
        count: fc.integer({ min: 1, max: 5 }),
        delay: kind === 'without order' ? fc.constantFrom(0, 0, 0, 700) : fc.constant(0),
      }),
      fc.record({ do: fc.constant('take' as const), member: fc.nat(1), max: fc.integer({ min: 1, max: 8 }) }),
      fc.record({
        do: fc.constant('settle' as const),
        verb: fc.constantFrom('ack' as const, 'ack' as const, 'abandon' as const, 'retry' as const, 'bury' as const),
        which: fc.nat(),
      }),
      fc.record({ do: fc.constant('extend' as const), which: fc.nat() }),
      fc.record({ do: fc.constant('crash' as const) }),
      fc.record({ do: fc.constant('seek' as const), to: fc.integer({ min: -2, max: 20 }) }),
      fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: lease }) }),
      ...(kind === 'ordered' ? [] : [fc.record({ do: fc.constant('redrive' as const) })]),
      // Messages are set apart only where there is no order.
      ...(kind === 'without order'
        ? [
            fc.record({ do: fc.constant('take alone' as const), member: fc.nat(1) }),
            fc.record({ do: fc.constant('settle' as const), verb: fc.constant('alone' as const), which: fc.nat() }),
          ]
        : []),
    ),
    { maxLength: 80 },
  );

type Delivery = Awaited<ReturnType<RigMember['take']>>[number];

/** One of the two brokers, with what its members have in hand. */
class Side {
  readonly #rig: Rig;
  /** Which of two keys comes first where one of them was redriven is nobody's promise: all is taken then, and sorted. */
  readonly #takesAll: boolean;
  #members: RigMember[] = [];
  #inHand: { readonly member: number; readonly delivery: Delivery }[] = [];
  /** Who was given a message last, by its text. */
  readonly #latest = new Map<string, Delivery>();
  #letters = 0;
  #published = 0;

  constructor(rig: Rig, kind: Kind) {
    this.#rig = rig;
    this.#takesAll = kind === 'ordered, with redrives';
  }

  async do(step: Step): Promise<unknown> {
    const rig = this.#rig;
    while (this.#members.length < 2) this.#members.push(await rig.member());
    switch (step.do) {
      case 'publish':
        return await rig.publish(
          ...Array.from({ length: step.count }, () => ({
            ...keyed(`k${step.key}`, String(this.#published++)),
            ...(step.delay === 0 ? {} : { deliverAt: rig.clock.now() + step.delay }),
          })),
        );
      case 'take':
        return this.#got(step.member, await this.#take(this.#members[step.member] as RigMember, step.max));
      case 'take alone': {
        const one = await this.#members[step.member]?.receiver.receiveAlone?.();
        return this.#got(step.member, one === undefined ? [] : [one]);
      }
      case 'settle':
      case 'extend': {
        // What nobody was given after its lease had ended may still be settled, or be lost: both keep the contract.
        const now = rig.clock.monotonic();
        this.#inHand = this.#inHand.filter(
          ({ delivery }) => (delivery.leaseUntil ?? 0) > now || this.#latest.get(text(delivery)) !== delivery,
        );
        if (this.#inHand.length === 0) return undefined;
        const [held] = this.#inHand.splice(step.which % this.#inHand.length, 1);
        if (held === undefined) return undefined;
        const { member, delivery } = held;
        const receiver = this.#members[member]?.receiver;
        if (step.do === 'extend') {
          const ends = await receiver?.extend?.([delivery]);
          const until = ends?.[0];
          const extended = until === undefined ? delivery : { ...delivery, leaseUntil: until };
          if (this.#latest.get(text(delivery)) === delivery) this.#latest.set(text(delivery), extended);
          this.#inHand.push({ member, delivery: extended });
          return ends;
        }
        const settlements = {
          ack: () => ack(delivery),
          abandon: () => abandon(delivery),
          retry: () => giveBack(delivery, { after: 50, attempt: delivery.attempt + 1 }),
          alone: () => giveBack(delivery, { alone: true }),
          bury: () => deadLetter(delivery, { entry: `e${this.#letters++}` }),
        };
        return await receiver?.settle([settlements[step.verb]()]);
      }
      case 'redrive': {
        const scan = await rig.connection.openDeadLetters(rig.group);
        const letters = await scan.next(100);
        return [letters.map((letter) => [letter.details.entry, text(letter)]), await scan.redrive(letters)];
      }
      case 'crash':
        await this.#members[0]?.receiver.close();
        this.#members[0] = await rig.member();
        this.#inHand = this.#inHand.filter(({ member }) => member !== 0);
        return undefined;
      case 'seek': {
        const to = step.to === -2 ? 'earliest' : step.to === -1 ? 'latest' : { position: String(step.to) };
        return await rig.connection.seek(rig.group, to).then(
          () => 'moved',
          (error: { field?: string }) => error.field,
        );
      }
      case 'wait':
        return await rig.clock.advance(step.ms);
    }
  }

  async state(): Promise<unknown> {
    const { connection, group } = this.#rig;
    return [await connection.lag(group), await connection.countDeadLetters(group)];
  }

  close(): Promise<void> {
    return this.#rig.connection.close();
  }

  get timers(): number {
    return this.#rig.clock.timers;
  }

  async #take(member: RigMember, max: number): Promise<readonly Delivery[]> {
    if (!this.#takesAll) return await member.take(max);
    const all: Delivery[] = [];
    for (;;) {
      const some = await member.take(1_000);
      all.push(...some);
      if (some.length === 0) return all.sort((a, b) => (String(a.key) < String(b.key) ? -1 : 1));
    }
  }

  #got(member: number, deliveries: readonly Delivery[]): unknown {
    for (const delivery of deliveries) {
      this.#inHand.push({ member, delivery });
      this.#latest.set(text(delivery), delivery);
    }
    return deliveries.map((one) => [
      text(one),
      one.key,
      one.lane,
      one.attempt,
      one.deliveries,
      one.position,
      one.alone,
      one.leaseUntil,
    ]);
  }
}

const kinds: Kind[] = ['without order', 'ordered', 'ordered, with redrives'];

test.each(kinds)('does what the broker in memory does: %s', { timeout: 120_000 }, async (kind) => {
  const path = folder();
  let files = 0;
  await fc.assert(
    fc.asyncProperty(stepsOf(kind), async (plan) => {
      const rig = { ordered: kind !== 'without order', lanes: 1 };
      const [file, memory] = [
        new Side(await openRig(join(path, `${files++}.db`), {}, rig), kind),
        new Side(await openMemory({ ...rig, retainMessages: 1_000_000 }), kind),
      ];
      try {
        for (const step of plan) {
          expect(await file.do(step), JSON.stringify(step)).toEqual(await memory.do(step));
          expect(await file.state(), `after ${JSON.stringify(step)}`).toEqual(await memory.state());
        }
      } finally {
        await Promise.all([file.close(), memory.close()]);
      }
      expect(file.timers).toBe(0);
    }),
    { numRuns: 40 },
  );
});
