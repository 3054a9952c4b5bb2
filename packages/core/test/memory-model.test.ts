import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Delivery } from '../src/adapter.ts';
import { abandon, ack, giveBack, keyed, lease, openRig, type RigMember, text } from './memory-rig.ts';

/** What may happen to a group; numbers choose among what there is. */
type Step =
  | { readonly do: 'publish'; readonly key: number; readonly count: number }
  | { readonly do: 'take'; readonly member: number; readonly max: number }
  | { readonly do: 'ack' | 'abandon' | 'retry' | 'extend'; readonly which: number }
  | { readonly do: 'crash' }
  | { readonly do: 'wait'; readonly ms: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({ do: fc.constant('publish' as const), key: fc.nat(4), count: fc.integer({ min: 1, max: 5 }) }),
    fc.record({ do: fc.constant('take' as const), member: fc.nat(1), max: fc.integer({ min: 1, max: 8 }) }),
    fc.record({ do: fc.constantFrom('ack', 'abandon', 'retry', 'extend'), which: fc.nat() }),
    fc.record({ do: fc.constant('crash' as const) }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: lease }) }),
  ),
  { maxLength: 120 },
);

test.each([false, true])('whatever happens, every message is settled once (ordered: %s)', async (ordered) => {
  await fc.assert(
    fc.asyncProperty(steps, async (plan) => {
      const rig = await openRig({ ordered, lanes: 3, retainMessages: 7 });
      const members: [RigMember, RigMember] = [await rig.member(), await rig.member()];
      let inHand: { by: RigMember; delivery: Delivery }[] = [];
      const settled = new Set<string>();
      const lastOfKey = new Map<string, number>();
      let published = 0;

      /** Leases that have ended are not in hand any more, whatever the member thinks. */
      const live = () => inHand.filter(({ delivery }) => (delivery.leaseUntil ?? 0) > rig.clock.monotonic());
      const received = (by: RigMember, deliveries: readonly Delivery[]): void => {
        for (const delivery of deliveries) {
          expect(settled, 'nothing settled comes again').not.toContain(text(delivery));
          if (ordered) {
            const outOfKey = live().filter((one) => one.delivery.key === delivery.key);
            expect(
              outOfKey.map((one) => text(one.delivery)),
              'one of a key is out',
            ).toEqual([]);
          }
          inHand.push({ by, delivery });
        }
      };
      const acked = (delivery: Delivery): void => {
        settled.add(text(delivery));
        if (!ordered) return;
        const number = Number(text(delivery));
        const key = String(delivery.key);
        expect(number, 'keys are settled in order').toBeGreaterThan(lastOfKey.get(key) ?? -1);
        lastOfKey.set(key, number);
      };

      for (const step of plan) {
        inHand = live();
        if (step.do === 'publish') {
          const numbers = Array.from({ length: step.count }, () => published++);
          await rig.publish(...numbers.map((number) => keyed(`k${step.key}`, String(number))));
        } else if (step.do === 'take') {
          const by = members[step.member] as RigMember;
          received(by, await by.take(step.max));
        } else if (step.do === 'wait') {
          await rig.clock.advance(step.ms);
        } else if (step.do === 'crash') {
          await members[0].receiver.close();
          members[0] = await rig.member();
        } else if (inHand.length > 0) {
          const at = step.which % inHand.length;
          const { by, delivery } = inHand[at] as (typeof inHand)[number];
          if (step.do === 'extend') {
            const [until] = (await by.receiver.extend?.([delivery])) ?? [];
            expect(until).toBe(rig.clock.monotonic() + lease);
            inHand[at] = { by, delivery: { ...delivery, leaseUntil: until ?? 0 } };
            continue;
          }
          const settlement = { ack, abandon, retry: (d: Delivery) => giveBack(d, { after: 50 }) }[step.do](delivery);
          expect(await by.receiver.settle([settlement])).toEqual(['applied']);
          inHand.splice(at, 1);
          if (step.do === 'ack') acked(delivery);
        }
        const { waiting, delayed, inFlight } = await rig.connection.lag(rig.group);
        expect(waiting + delayed + inFlight, 'lag counts what is not settled').toBe(published - settled.size);
        expect(inFlight).toBe(live().length);
      }

      await rig.clock.advance(lease);
      inHand = [];
      for (;;) {
        const deliveries = await members[1].take(1_000);
        if (deliveries.length === 0) break;
        received(members[1], deliveries);
        await members[1].receiver.settle(deliveries.map(ack));
        deliveries.forEach(acked);
        inHand = [];
      }
      expect(settled.size).toBe(published);
      expect(await rig.connection.lag(rig.group)).toEqual({ waiting: 0, delayed: 0, inFlight: 0, exact: true });
      await rig.connection.close();
      expect(rig.clock.timers).toBe(0);
    }),
    { numRuns: 300 },
  );
});
