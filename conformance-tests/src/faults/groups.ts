import type { Connection, GroupRef, ProvisionItem } from '@waybill/core';
import type { Fault } from './plant.ts';

const lateGroups: Fault = {
  name: 'makes groups late',
  wrong: 'a group begins with the first receive of its first member, so what was published before is not for it',
  caughtBy: ['SUB-02'],
  plant: () => ({
    connection: (inner) => ({
      async provision(items, mode) {
        const found = await inner.provision(
          items.map((item) => ({ ...item, groups: [] })),
          mode,
        );
        return found;
      },
      async openReceiver(source, events) {
        const make = (): Promise<unknown> =>
          inner.provision(
            [
              {
                topic: source.group.topic,
                groups: [
                  { name: source.group.name, temporary: source.group.temporary, startAt: 'latest', options: undefined },
                ],
              },
            ],
            'create',
          );
        const opened = (async () => {
          // Long enough for a publish that follows the subscribe to be stored.
          await new Promise((done) => setTimeout(done, 100));
          await make();
          return inner.openReceiver(source, events);
        })();
        return {
          receive: async (max, finish) => (await opened).receive(max, finish),
          settle: async (batch) => (await opened).settle(batch),
          extend: async (deliveries) => (await opened).extend?.(deliveries) ?? [],
          receiveAlone: async () => (await opened).receiveAlone?.(),
          pauseLane: (lane) => void opened.then((receiver) => receiver.pauseLane(lane)),
          resumeLane: (lane) => void opened.then((receiver) => receiver.resumeLane(lane)),
          close: async () => (await opened).close(),
        };
      },
    }),
  }),
};

/** The one group that all groups of a topic are. */
const shared = 'everybody';
const sameGroup = (group: GroupRef): GroupRef => ({ ...group, name: shared });

const mixGroups: Fault = {
  name: 'mixes groups',
  wrong: 'the groups of a topic share its messages as if they were one',
  caughtBy: ['SUB-01'],
  plant: () => ({
    connection: (inner): Partial<Connection> => ({
      provision: (items, mode) =>
        inner.provision(
          items.map(
            (item): ProvisionItem => ({
              ...item,
              groups: item.groups.slice(0, 1).map((group) => ({ ...group, name: shared })),
            }),
          ),
          mode,
        ),
      openReceiver: (source, events) => inner.openReceiver({ ...source, group: sameGroup(source.group) }, events),
    }),
  }),
};

const leaveBehind: Fault = {
  name: 'leaves removed groups behind',
  wrong: 'a removed group keeps its messages and its dead letters',
  caughtBy: ['SUB-12'],
  plant: () => ({ connection: () => ({ removeGroup: async () => {} }) }),
};

const startAtEnd: Fault = {
  name: 'starts every group at the end',
  wrong: 'a new group gets nothing from before its creation, wherever it was to start',
  caughtBy: ['POS-02'],
  plant: () => ({
    connection: (inner) => ({
      provision: (items, mode) =>
        inner.provision(
          items.map((item) => ({
            ...item,
            groups: item.groups.map((group) => ({ ...group, startAt: 'latest' as const })),
          })),
          mode,
        ),
    }),
  }),
};

const seekNothing: Fault = {
  name: 'does not seek',
  wrong: 'a seek is confirmed and the group stays where it is',
  caughtBy: ['POS-02'],
  plant: () => ({ connection: () => ({ seek: async () => {} }) }),
};

const lagNothing: Fault = {
  name: 'sees no lag',
  wrong: 'the lag of a group is always nothing, and claims to be exact',
  caughtBy: ['POS-01'],
  plant: () => ({
    connection: () => ({ lag: async () => ({ waiting: 0, delayed: 0, inFlight: 0, exact: true }) }),
  }),
};

const lagMixes: Fault = {
  name: 'counts the delayed as waiting',
  wrong: 'the lag counts messages that wait for their time or are in hand as ready',
  caughtBy: ['POS-01'],
  plant: () => ({
    connection: (inner) => ({
      async lag(group) {
        const { waiting, delayed, inFlight, exact } = await inner.lag(group);
        return { waiting: waiting + delayed + inFlight, delayed: 0, inFlight: 0, exact };
      },
    }),
  }),
};

const jumpInSilence: Fault = {
  name: 'jumps in silence',
  wrong: 'a group whose place is gone goes on elsewhere and says nothing',
  caughtBy: ['RET-02'],
  plant: () => ({ events: () => ({ positionLost: () => {} }) }),
};

/** Mistakes in groups, their places and what is told about them. */
export const groupFaults: readonly Fault[] = [
  lateGroups,
  mixGroups,
  leaveBehind,
  startAtEnd,
  seekNothing,
  lagNothing,
  lagMixes,
  jumpInSilence,
];
