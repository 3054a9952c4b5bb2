/** The adapter of `docs/writing-an-adapter.md`, as it stands in the page, under the suite. */
import { randomUUID } from 'node:crypto';
import type { Adapter } from '@waybill/core/adapter';
import { eventually } from '../src/eventually.ts';
import { InProcessLink } from '../src/harness/in-process-link.ts';
import type { AdapterUnderTest, ForeignClient, ForeignMessage } from '../src/harness.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { array, type Content, Group } from './array-adapter.generated.ts';
import { idsFromEnvironment } from './ids.ts';

const arrayUnderTest: AdapterUnderTest = {
  name: 'array',
  lease: 1_000,
  factory: array,
  start: async () => {
    const url = `array:${randomUUID()}`;
    // Cut when the broker "stops": it keeps its data, as one with a disk does.
    const mains = new InProcessLink();
    const target = (): Adapter => mains.wrap(array.fromUrl(url));
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
      foreign: foreignClient(url),
      doors: {
        closed: async () => {
          const away = new InProcessLink();
          away.cut('reset');
          const door = { what: 'a broker that is away', target: away.wrap(array.fromUrl(url)), cause: /cut/ };
          return [{ ...door, names: url, secret: undefined, final: false }];
        },
        open: async () => [{ what: 'this process', target: array.fromUrl(url) }],
        unknownParameter: `${url}?nonsense=1`,
      },
      dispose: async () => mains.mend(),
    };
  },
};

function foreignClient(url: string): ForeignClient {
  const broker = array.fromUrl(url).broker;
  const publish: ForeignClient['publish'] = async (topic, message) => {
    for (const group of broker.get(topic)?.groups.values() ?? []) group.add(contentOf(message));
  };
  return {
    keys: true,
    publish,
    read: async (topic) => {
      const copies = new Group();
      broker.get(topic)?.groups.set(randomUUID(), copies);
      return {
        next: async (within) => {
          await eventually('a copy of a message', () => copies.entries.length > 0, { within });
          const { body, key, headers } = copies.entries.shift() as Content;
          return { body, key, headers };
        },
        close: async () => {},
      };
    },
    maxBodyBytes: undefined,
    remove: async (part, { prefix = '', topic, group }) => {
      const groups = broker.get(prefix + topic)?.groups ?? new Map<string, Group>();
      const removed = part === 'topic' ? [...groups.values()] : [groups.get(group)];
      // Here a group's dead letters are a part of it and go with nothing less.
      if (part === 'topic') broker.delete(prefix + topic);
      if (part === 'group') groups.delete(group);
      for (const one of removed) one?.wake();
    },
    exists: async (part, { prefix = '', topic, group }) => {
      const found = broker.get(prefix + topic);
      return part === 'topic' ? found !== undefined : found?.groups.has(group) === true;
    },
    namesWith: async (text) =>
      [...broker]
        .flatMap(([topic, { groups }]) => [topic, ...[...groups.keys()].map((group) => `${topic}/${group}`)])
        .filter((name) => name.includes(text)),
    makeOwn: async () => {
      const [topic, group] = [`own topic ${randomUUID()}`, 'own group'];
      broker.set(topic, { ordered: false, lanes: undefined, groups: new Map([[group, new Group()]]) });
      return { target: array.fromUrl(url), topic, group, publish: (message) => publish(topic, message) };
    },
    retentionFaults: async () => [],
    trim: undefined,
  };
}

function contentOf({ body, key, contentType, headers = {} }: ForeignMessage): Content {
  const nothing = { id: undefined, type: undefined, publishedAt: undefined, expiresAt: undefined };
  return { ...nothing, body, key, contentType, headers };
}

defineConformanceSuite(arrayUnderTest, idsFromEnvironment());
