import { randomUUID } from 'node:crypto';
import { type MemoryBroker, memory, memoryBroker, type StoredMessage } from '@waybill/core';
import type { Adapter } from '@waybill/core/adapter';
import { eventually } from '../eventually.ts';
import type { AdapterUnderTest, ForeignClient, ForeignCopy, Place } from '../harness.ts';
import { inProcessBroker } from './in-process.ts';

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
      return inProcessBroker({
        url,
        adapter: () => wrap(memory.fromUrl(url)),
        foreign: foreignClient(memoryBroker(name), url),
        doors: { unknownParameter: `${url}?nonsense=1` },
      });
    },
  };
}

function foreignClient(broker: MemoryBroker, url: string): ForeignClient {
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
      return { target: url, topic, group, publish: async (message) => void broker.publish(topic, message) };
    },
    // Groups live as long as the process, and there is nothing to set.
    retentionFaults: async () => [],
    trim: async (topic) => broker.trim(topic),
  };
}

function copyOf({ content }: StoredMessage): ForeignCopy {
  return { body: content.body, key: content.key, headers: content.headers };
}
