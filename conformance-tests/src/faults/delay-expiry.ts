import type { OutgoingMessage, SendResult } from '@waybill/core';
import { systemClock, type Timer } from '@waybill/core/adapter';
import { type Fault, type Plant, showsThrough } from './plant.ts';

const loseDelay: Fault = {
  name: 'loses the delay',
  wrong: 'a delayed message is delivered at once',
  caughtBy: ['DELAY-01'],
  plant: () => ({
    connection: (inner) => ({
      publish: (batch) => inner.publish(batch.map((message) => ({ ...message, deliverAt: undefined }))),
    }),
  }),
};

const delayInClient: Fault = {
  name: 'keeps delays in the client',
  wrong: 'a delayed message waits in the publishing process, and is lost when that ends',
  caughtBy: ['DELAY-01'],
  plant: () => ({
    connection: (inner) => {
      const timers = new Set<Timer>();
      const later = (message: OutgoingMessage): SendResult => {
        const timer = systemClock.setTimeout(
          () => {
            timers.delete(timer);
            void inner.publish([{ ...message, deliverAt: undefined }]);
          },
          (message.deliverAt ?? 0) - systemClock.now(),
        );
        timers.add(timer);
        return { status: 'stored' };
      };
      return {
        publish: (batch) =>
          Promise.all(
            batch.map(async (message): Promise<SendResult> => {
              if (message.deliverAt !== undefined) return later(message);
              return (await inner.publish([message]))[0] ?? later(message);
            }),
          ),
        close() {
          for (const timer of timers) timer.cancel();
          return inner.close();
        },
      };
    },
  }),
};

const delayForOne: Fault = {
  name: 'delays for one group',
  wrong: 'a delayed message reaches one of the groups only',
  caughtBy: ['DELAY-01'],
  plant: () => {
    const delayed = new Set<string>();
    const taker = new Map<string, string>();
    return {
      connection: (inner) => ({
        publish(batch) {
          for (const message of batch) if (message.deliverAt !== undefined) delayed.add(message.id);
          return inner.publish(batch);
        },
      }),
      receiver: (inner, { source }) => ({
        async receive(max, finish) {
          const deliveries = await inner.receive(max, finish);
          const others = deliveries.filter(({ id = '' }) => {
            if (!delayed.has(id)) return false;
            if (!taker.has(id)) taker.set(id, source.group.name);
            return taker.get(id) !== source.group.name;
          });
          await inner.settle(others.map((delivery) => ({ verb: 'ack', delivery })));
          return deliveries.filter((delivery) => !others.includes(delivery));
        },
      }),
    };
  },
};

const delaysShiftedBy = (milliseconds: number): Plant => ({
  connection: (inner) => ({
    publish: (batch) =>
      inner.publish(
        batch.map((message) =>
          message.deliverAt === undefined ? message : { ...message, deliverAt: message.deliverAt + milliseconds },
        ),
      ),
  }),
});

const early: Fault = {
  name: 'delivers early',
  wrong: 'delays are rounded down, and end up to half a second too soon',
  caughtBy: ['DELAY-01'],
  plant: () => delaysShiftedBy(-500),
};

const lateDelay: Fault = {
  name: 'delivers late',
  wrong: 'delays end a second too late',
  caughtBy: ['DELAY-01', 'DELAY-02'],
  plant: () => delaysShiftedBy(1_000),
};

const delayInLine: Fault = {
  name: 'queues the delayed',
  wrong: 'delayed messages wait in one line, so a short delay waits for the long one before it',
  caughtBy: ['DELAY-02'],
  plant: () => {
    const last = new Map<string, number>();
    return {
      connection: (inner) => ({
        publish: (batch) =>
          inner.publish(
            batch.map((message) => {
              if (message.deliverAt === undefined) return message;
              const deliverAt = Math.max(message.deliverAt, last.get(message.topic.name) ?? 0);
              last.set(message.topic.name, deliverAt);
              return { ...message, deliverAt };
            }),
          ),
      }),
    };
  },
};

const loseExpiry: Fault = {
  name: 'loses the expiry',
  wrong: 'a message does not carry when it expires, so it is handed out for ever',
  caughtBy: ['DELAY-03'],
  plant: () => ({
    receiver: (inner) => showsThrough(inner, (delivery) => ({ ...delivery, expiresAt: undefined })),
  }),
};

/** Mistakes in delays and expiry. */
export const delayFaults: readonly Fault[] = [
  loseDelay,
  delayInClient,
  delayForOne,
  early,
  lateDelay,
  delayInLine,
  loseExpiry,
];
