import type { Adapter } from '@waybill/core/adapter';
import type { BrokerUnderTest, Doors, ForeignClient } from '../harness.ts';
import { InProcessLink } from './in-process-link.ts';

export interface InProcessOptions {
  /** By which `connect` reaches the broker, whatever this harness puts around it. */
  readonly url: string;
  /** A new adapter on the broker. */
  readonly adapter: () => Adapter;
  readonly foreign: ForeignClient;
  readonly doors: Omit<Doors, 'closed' | 'open'>;
}

/**
 * The harness of a broker that lives in this process: its networks, stops and deaths are played at the adapter
 * interface, see `InProcessLink`.
 */
export function inProcessBroker({ url, adapter, foreign, doors }: InProcessOptions): BrokerUnderTest {
  // Cut when the broker "stops": it keeps its data, as one with a disk does.
  const mains = new InProcessLink();
  const target = (): Adapter => mains.wrap(adapter());
  return {
    url,
    target,
    inProcess: true,
    openLink: async () => {
      const link = new InProcessLink();
      return {
        target: link.wrap(target()),
        url: undefined,
        cut: async (mode) => link.cut(mode),
        mend: async () => link.mend(),
        loseReplies: async () => link.loseReplies(),
        close: async () => link.mend(),
      };
    },
    stop: async () => mains.cut('reset'),
    start: async () => mains.mend(),
    restart: async () => {
      mains.cut('reset');
      mains.mend();
    },
    foreign,
    doors: {
      ...doors,
      closed: async () => {
        const away = new InProcessLink();
        away.cut('reset');
        const door = { what: 'a broker that is away', target: away.wrap(adapter()), cause: /cut/ };
        return [{ ...door, names: adapter().target, secret: undefined, final: false }];
      },
      // There is no network, and nobody to prove oneself to.
      open: async () => [{ what: 'this process', target: adapter() }],
    },
    dispose: async () => mains.mend(),
  };
}
