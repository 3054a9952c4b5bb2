import type { Receiver, Settlement, SettleResult } from '@waybill/core';
import { sleep, systemClock } from '@waybill/core/adapter';
import { settlesThrough } from './plant.ts';

/**
 * A receiver that answers `applied` to `verb` in any case; when the broker did not do it, the message is acked as soon
 * as the broker can be reached, and so is lost.
 */
export function lateAck(inner: Receiver, verb: Settlement['verb']): Partial<Receiver> {
  let open = true;
  const settle = async (one: Settlement): Promise<SettleResult | undefined> => {
    try {
      return (await inner.settle([one]))[0];
    } catch {
      return undefined;
    }
  };
  const ackLater = async (one: Settlement): Promise<void> => {
    while (open) {
      const result = await settle({ verb: 'ack', delivery: one.delivery });
      if (result === 'applied' || result === 'lost') return;
      await sleep(systemClock, 20);
    }
  };
  return {
    ...settlesThrough(inner, async (one) => {
      if (one.verb !== verb) return one;
      if ((await settle(one)) !== 'applied') void ackLater(one);
      return 'applied';
    }),
    close: () => {
      open = false;
      return inner.close();
    },
  };
}
