// Made from docs/writing-an-adapter.md by scripts/doc-samples.ts; change it there.
import type * as kit from '@waybill/core/adapter';
import { ConfigError, checkOptions, parseBrokerUrl, readParams, sleep, WaybillError } from '@waybill/core/adapter';

/** What a message is made of; a stranger's has a body and perhaps nothing else. */
export type Content = Omit<kit.DeadLetterRecord, 'position' | 'native' | 'details' | 'alone'>;

/** A copy, because publishers and handlers may do as they like with their bytes. */
function copyOf({ id, key, type, contentType, body, headers, publishedAt, expiresAt }: Content): Content {
  return { id, key, type, contentType, body: new Uint8Array(body), headers, publishedAt, expiresAt };
}

/** A group's own copy of a message, in its array from the publish until it is settled. */
interface Entry extends Content {
  readonly position: string;
  attempt: number;
  /** Not handed out before this time: the end of a delay, or of a lease. */
  notBefore: number;
  /** The one handing-out that may settle it. */
  heldBy: kit.Delivery | undefined;
}

export class Group {
  readonly entries: Entry[] = [];
  readonly deadLetters: kit.DeadLetterRecord[] = [];
  changed = new AbortController();
  #count = 0;

  add(content: Content, notBefore = 0): void {
    const position = String(++this.#count);
    this.entries.push({ ...copyOf(content), position, attempt: 1, notBefore, heldBy: undefined });
    this.wake();
  }

  /** Lets every `receive` that waits look again. */
  wake(): void {
    const { changed } = this;
    this.changed = new AbortController();
    changed.abort();
  }
}

/** Topics by their names, with their groups. */
export type Broker = Map<string, { ordered: boolean; lanes: number | undefined; groups: Map<string, Group> }>;

const brokers = new Map<string, Broker>();

/** `array:name` is one broker for the whole process. */
export const array = {
  name: 'array',
  schemes: ['array'],
  fromUrl(text: string) {
    const url = parseBrokerUrl(text);
    readParams(url, {});
    const broker: Broker = brokers.get(url.shown) ?? new Map();
    brokers.set(url.shown, broker);
    const connect = async (context: kit.AdapterContext): Promise<kit.Connection> => connectionTo(broker, context);
    return { name: 'array', target: url.shown, broker, connect };
  },
} satisfies kit.AdapterFactory;

const no = (reason: string): kit.Support => ({ supported: false, reason });
const yes: kit.Support = { supported: true };

const capabilities: kit.Capabilities = {
  lease: { kind: 'delivery', min: 1_000, max: 3_600_000, maxHandling: Number.POSITIVE_INFINITY },
  maxMessageBytes: 1_024 * 1_024,
  maxDelay: Number.POSITIVE_INFINITY,
  publish: { maxMessages: 100, maxBytes: 16 * 1_024 * 1_024, maxInFlight: 1 },
  log: no('a message leaves the array when it is settled'),
  groups: yes,
  orderedAttempts: no('a message of an ordered topic is retried by the member that has it'),
  countsDeliveries: no('the array does not count how often it hands out a message'),
  cleanJoin: yes,
  knowsOrder: yes,
  tellsLostPosition: yes,
  openPeek: yes,
  broadcastCleanup: 0,
  retention: 'Everything is kept until it is settled, as long as the process lives.',
};

const wrong = (text: string): ConfigError => new ConfigError('topology', text, { adapter: 'array' });

function connectionTo(broker: Broker, { clock, names, namePrefix }: kit.AdapterContext): kit.Connection {
  const topicName = (topic: string): string => names.topic?.(topic) ?? namePrefix + topic;
  const groupName = (topic: string, group: string): string => names.group?.(topic, group) ?? group;
  const find = ({ topic, name }: kit.GroupRef): Group | undefined =>
    broker.get(topicName(topic.name))?.groups.get(groupName(topic.name, name));
  const groupOf = (ref: kit.GroupRef): Group => {
    const group = find(ref);
    if (group === undefined) throw wrong(`topic "${ref.topic.name}" has no group "${ref.name}"; provision it first`);
    return group;
  };
  const remove = (ref: kit.GroupRef): void => {
    const group = find(ref);
    broker.get(topicName(ref.topic.name))?.groups.delete(groupName(ref.topic.name, ref.name));
    group?.wake();
  };
  const temporary = new Set<kit.GroupRef>();

  return {
    capabilities,
    native: broker,
    describeTopic: async (name) => broker.get(topicName(name)),

    async provision(items, mode) {
      const differences: string[] = [];
      for (const { topic: declared, groups } of items) {
        checkOptions(declared.options ?? {}, [], 'broker.array');
        const { name, ordered, lanes = 8 } = declared;
        const found = broker.get(topicName(name));
        const topic = found ?? { ordered, lanes: ordered ? lanes : undefined, groups: new Map<string, Group>() };
        if (mode === 'create') broker.set(topicName(name), topic);
        else if (found === undefined) differences.push(`topic "${name}" is missing`);
        for (const { name: group, options } of groups) {
          checkOptions(options ?? {}, [], 'broker.array');
          const existing = topic.groups.get(groupName(name, group));
          if (mode === 'create') topic.groups.set(groupName(name, group), existing ?? new Group());
          else if (existing === undefined) differences.push(`group "${group}" of topic "${name}" is missing`);
        }
      }
      return differences;
    },

    removeGroup: async (ref) => remove(ref),

    async publish(batch) {
      return batch.map((message) => {
        try {
          checkOptions(message.options ?? {}, [], 'broker.array');
          const topic = broker.get(topicName(message.topic.name));
          if (topic === undefined) throw wrong(`there is no topic "${message.topic.name}"; provision it first`);
          const notBefore = clock.monotonic() + (message.deliverAt ?? 0) - clock.now();
          for (const group of topic.groups.values()) group.add(message, notBefore);
          return { status: 'stored' };
        } catch (error) {
          if (!WaybillError.is(error)) throw error;
          return { status: 'failed', outcome: 'not-sent', retryable: false, error };
        }
      });
    },

    async openReceiver(source, events) {
      groupOf(source.group);
      if (source.group.temporary) temporary.add(source.group);
      const receiver = receiverOf(source, events, clock, () => find(source.group));
      const close = async (): Promise<void> => (source.group.temporary ? remove(source.group) : undefined);
      return { ...receiver, close };
    },

    countDeadLetters: async (ref) => ({ value: groupOf(ref).deadLetters.length, exact: true }),

    async openDeadLetters(ref) {
      const group = groupOf(ref);
      const unread = [...group.deadLetters];
      const take = (record: kit.DeadLetterRecord, again: boolean): kit.SettleResult => {
        const at = group.deadLetters.indexOf(record);
        if (at < 0) return 'lost';
        if (again) group.add({ ...record, expiresAt: undefined });
        group.deadLetters.splice(at, 1);
        return 'applied';
      };
      return {
        next: async (max) => unread.splice(0, max),
        redrive: async (records) => records.map((record) => take(record, true)),
        purge: async (records) => records.map((record) => take(record, false)),
        close: async () => {},
      };
    },

    async lag(ref) {
      const lag = { waiting: 0, delayed: 0, inFlight: 0 };
      for (const { notBefore, heldBy } of groupOf(ref).entries) {
        lag[notBefore <= clock.monotonic() ? 'waiting' : heldBy === undefined ? 'delayed' : 'inFlight']++;
      }
      return { ...lag, exact: true };
    },

    seek: async () => {}, // never called, because `log` is not supported
    ping: async () => {},
    close: async () => temporary.forEach(remove),
  };
}

function receiverOf(
  { group: { topic, name }, lease }: kit.Source,
  events: kit.ReceiverEvents,
  clock: kit.Clock,
  find: () => Group | undefined,
): Omit<kit.Receiver, 'close'> {
  const lane = '0';
  events.assigned([lane]);
  const entryOf = (delivery: kit.Delivery): Entry => delivery.native as Entry;

  const renew = (entry: Entry): number => {
    entry.notBefore = clock.monotonic() + lease;
    return entry.notBefore;
  };

  const handOut = (entry: Entry): kit.Delivery => {
    const { position, attempt } = entry;
    const leaseUntil = renew(entry);
    entry.heldBy = { ...copyOf(entry), lane, position, attempt, leaseUntil, deliveries: undefined, native: entry };
    return entry.heldBy;
  };

  return {
    async receive(max, finish) {
      for (;;) {
        const group = find();
        if (group === undefined) {
          events.failed(wrong(`group "${name}" of topic "${topic.name}" was deleted`));
          return [];
        }
        const now = clock.monotonic();
        const taken: kit.Delivery[] = [];
        const keysAhead = new Set<string>();
        let wakeAt = now + 60_000;
        for (const entry of group.entries) {
          if (taken.length === max) break;
          const { key, notBefore } = entry;
          const behind = key !== undefined && keysAhead.has(key);
          if (topic.ordered && key !== undefined) keysAhead.add(key);
          if (notBefore > now) wakeAt = Math.min(wakeAt, notBefore);
          else if (!behind) taken.push(handOut(entry));
        }
        if (taken.length > 0 || finish.aborted) return taken;
        await sleep(clock, wakeAt - now, AbortSignal.any([finish, group.changed.signal]));
      }
    },

    async settle(batch) {
      const group = find();
      const results = batch.map((settlement): kit.SettleResult => {
        const { delivery } = settlement;
        const entry = entryOf(delivery);
        const at = group?.entries.indexOf(entry) ?? -1;
        if (group === undefined || at < 0 || entry.heldBy !== delivery) return 'lost';
        entry.heldBy = undefined;
        entry.notBefore = 0;
        if (settlement.verb === 'giveBack') {
          entry.notBefore = clock.monotonic() + settlement.after;
          entry.attempt = settlement.attempt;
        }
        if (settlement.verb === 'deadLetter') group.deadLetters.push({ ...delivery, details: settlement.details });
        if (settlement.verb === 'ack' || settlement.verb === 'deadLetter') group.entries.splice(at, 1);
        return 'applied';
      });
      group?.wake();
      return results;
    },

    extend: async (deliveries) =>
      deliveries.map((delivery) => {
        const entry = entryOf(delivery);
        return entry.heldBy === delivery ? renew(entry) : undefined;
      }),

    // Never called: what waits behind its key stays in the array, so that nothing piles up in core.
    pauseLane() {},
    resumeLane() {},
  };
}
