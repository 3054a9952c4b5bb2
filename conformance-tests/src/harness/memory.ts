import { randomUUID } from 'node:crypto';
import { type MemoryBroker, memory, memoryBroker, type StoredMessage } from '@waybill/core';
import type { Adapter } from '@waybill/core/adapter';
import { eventually } from '../eventually.ts';
import type { AdapterUnderTest, BrokerUnderTest, Doors, ForeignClient, ForeignCopy, Place } from '../harness.ts';
import { InProcessLink } from './in-process-link.ts';

export interface MemoryHarnessOptions {
  /** Put around the adapter of every bus and member: how the suite's own test plants its faults. */
  readonly wrap?: (adapter: Adapter) => Adapter;
}

const LEASE = 1_000;

/** The memory broker. Members run in this process, on links that are severed when they are killed. */
export function memoryUnderTest({ wrap = (adapter) => adapter }: MemoryHarnessOptions = {}): AdapterUnderTest {
  return {
    name: 'memory',
    lease: LEASE,
    start: async () => {
      const name = `conformance-${randomUUID()}`;
      const url = `memory:${name}`;
      // Cut when the broker "stops": it keeps its data, as one with a disk does.
      const mains = new InProcessLink();
      const target = (): Adapter => mains.wrap(wrap(memory.fromUrl(url)));
      const broker: BrokerUnderTest = {
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
        foreign: foreignClient(memoryBroker(name), target),
        doors: doors(url),
        dispose: async () => mains.mend(),
      };
      return broker;
    },
  };
}

function foreignClient(broker: MemoryBroker, target: () => Adapter): ForeignClient {
  const groupsOf = (topic: string): readonly string[] =>
    broker.topics().find(({ name }) => name === topic)?.groups ?? [];
  const nameOf = ({ topic, prefix = '' }: Place): string => prefix + topic;
  return {
    keys: true,
    publish: async (topic, message) => void broker.publish(topic, message),
    read: async (topic) => {
      let next = broker.read(topic).length;
      return {
        next: async (within) => {
          const message = await eventually('a copy of a message', () => broker.read(topic)[next], { within });
          next++;
          return copyOf(message as StoredMessage);
        },
        close: async () => {},
      };
    },
    maxBodyBytes: undefined,
    remove: async (part, place) => {
      if (part === 'topic') broker.deleteTopic(nameOf(place));
      // Here a group's dead letters are a part of it and go with nothing less.
      if (part === 'group') broker.deleteGroup(nameOf(place), place.group);
    },
    exists: async (part, place) =>
      part === 'topic'
        ? broker.topics().some(({ name }) => name === nameOf(place))
        : groupsOf(nameOf(place)).includes(place.group),
    namesWith: async (text) =>
      broker
        .topics()
        .flatMap(({ name, groups }) => [name, ...groups.map((group) => `${name}/${group}`)])
        .filter((name) => name.includes(text)),
    makeOwn: async () => {
      const topic = `own topic ${randomUUID()}`;
      const group = 'own group';
      broker.createTopic(topic);
      broker.createGroup(topic, group);
      return { target: target(), topic, group, publish: async (message) => void broker.publish(topic, message) };
    },
    // Groups live as long as the process, and there is nothing to set.
    retentionFaults: async () => [],
    trim: async (topic) => broker.trim(topic),
  };
}

function copyOf({ content }: StoredMessage): ForeignCopy {
  return { body: content.body, key: content.key, headers: content.headers };
}

function doors(url: string): Doors {
  const name = `conformance-away-${randomUUID()}`;
  return {
    closed: async () => {
      memoryBroker(name).disconnect();
      const target = memory({ name });
      return [{ what: 'a broker that is away', target, cause: /cut/, names: name, secret: undefined, final: false }];
    },
    // There is no network, and nobody to prove oneself to.
    open: async () => [{ what: 'this process', target: url }],
    unknownParameter: `${url}?nonsense=1`,
  };
}
