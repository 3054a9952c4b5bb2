import type { Broker } from './broker/broker.ts';
import type { Content, StoredMessage } from './broker/message.ts';
import type { Topic } from './broker/topic.ts';
import { noTopic } from './errors.ts';

/** A topic as it stands on the broker. */
export interface MemoryTopic {
  readonly name: string;
  readonly ordered: boolean;
  /** 1 for a topic without order. */
  readonly lanes: number;
  readonly groups: readonly string[];
}

/** A message by a program that knows nothing of Waybill. */
export type PlainMessage = { readonly body: Uint8Array } & Partial<Content>;

/**
 * A memory broker as a program without Waybill sees it: what a client library of its own would offer. For tests:
 * foreign messages, topology that comes and goes, and a network that fails. Names are those on the broker.
 */
export interface MemoryBroker {
  topics(): readonly MemoryTopic[];
  /** Makes a topic unless it exists: ordered with this many lanes, without order when `lanes` is left out. */
  createTopic(name: string, options?: { readonly lanes?: number }): void;
  /**
   * Makes a group that starts with the next message, unless it exists.
   * @throws ConfigError when there is no such topic
   */
  createGroup(topic: string, group: string): void;
  /** Deletes a topic with its groups, under whoever uses it (LIFE-07). */
  deleteTopic(name: string): void;
  /** Deletes a group with its retries and dead letters, under whoever uses it. */
  deleteGroup(topic: string, group: string): void;
  /**
   * Publishes a message of any size and without checks; returns its position.
   * @throws ConfigError when there is no such topic
   */
  publish(topic: string, message: PlainMessage): string;
  /**
   * What a topic's log keeps from a position on; from the oldest on by default.
   * @throws ConfigError when there is no such topic
   */
  read(topic: string, from?: string): readonly StoredMessage[];
  /**
   * Forgets all messages that a topic keeps, as a retention does that groups could not keep up with (RET-02).
   * @throws ConfigError when there is no such topic
   */
  trim(topic: string): void;
  /**
   * Cuts off the bus of this name, or all: their calls fail with a retryable `ConnectionError`, and so do new
   * connections. The broker keeps its data, and its time goes on: leases end, delays come due.
   */
  disconnect(client?: string): void;
  /** Mends what `disconnect` has cut: for the bus of this name, or for all. */
  reconnect(client?: string): void;
}

export function clientOf(broker: Broker): MemoryBroker {
  const topicOf = (name: string): Topic => {
    const topic = broker.topics.get(name);
    if (topic === undefined) throw noTopic(broker.target, name);
    return topic;
  };
  return {
    topics: () =>
      [...broker.topics.values()].map(({ name, ordered, lanes, groups }) => ({
        name,
        ordered,
        lanes,
        groups: [...groups.keys()],
      })),
    createTopic(name, options = {}) {
      if (!broker.topics.has(name)) broker.addTopic(name, options.lanes);
    },
    createGroup(topicName, group) {
      const topic = topicOf(topicName);
      if (!topic.groups.has(group)) topic.addGroup(group, false, topic.log.end);
    },
    deleteTopic: (name) => broker.removeTopic(name),
    deleteGroup: (topic, group) => broker.topics.get(topic)?.removeGroup(group),
    publish(topicName, message) {
      const topic = topicOf(topicName);
      const position = topic.publish({ ...foreign, ...message }, undefined);
      topic.serve();
      return String(position);
    },
    read(topicName, from = '0') {
      const { log } = topicOf(topicName);
      const messages: StoredMessage[] = [];
      for (let at = Math.max(log.first, Number(from)); at < log.end; at++) messages.push(log.at(at));
      return messages;
    },
    trim: (name) => topicOf(name).forget(),
    disconnect: (client) => broker.disconnect(client),
    reconnect: (client) => broker.reconnect(client),
  };
}

/** What a foreign message has beside its body. */
const foreign: Omit<Content, 'body'> = {
  id: undefined,
  key: undefined,
  type: undefined,
  contentType: undefined,
  headers: {},
  publishedAt: undefined,
  expiresAt: undefined,
};
