import type {
  Adapter,
  AdapterContext,
  Connection,
  Delivery,
  Receiver,
  ReceiverEvents,
  Settlement,
  SettleResult,
  Source,
} from '@waybill/core';
import type { ContractId } from '../contract.ts';

/** A small deliberate mistake of a broker, and the promises whose tests must notice it. */
export interface Fault {
  readonly name: string;
  /** What the broker does wrong, in a sentence. */
  readonly wrong: string;
  /** Every one of these ids must have a test that fails. */
  readonly caughtBy: readonly ContractId[];
  /** Makes the mistake, with a memory of its own that all connections of one run share. */
  readonly plant: () => Plant;
}

/** What a fault puts in place of an adapter's own methods; what it leaves out stays as it is. */
export interface Plant {
  connection?(inner: Connection, context: AdapterContext): Partial<Connection>;
  receiver?(inner: Receiver, about: { source: Source; connection: Connection }): Partial<Receiver>;
  events?(inner: ReceiverEvents): Partial<ReceiverEvents>;
}

/** The same adapter with a fault in it, seen from core as any other. */
export function planted(adapter: Adapter, plant: Plant): Adapter {
  return {
    name: adapter.name,
    target: adapter.target,
    async connect(context) {
      const inner = await adapter.connect(context);
      const connection = replace(inner, plant.connection?.(inner, context) ?? {});
      const openReceiver: Connection['openReceiver'] = async (source, events) => {
        const heard = replace(events, plant.events?.(events) ?? {});
        const receiver = await connection.openReceiver(source, heard);
        return replace(receiver, plant.receiver?.(receiver, { source, connection: inner }) ?? {});
      };
      return replace(connection, { openReceiver });
    },
  };
}

/** `parts` instead of the methods of `inner` with those names; works on classes with private fields too. */
function replace<T extends object>(inner: T, parts: Partial<T>): T {
  return new Proxy(inner, {
    get(target, name) {
      if (Object.hasOwn(parts, name)) return Reflect.get(parts, name);
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
    // What is looked for with `in` (such as `extend` on a receiver) is there when either has it.
    has: (target, name) => Object.hasOwn(parts, name) || Reflect.has(target, name),
  });
}

/** A receiver whose settlements go through `change` first: another settlement, or the answer at once. */
export function settlesThrough(
  inner: Receiver,
  change: (settlement: Settlement) => Settlement | SettleResult | Promise<Settlement | SettleResult>,
): Partial<Receiver> {
  return {
    async settle(batch) {
      const changed = await Promise.all(batch.map(change));
      const asked = changed.filter((one) => isSettlement(one));
      const results = asked.length === 0 ? [] : await inner.settle(asked);
      let next = 0;
      return changed.map((one) => (isSettlement(one) ? (results[next++] as SettleResult) : one));
    },
  };
}

function isSettlement(one: Settlement | SettleResult): one is Settlement {
  return typeof one === 'object' && 'verb' in one;
}

/** A receiver that shows its deliveries through `change`, and settles the real ones. */
export function showsThrough(inner: Receiver, change: (delivery: Delivery) => Delivery): Partial<Receiver> {
  const real = new WeakMap<Delivery, Delivery>();
  const show = (delivery: Delivery): Delivery => {
    const shown = change(delivery);
    real.set(shown, delivery);
    return shown;
  };
  const back = (delivery: Delivery): Delivery => real.get(delivery) ?? delivery;
  return {
    receive: async (max, finish) => (await inner.receive(max, finish)).map(show),
    settle: (batch) => inner.settle(batch.map((one) => ({ ...one, delivery: back(one.delivery) }))),
    ...(inner.extend && { extend: (deliveries) => inner.extend?.(deliveries.map(back)) ?? Promise.resolve([]) }),
    ...(inner.receiveAlone && {
      receiveAlone: async () => {
        const delivery = await inner.receiveAlone?.();
        return delivery && show(delivery);
      },
    }),
  };
}

/** The delivery as a publish of the same message, for brokers that "retry" by publishing again. */
export function republish(source: Source, delivery: Delivery, now: number) {
  return {
    topic: source.group.topic,
    id: delivery.id ?? crypto.randomUUID(),
    key: delivery.key,
    type: delivery.type,
    contentType: delivery.contentType ?? 'application/octet-stream',
    body: delivery.body,
    headers: delivery.headers,
    publishedAt: delivery.publishedAt ?? now,
    deliverAt: undefined,
    expiresAt: delivery.expiresAt,
    options: undefined,
  };
}
