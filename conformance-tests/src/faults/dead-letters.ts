import type { Connection, DeadLetterRecord, DeadLetterScan, GroupRef, SettleResult, Source } from '@waybill/core';
import { sleep, systemClock } from '@waybill/core/adapter';
import { lateAck } from './late-ack.ts';
import { type Fault, type Plant, republish, settlesThrough, showsThrough } from './plant.ts';

/** A connection whose scans are partly replaced. */
function scans(
  change: (scan: DeadLetterScan, about: { group: GroupRef; connection: Connection }) => Partial<DeadLetterScan>,
): Plant {
  return {
    connection: (connection) => ({
      async openDeadLetters(group) {
        const scan = await connection.openDeadLetters(group);
        const whole: DeadLetterScan = {
          next: (max) => scan.next(max),
          redrive: (records) => scan.redrive(records),
          purge: (records) => scan.purge(records),
          close: () => scan.close(),
        };
        return { ...whole, ...change(scan, { group, connection }) };
      },
    }),
  };
}

/** The records as `change` shows them; the real ones are kept for what is done with them. */
function recordsThrough(change: (record: DeadLetterRecord) => DeadLetterRecord): Plant {
  return scans((scan) => {
    const real = new WeakMap<DeadLetterRecord, DeadLetterRecord>();
    const back = (record: DeadLetterRecord): DeadLetterRecord => real.get(record) ?? record;
    return {
      next: async (max) =>
        (await scan.next(max)).map((record) => {
          const shown = change(record);
          real.set(shown, record);
          return shown;
        }),
      redrive: (records) => scan.redrive(records.map(back)),
      purge: (records) => scan.purge(records.map(back)),
    };
  });
}

const dropWrite: Fault = {
  name: 'drops the dead-letter write',
  wrong: 'a message that is to be dead-lettered is acked instead',
  caughtBy: ['DLQ-01', 'SUB-10'],
  plant: () => ({
    receiver: (inner) =>
      settlesThrough(inner, (one) => (one.verb === 'deadLetter' ? { verb: 'ack', delivery: one.delivery } : one)),
  }),
};

const ackWhenWriteFails: Fault = {
  name: 'acks although the dead letter was not stored',
  wrong: 'when the dead letter cannot be written the message is acked all the same',
  caughtBy: ['DLQ-02'],
  plant: () => ({ receiver: (inner) => lateAck(inner, 'deadLetter') }),
};

const oneEntryPerId: Fault = {
  name: 'keeps one entry per message id',
  wrong: 'a dead letter overwrites an earlier one with the same message id',
  caughtBy: ['DLQ-01'],
  plant: () => ({
    receiver: (inner, { source, connection }) =>
      settlesThrough(inner, async (one) => {
        if (one.verb !== 'deadLetter') return one;
        const scan = await connection.openDeadLetters(source.group);
        for (let page = await scan.next(100); page.length > 0; page = await scan.next(100)) {
          await scan.purge(page.filter((record) => record.id === one.delivery.id));
        }
        await scan.close();
        return one;
      }),
  }),
};

const loseHeaders: Fault = {
  name: 'loses the headers of dead letters',
  wrong: 'a dead letter has the body of its message and none of its headers',
  caughtBy: ['DLQ-01'],
  plant: () => recordsThrough((record) => ({ ...record, headers: {} })),
};

const forgetWhy: Fault = {
  name: 'forgets why',
  wrong: 'a dead letter does not say which error killed its message, nor after how many attempts',
  caughtBy: ['DLQ-01'],
  plant: () =>
    recordsThrough((record) => ({
      ...record,
      details: { ...record.details, errorName: undefined, errorMessage: undefined, attempts: 0 },
    })),
};

const shareDeadLetters: Fault = {
  name: 'shares the dead letters of a topic',
  wrong: 'the dead letters of all groups of a topic stand in one place',
  caughtBy: ['DLQ-05'],
  plant: () => {
    const first = new Map<string, GroupRef>();
    const shared = (group: GroupRef): GroupRef => {
      const found = first.get(group.topic.name) ?? group;
      first.set(group.topic.name, found);
      return found;
    };
    return {
      receiver: (inner, { source }) => {
        shared(source.group);
        return settlesThrough(inner, (one) => one);
      },
      connection: (inner) => ({
        countDeadLetters: (group) => inner.countDeadLetters(shared(group)),
        openDeadLetters: (group) => inner.openDeadLetters(shared(group)),
      }),
    };
  },
};

const expireDeadLetters: Fault = {
  name: 'expires dead letters',
  wrong: 'a dead letter vanishes when the ttl of its message has passed',
  caughtBy: ['DLQ-05'],
  plant: () =>
    scans((scan) => ({
      async next(max) {
        const page = await scan.next(max);
        const expired = page.filter((record) => (record.expiresAt ?? Number.POSITIVE_INFINITY) <= systemClock.now());
        await scan.purge(expired);
        return page.filter((record) => !expired.includes(record));
      },
    })),
};

const peekConsumes: Fault = {
  name: 'consumes what it shows',
  wrong: 'a look at the dead letters removes what was looked at',
  caughtBy: ['DLQ-03'],
  plant: () =>
    scans((scan) => {
      const shown: DeadLetterRecord[] = [];
      return {
        async next(max) {
          const page = await scan.next(max);
          shown.push(...page);
          return page;
        },
        async close() {
          await scan.purge(shown);
          await scan.close();
        },
      };
    }),
};

const purgeAll: Fault = {
  name: 'purges more than was asked',
  wrong: 'a purge of some dead letters removes all of them',
  caughtBy: ['DLQ-03'],
  plant: () =>
    scans((scan) => {
      const seen: DeadLetterRecord[] = [];
      return {
        async next(max) {
          const page = await scan.next(max);
          seen.push(...page);
          return page;
        },
        async purge(records) {
          await scan.purge(seen);
          return records.map((): SettleResult => 'applied');
        },
      };
    }),
};

const countWrong: Fault = {
  name: 'counts no dead letters',
  wrong: 'the count of dead letters is 0 and claims to be exact',
  caughtBy: ['DLQ-03'],
  plant: () => ({ connection: () => ({ countDeadLetters: async () => ({ value: 0, exact: true }) }) }),
};

/** A dead letter published to the topic again. */
const copyOf = (group: GroupRef, record: DeadLetterRecord) =>
  republish({ group } as Source, { ...record, lane: '', attempt: 1, deliveries: undefined }, systemClock.now());

const redriveToAll: Fault = {
  name: 'redrives to all groups',
  wrong: 'a redriven message is published to the topic again, where every group gets it',
  caughtBy: ['DLQ-04'],
  plant: () =>
    scans((scan, { group, connection }) => ({
      async redrive(records) {
        await connection.publish(records.map((record) => ({ ...copyOf(group, record), expiresAt: undefined })));
        return scan.purge(records);
      },
    })),
};

const strikeOutFirst: Fault = {
  name: 'strikes out before it redrives',
  wrong: 'dead letters are removed whether or not they reached their group, so a cut in the middle loses the rest',
  caughtBy: ['DLQ-04'],
  plant: () =>
    scans((scan, { group, connection }) => ({
      async redrive(records) {
        for (const [at, record] of records.entries()) {
          await sleep(systemClock, 10);
          try {
            await scan.redrive([record]);
          } catch {
            void strikeOut(connection, group, new Set(records.slice(at).map(({ details }) => details.entry)));
            break;
          }
        }
        return records.map((): SettleResult => 'applied');
      },
    })),
};

/** Removes entries as soon as the broker can be reached. */
async function strikeOut(connection: Connection, group: GroupRef, entries: ReadonlySet<string>): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    await sleep(systemClock, 20);
    try {
      const scan = await connection.openDeadLetters(group);
      const found = await scan.next(1_000);
      await scan.purge(found.filter(({ details }) => entries.has(details.entry)));
      await scan.close();
      return;
    } catch {
      // Still cut.
    }
  }
}

/** Shows a delivery of a redriven message as `change` makes it. */
function redriven(change: (record: DeadLetterRecord) => { attempt?: number; expiresAt?: number | undefined }): Plant {
  const changes = new Map<string, { attempt?: number; expiresAt?: number | undefined }>();
  return {
    ...scans((scan) => ({
      redrive(records) {
        for (const record of records) changes.set(record.id ?? '', change(record));
        return scan.redrive(records);
      },
    })),
    receiver: (inner) => showsThrough(inner, (delivery) => ({ ...delivery, ...changes.get(delivery.id ?? '') })),
  };
}

const redriveKeepsAttempts: Fault = {
  name: 'redrives with the old attempts',
  wrong: 'a redriven message begins at its last attempt, so its first failure kills it again',
  caughtBy: ['DLQ-04'],
  plant: () => redriven((record) => ({ attempt: record.details.attempts })),
};

const redriveKeepsExpiry: Fault = {
  name: 'redrives with the old expiry',
  wrong: 'a redriven message that has expired in the dead letters is dropped',
  caughtBy: ['DLQ-04'],
  plant: () => redriven((record) => ({ expiresAt: record.expiresAt })),
};

/** Mistakes in dead letters. */
export const deadLetterFaults: readonly Fault[] = [
  dropWrite,
  ackWhenWriteFails,
  oneEntryPerId,
  loseHeaders,
  forgetWhy,
  shareDeadLetters,
  expireDeadLetters,
  peekConsumes,
  purgeAll,
  countWrong,
  redriveToAll,
  strikeOutFirst,
  redriveKeepsAttempts,
  redriveKeepsExpiry,
];
