import type { Delivery, Settlement, SettleResult } from '@waybill/core';
import { type Fault, settlesThrough, showsThrough } from './plant.ts';

const ackOnReceive: Fault = {
  name: 'acks on receive',
  wrong: 'a delivery is acked when it is handed out, so a crash loses it',
  caughtBy: ['ACK-02'],
  plant: () => ({
    receiver: (inner) => ({
      async receive(max, finish) {
        const deliveries = await inner.receive(max, finish);
        await inner.settle(deliveries.map((delivery) => ({ verb: 'ack', delivery })));
        return deliveries;
      },
      settle: async (batch) => batch.map((): SettleResult => 'applied'),
      extend: async (deliveries) => deliveries.map(() => Number.POSITIVE_INFINITY),
    }),
  }),
};

const loseAcks: Fault = {
  name: 'loses acks',
  wrong: 'an ack is confirmed and never applied, so the message comes back after its lease',
  caughtBy: ['ACK-01'],
  plant: () => ({
    receiver: (inner) => settlesThrough(inner, (one) => (one.verb === 'ack' ? 'applied' : one)),
  }),
};

const loseLastAcks: Fault = {
  name: 'loses the acks of a member that leaves',
  wrong: 'what is acked after the last receive was told to finish is confirmed and never applied',
  caughtBy: ['SUB-06', 'LIFE-01'],
  plant: () => ({
    receiver: (inner) => {
      let finishing: AbortSignal | undefined;
      return {
        ...settlesThrough(inner, (one) => (one.verb === 'ack' && finishing?.aborted ? 'applied' : one)),
        receive(max, finish) {
          finishing = finish;
          return inner.receive(max, finish);
        },
      };
    },
  }),
};

const commitPastGap: Fault = {
  name: 'commits past a gap',
  wrong: 'an ack also acks everything that was handed out before it, as a plain offset commit does',
  caughtBy: ['ACK-05'],
  plant: () => ({
    receiver: (inner) => {
      let inHand: Delivery[] = [];
      const committed = new Set<Delivery>();
      const settleOne = async (one: Settlement): Promise<SettleResult> => {
        if (committed.has(one.delivery)) return 'applied';
        const below = one.verb === 'ack' ? inHand.slice(0, Math.max(0, inHand.indexOf(one.delivery))) : [];
        for (const delivery of below) committed.add(delivery);
        inHand = inHand.filter((delivery) => delivery !== one.delivery && !committed.has(delivery));
        const results = await inner.settle([...below.map((delivery) => ({ verb: 'ack' as const, delivery })), one]);
        return results.at(-1) as SettleResult;
      };
      let turn: Promise<unknown> = Promise.resolve();
      return {
        async receive(max, finish) {
          const deliveries = await inner.receive(max, finish);
          inHand.push(...deliveries);
          return deliveries;
        },
        settle(batch) {
          const results = turn.then(async () => {
            const done: SettleResult[] = [];
            for (const one of batch) done.push(await settleOne(one));
            return done;
          });
          turn = results.catch(() => {});
          return results;
        },
        async extend(deliveries) {
          const renewed = await inner.extend?.(deliveries);
          return deliveries.map((one, at) => (committed.has(one) ? Number.POSITIVE_INFINITY : renewed?.[at]));
        },
      };
    },
  }),
};

const settleByTag: Fault = {
  name: 'settles by tag',
  wrong: 'deliveries are numbered anew after a reconnect, and an ack from before it takes the new owner of its number',
  caughtBy: ['ACK-07'],
  plant: () => {
    let epoch = 0;
    return {
      events: (inner) => ({
        interrupted(error) {
          epoch++;
          inner.interrupted(error);
        },
      }),
      receiver: (inner) => {
        let current = epoch;
        let byTag: Delivery[] = [];
        const tags = new WeakMap<Delivery, number>();
        const stale = new WeakMap<Delivery, number>();
        const startOver = (): void => {
          if (current === epoch) return;
          current = epoch;
          byTag = [];
        };
        return {
          async receive(max, finish) {
            const deliveries = await inner.receive(max, finish);
            startOver();
            for (const delivery of deliveries) {
              tags.set(delivery, byTag.push(delivery) - 1);
              stale.set(delivery, current);
            }
            return deliveries;
          },
          settle(batch) {
            startOver();
            return inner.settle(
              batch.map((one) => {
                if (stale.get(one.delivery) === current) return one;
                return { ...one, delivery: byTag[tags.get(one.delivery) ?? 0] ?? one.delivery };
              }),
            );
          },
        };
      },
    };
  },
};

const settleForOthers: Fault = {
  name: 'settles for others',
  wrong: 'a member that has lost a message is not told, and its late settle takes the delivery that another member has',
  caughtBy: ['GUAR-02', 'ACK-04'],
  plant: () => {
    const ackLatest = new Map<string, () => Promise<SettleResult>>();
    const endless = (deliveries: readonly Delivery[]) => deliveries.map(() => Number.POSITIVE_INFINITY);
    return {
      receiver: (inner, { source }) => {
        const place = (delivery: Delivery): string =>
          `${source.group.topic.name}/${source.group.name}/${delivery.id ?? delivery.position}`;
        const shown = showsThrough(inner, (delivery) => {
          ackLatest.set(
            place(delivery),
            async () => (await inner.settle([{ verb: 'ack', delivery }]))[0] as SettleResult,
          );
          return { ...delivery, leaseUntil: Number.POSITIVE_INFINITY };
        });
        return {
          ...shown,
          settle: (batch) =>
            Promise.all(
              batch.map(async (one) => {
                const ack = one.verb === 'ack' ? ackLatest.get(place(one.delivery)) : undefined;
                return ack === undefined ? ((await shown.settle?.([one]))?.[0] as SettleResult) : await ack();
              }),
            ),
          async extend(deliveries) {
            await shown.extend?.(deliveries);
            return endless(deliveries);
          },
        };
      },
    };
  },
};

const keepForEver: Fault = {
  name: 'keeps what the dead hold',
  wrong: 'the lease is an hour whatever was asked for, so nobody takes over from a dead member',
  caughtBy: ['ACK-02'],
  plant: () => ({
    connection: (inner) => ({
      openReceiver: (source, events) => inner.openReceiver({ ...source, lease: 3_600_000 }, events),
    }),
  }),
};

const renewNothing: Fault = {
  name: 'renews nothing',
  wrong: 'a renewal of the lease is confirmed and not made, so a long handler loses its message to another member',
  caughtBy: ['ACK-03'],
  plant: () => ({
    receiver: () => ({ extend: async (deliveries) => deliveries.map(() => Number.POSITIVE_INFINITY) }),
  }),
};

const deliverTwice: Fault = {
  name: 'delivers twice',
  wrong: 'every delivery is handed out a second time without a cause',
  caughtBy: ['ACK-01', 'SUB-01'],
  plant: () => ({
    receiver: (inner) => {
      const shown = showsThrough(inner, (delivery) => delivery);
      const twins = new WeakSet<Delivery>();
      return {
        ...shown,
        async receive(max, finish) {
          const deliveries = await inner.receive(Math.ceil(max / 2), finish);
          return deliveries.flatMap((delivery) => {
            const twin = { ...delivery };
            twins.add(twin);
            return [delivery, twin];
          });
        },
        async settle(batch) {
          const real = batch.filter((one) => !twins.has(one.delivery));
          const results = await inner.settle(real);
          return batch.map((one): SettleResult => results[real.indexOf(one)] ?? 'applied');
        },
        extend: async (deliveries) => deliveries.map(() => Number.POSITIVE_INFINITY),
      };
    },
  }),
};

/** Mistakes in leases, acks and redelivery. */
export const settlingFaults: readonly Fault[] = [
  ackOnReceive,
  loseAcks,
  loseLastAcks,
  commitPastGap,
  settleByTag,
  settleForOthers,
  keepForEver,
  renewNothing,
  deliverTwice,
];
