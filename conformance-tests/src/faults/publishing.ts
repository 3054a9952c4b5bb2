import type { OutgoingMessage, SendResult } from '@waybill/core';
import { type Fault, showsThrough } from './plant.ts';

const dropLast: Fault = {
  name: 'drops the last of a batch',
  wrong: 'the last message of a batch is confirmed and never stored',
  caughtBy: ['PUB-04'],
  plant: () => ({
    connection: (inner) => ({
      async publish(batch) {
        const results = await inner.publish(batch.length > 1 ? batch.slice(0, -1) : batch);
        return batch.map((_, at): SendResult => results[at] ?? { status: 'stored' });
      },
    }),
  }),
};

const confirmEarly: Fault = {
  name: 'confirms before it has stored',
  wrong: 'a publish is confirmed when it is handed over, whatever becomes of it',
  caughtBy: ['PUB-01'],
  plant: () => ({
    connection: (inner) => ({
      async publish(batch) {
        inner.publish(batch).catch(() => {});
        return batch.map((): SendResult => ({ status: 'stored' }));
      },
    }),
  }),
};

const reverse: Fault = {
  name: 'stores batches backwards',
  wrong: 'the messages of a batch are stored in reverse order',
  caughtBy: ['PUB-08'],
  plant: () => ({
    connection: (inner) => ({
      publish: async (batch) => [...(await inner.publish([...batch].reverse()))].reverse(),
    }),
  }),
};

const onlyAscii = (text: string): string => text.replace(/[^ -~]/g, '?');

const mangle: Fault = {
  name: 'mangles headers',
  wrong: 'header values keep their ASCII characters only',
  caughtBy: ['PUB-02'],
  plant: () => ({
    connection: (inner) => ({
      publish: (batch) =>
        inner.publish(
          batch.map(
            (message): OutgoingMessage => ({
              ...message,
              headers: Object.fromEntries(
                Object.entries(message.headers).map(([name, value]) => [name, onlyAscii(value)]),
              ),
            }),
          ),
        ),
    }),
  }),
};

const newIds: Fault = {
  name: 'makes new ids',
  wrong: 'every delivery gets an id of its own, so duplicates cannot be told',
  caughtBy: ['PUB-02', 'IDEM-01'],
  plant: () => ({ receiver: (inner) => showsThrough(inner, (one) => ({ ...one, id: crypto.randomUUID() })) }),
};

/** Mistakes in publishing. */
export const publishingFaults: readonly Fault[] = [dropLast, confirmEarly, reverse, mangle, newIds];
