import { type Delivery, sleep, systemClock } from '@waybill/core/adapter';
import { lateAck } from './late-ack.ts';
import { type Fault, republish, settlesThrough, showsThrough } from './plant.ts';

const retryAtOnce: Fault = {
  name: 'loses the retry delay',
  wrong: 'a message that is given back comes again at once, whatever the delay',
  caughtBy: ['RETRY-01', 'RETRY-06'],
  plant: () => ({
    receiver: (inner) => settlesThrough(inner, (one) => (one.verb === 'giveBack' ? { ...one, after: 0 } : one)),
  }),
};

const retryLate: Fault = {
  name: 'retries late',
  wrong: 'a message that is given back for a time comes again a second after it',
  caughtBy: ['RETRY-01', 'RETRY-05', 'RETRY-06'],
  plant: () => ({
    receiver: (inner) =>
      settlesThrough(inner, (one) =>
        one.verb === 'giveBack' && one.after > 0 ? { ...one, after: one.after + 1_000 } : one,
      ),
  }),
};

const forgetAttempt: Fault = {
  name: 'forgets the attempt',
  wrong: 'every delivery of a message says attempt 1',
  caughtBy: ['RETRY-01', 'RETRY-02'],
  plant: () => ({ receiver: (inner) => showsThrough(inner, (delivery) => ({ ...delivery, attempt: 1 })) }),
};

const retryForAll: Fault = {
  name: 'retries for all groups',
  wrong: 'a retry is published to the topic again, where every group gets it',
  caughtBy: ['RETRY-03'],
  plant: () => ({
    receiver: (inner, { source, connection }) =>
      settlesThrough(inner, async (one) => {
        if (one.verb !== 'giveBack') return one;
        const now = systemClock.now();
        await connection.publish([{ ...republish(source, one.delivery, now), deliverAt: now + one.after }]);
        return { verb: 'ack', delivery: one.delivery };
      }),
  }),
};

const retryBlocks: Fault = {
  name: 'lets a waiting retry block',
  wrong: 'while a message waits for its retry its member gets nothing else',
  caughtBy: ['RETRY-04'],
  plant: () => ({
    receiver: (inner) => {
      let blockedUntil = 0;
      return {
        ...settlesThrough(inner, (one) => {
          if (one.verb === 'giveBack') blockedUntil = Math.max(blockedUntil, systemClock.monotonic() + one.after);
          return one;
        }),
        async receive(max, finish) {
          if (systemClock.monotonic() < blockedUntil) {
            await sleep(systemClock, Math.min(1_000, blockedUntil - systemClock.monotonic()), finish);
            return [];
          }
          return inner.receive(max, finish);
        },
      };
    },
  }),
};

/** What a timer does with more than this. */
const longestTimer = 2 ** 31 - 1;

const overflow: Fault = {
  name: 'overflows long delays',
  wrong: 'a delay above 24.8 days overflows a timer and ends at once',
  caughtBy: ['RETRY-05'],
  plant: () => ({
    connection: (inner) => ({
      publish: (batch) =>
        inner.publish(
          batch.map((message) =>
            (message.deliverAt ?? 0) - systemClock.now() > longestTimer
              ? { ...message, deliverAt: undefined }
              : message,
          ),
        ),
    }),
    receiver: (inner) =>
      settlesThrough(inner, (one) =>
        one.verb === 'giveBack' && one.after > longestTimer ? { ...one, after: 0 } : one,
      ),
  }),
};

const releaseCounts: Fault = {
  name: 'counts a release as an attempt',
  wrong: 'a message that is given back without a handler call comes again with the next attempt number',
  caughtBy: ['RETRY-08', 'IDEM-04'],
  plant: () => ({
    receiver: (inner) =>
      settlesThrough(inner, (one) => {
        const attempt = one.delivery.attempt + 1;
        if (one.verb === 'abandon') return { verb: 'giveBack', delivery: one.delivery, after: 0, attempt };
        return one.verb === 'giveBack' && one.attempt < attempt ? { ...one, attempt } : one;
      }),
  }),
};

const countNothing: Fault = {
  name: 'counts no deliveries',
  wrong: 'every delivery claims to be the first of its message, so a killer is never noticed',
  caughtBy: ['RETRY-07'],
  plant: () => ({ receiver: (inner) => showsThrough(inner, (delivery): Delivery => ({ ...delivery, deliveries: 1 })) }),
};

const ackWhenRetryFails: Fault = {
  name: 'acks although the retry was not stored',
  wrong: 'when the copy for the retry cannot be written the message is acked all the same',
  caughtBy: ['RETRY-09'],
  plant: () => ({ receiver: (inner) => lateAck(inner, 'giveBack') }),
};

/** Mistakes in attempts and retries. */
export const retryFaults: readonly Fault[] = [
  retryAtOnce,
  retryLate,
  forgetAttempt,
  retryForAll,
  retryBlocks,
  overflow,
  releaseCounts,
  countNothing,
  ackWhenRetryFails,
];
