import type {
  AdapterContext,
  AdapterFactory,
  Capabilities,
  Connection,
  DeadLetterRecord,
  Delivery,
  GroupRef,
  Receiver,
  ReceiverEvents,
  SendResult,
  SettleResult,
  Source,
} from '@waybill/core/adapter';
import { ConfigError, checkOptions, LeaseLostError, parseBrokerUrl, readParams, sleep } from '@waybill/core/adapter';

/** What a message is made of; a stranger's has a body and perhaps nothing else. */
export type Content = Omit<DeadLetterRecord, 'position' | 'native' | 'details' | 'alone'>;

/** A group's own copy of a message, in its array from the publish until it is settled. */
interface Entry extends Content {
  readonly position: string;
  attempt: number;
  /** It is not handed out before this time: the end of a delay, or of a lease. */
  notBefore: number;
  /** The handing-out that may settle it. */
  heldBy: Delivery | undefined;
}

export class Group {
  readonly entries: Entry[] = [];
  readonly deadLetters: DeadLetterRecord[] = [];
  changed = new AbortController();
  #count = 0;

  add({ id, key, type, contentType, body, headers, publishedAt, expiresAt }: Content, notBefore = 0): void {
    const content = { id, key, type, contentType, body: new Uint8Array(body), headers, publishedAt, expiresAt };
    this.entries.push({ ...content, position: `${++this.#count}`, attempt: 1, notBefore, heldBy: undefined });
    this.wake();
  }

  /** Lets every `receive` that waits look again. */
  wake(): void {
    const { changed } = this;
    this.changed = new AbortController();
    changed.abort();
  }
}

export interface Topic {
  readonly ordered: boolean;
  readonly lanes: number | undefined;
  readonly groups: Map<string, Group>;
}

export type ArrayBroker = Map<string, Topic>;

const brokers = new Map<string, ArrayBroker>();

/** `array:name` is one broker for the whole process. */
export const array = {
  name: 'array',
  schemes: ['array'],
  fromUrl(text: string) {
    const url = parseBrokerUrl(text);
    readParams(url, {});
    const broker: ArrayBroker = brokers.get(url.shown) ?? new Map();
    brokers.set(url.shown, broker);
    const connect = async (context: AdapterContext): Promise<Connection> => connectTo(broker, context);
    return { name: 'array', target: url.shown, native: broker, connect };
  },
} satisfies AdapterFactory;

const capabilities: Capabilities = {
  lease: { kind: 'delivery', min: 1_000, max: 3_600_000, maxHandling: Number.POSITIVE_INFINITY },
  maxMessageBytes: 1_024 * 1_024,
  maxDelay: Number.POSITIVE_INFINITY,
  publish: { maxMessages: 100, maxBytes: 16 * 1_024 * 1_024, maxInFlight: 1 },
  log: { supported: false, reason: 'a message leaves the array when it is settled' },
  orderedAttempts: { supported: false, reason: 'a message of an ordered topic is retried by the member that has it' },
  countsDeliveries: { supported: false, reason: 'the array does not count how often it hands out a message' },
  cleanJoin: { supported: true },
  knowsOrder: { supported: true },
  openPeek: { supported: true },
  broadcastCleanup: 0,
  retention: 'Everything is kept until it is settled, as long as the process lives.',
};

function connectTo(broker: ArrayBroker, context: AdapterContext): Connection {
  const { clock, names, namePrefix } = context;
  const topicName = (topic: string): string => names.topic?.(topic) ?? namePrefix + topic;
  const groupName = (topic: string, group: string): string => names.group?.(topic, group) ?? group;
  const find = ({ topic, name }: GroupRef): Group | undefined =>
    broker.get(topicName(topic.name))?.groups.get(groupName(topic.name, name));
  const groupOf = (ref: GroupRef): Group => {
    const group = find(ref);
    if (group === undefined) throw wrong(`topic "${ref.topic.name}" has no group "${ref.name}"`);
    return group;
  };
  const temporary = new Set<GroupRef>();

  const connection: Connection = {
    capabilities,
    native: broker,

    async describeTopic(name) {
      return broker.get(topicName(name));
    },

    async provision(items, mode) {
      const differences: string[] = [];
      for (const { topic: declared, groups } of items) {
        checkOptions(declared.options ?? {}, [], 'broker.array');
        const { name, ordered, lanes = 8 } = declared;
        const topic = broker.get(topicName(name)) ?? { ordered, lanes: ordered ? lanes : undefined, groups: new Map() };
        if (topic.ordered !== ordered) differences.push(`topic "${name}" is ${topic.ordered ? '' : 'not '}ordered`);
        if (mode === 'create') broker.set(topicName(name), topic);
        else if (!broker.has(topicName(name))) differences.push(`topic "${name}" is missing`);
        for (const group of groups) {
          checkOptions(group.options ?? {}, [], 'broker.array');
          const own = groupName(name, group.name);
          if (mode === 'create' && !topic.groups.has(own)) topic.groups.set(own, new Group());
          if (!topic.groups.has(own)) differences.push(`group "${own}" of topic "${name}" is missing`);
        }
      }
      return differences;
    },

    async removeGroup(ref) {
      const group = find(ref);
      broker.get(topicName(ref.topic.name))?.groups.delete(groupName(ref.topic.name, ref.name));
      group?.wake();
    },

    async publish(batch) {
      return batch.map((message): SendResult => {
        const { topic: to, options = {}, deliverAt = 0 } = message;
        const topic = broker.get(topicName(to.name));
        try {
          checkOptions(options, [], 'broker.array');
          if (topic === undefined) throw wrong(`there is no topic "${to.name}"`);
        } catch (error) {
          return { status: 'failed', outcome: 'not-sent', retryable: false, error: error as ConfigError };
        }
        const notBefore = clock.monotonic() + deliverAt - clock.now();
        for (const group of topic.groups.values()) group.add(message, notBefore);
        return { status: 'stored' };
      });
    },

    async openReceiver(source, events) {
      groupOf(source.group);
      if (source.group.temporary) temporary.add(source.group);
      return receiverOf(source, events, context, connection, () => find(source.group));
    },

    async countDeadLetters(ref) {
      return { value: groupOf(ref).deadLetters.length, exact: true };
    },

    async openDeadLetters(ref) {
      const group = groupOf(ref);
      const unread = [...group.deadLetters];
      const take = (record: DeadLetterRecord): boolean => {
        const at = group.deadLetters.indexOf(record);
        if (at >= 0) group.deadLetters.splice(at, 1);
        return at >= 0;
      };
      return {
        next: async (max) => unread.splice(0, max),
        purge: async (records) => records.map((record) => (take(record) ? 'applied' : 'lost')),
        redrive: async (records) =>
          records.map((record) => {
            if (!take(record)) return 'lost';
            group.add({ ...record, expiresAt: undefined });
            return 'applied';
          }),
        close: async () => {},
      };
    },

    async lag(ref) {
      const { entries } = groupOf(ref);
      const now = clock.monotonic();
      const waiting = entries.filter(({ notBefore }) => notBefore <= now).length;
      const inFlight = entries.filter(({ notBefore, heldBy }) => notBefore > now && heldBy !== undefined).length;
      return { waiting, inFlight, delayed: entries.length - waiting - inFlight, exact: true };
    },

    async seek() {}, // never called: `log` is not supported
    async ping() {},
    async close() {
      for (const group of temporary) await connection.removeGroup(group);
    },
  };
  return connection;
}

const lane = '0';

const wrong = (text: string): ConfigError => new ConfigError('topology', text, { adapter: 'array' });

function receiverOf(
  source: Source,
  events: ReceiverEvents,
  { clock, topology }: AdapterContext,
  connection: Connection,
  find: () => Group | undefined,
): Receiver {
  let paused = false;

  const handOut = (entry: Entry): Delivery => {
    entry.notBefore = clock.monotonic() + source.lease;
    entry.heldBy = {
      ...entry,
      body: new Uint8Array(entry.body),
      lane,
      deliveries: undefined,
      leaseUntil: entry.notBefore,
      native: entry,
    };
    return entry.heldBy;
  };

  /** Somebody has deleted the group: it is made again, or the subscription fails (LIFE-07). */
  const makeAgain = async (): Promise<void> => {
    const { topic, name, temporary } = source.group;
    const text = `group "${name}" of topic "${topic.name}" was deleted`;
    if (topology !== 'create' && !temporary) return events.failed(wrong(text));
    events.lost([lane], new LeaseLostError(text, { adapter: 'array' }));
    const group = { name, temporary, startAt: 'latest', options: source.options } as const;
    await connection.provision([{ topic, groups: [group] }], 'create');
    events.positionLost(lane, `${text} and made again`);
  };

  return {
    async receive(max, finish) {
      for (;;) {
        const group = find();
        if (group === undefined) {
          await makeAgain();
          return [];
        }
        const now = clock.monotonic();
        const taken: Delivery[] = [];
        const keysAhead = new Set<string>();
        let wakeAt = now + 60_000;
        for (const entry of paused ? [] : group.entries) {
          if (taken.length === max) break;
          const behind = entry.key !== undefined && keysAhead.has(entry.key);
          if (source.group.topic.ordered && entry.key !== undefined) keysAhead.add(entry.key);
          if (entry.notBefore > now) wakeAt = Math.min(wakeAt, entry.notBefore);
          else if (!behind) taken.push(handOut(entry));
        }
        if (taken.length > 0 || finish.aborted) return taken;
        await sleep(clock, wakeAt - now, AbortSignal.any([finish, group.changed.signal]));
      }
    },

    async settle(batch) {
      const group = find();
      const results = batch.map((settlement): SettleResult => {
        const { delivery } = settlement;
        const entry = delivery.native as Entry;
        const at = group?.entries.indexOf(entry) ?? -1;
        if (group === undefined || at < 0 || entry.heldBy !== delivery) return 'lost';
        entry.heldBy = undefined;
        entry.notBefore = 0;
        if (settlement.verb === 'giveBack') {
          entry.attempt = settlement.attempt;
          entry.notBefore = clock.monotonic() + settlement.after;
        } else if (settlement.verb !== 'abandon') {
          group.entries.splice(at, 1);
          if (settlement.verb === 'deadLetter') group.deadLetters.push({ ...delivery, details: settlement.details });
        }
        return 'applied';
      });
      group?.wake();
      return results;
    },

    async extend(deliveries) {
      return deliveries.map((delivery) => {
        const entry = delivery.native as Entry;
        if (entry.heldBy !== delivery) return undefined;
        entry.notBefore = clock.monotonic() + source.lease;
        return entry.notBefore;
      });
    },

    pauseLane() {
      paused = true;
    },
    resumeLane() {
      paused = false;
      find()?.wake();
    },

    async close() {
      if (source.group.temporary) await connection.removeGroup(source.group);
    },
  };
}
