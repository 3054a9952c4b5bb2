import { MessageTooLargeError, type OutgoingMessage, type SendResult, WaybillError } from '@waybill/core/adapter';
import type { Database } from './database.ts';
import { adapterName, isUnclear, noTopic, unknownOption } from './errors.ts';
import { append, appendLater, deliverDue, saveTopic, type TopicRow } from './log.ts';
import type { Store } from './store.ts';
import type { Topology } from './topology.ts';

export interface PublishOptions {
  readonly maxMessageBytes: number;
  /** Whether a topic that is missing is made. */
  readonly makeTopics: boolean;
}

/** Stores a batch in one transaction. */
export async function publish(
  store: Store,
  topology: Topology,
  batch: readonly OutgoingMessage[],
  options: PublishOptions,
): Promise<readonly SendResult[]> {
  try {
    return await store.write((database) => storeAll(database, store.clock.now(), topology, batch, options));
  } catch (error) {
    if (!WaybillError.is(error)) throw error;
    // A transaction that is not committed left nothing behind; where the disk failed nobody can tell.
    const outcome = isUnclear(error.cause) ? 'unknown' : 'not-sent';
    return batch.map(() => ({ status: 'failed', outcome, retryable: true, error }));
  }
}

function storeAll(
  database: Database,
  now: number,
  topology: Topology,
  batch: readonly OutgoingMessage[],
  { maxMessageBytes, makeTopics }: PublishOptions,
): SendResult[] {
  const topics = new Map<string, TopicRow>();
  const results = batch.map((message): SendResult => {
    const { name } = message.topic;
    const mistake = unknownOption(message.options);
    if (mistake !== undefined) return refused(mistake);
    const size = message.body.byteLength;
    if (size > maxMessageBytes) {
      return refused(new MessageTooLargeError(name, size, maxMessageBytes, { adapter: adapterName }));
    }
    let topic = topics.get(name) ?? findTopic(database, topology, name, now);
    if (topic === undefined) {
      if (!makeTopics) return refused(noTopic(topology.target, topology.topicName(name)));
      topic = topology.makeTopic(database, message.topic);
    }
    topics.set(name, topic);
    if (message.deliverAt !== undefined && message.deliverAt > now) {
      appendLater(database, topic.id, message, message.deliverAt);
      return { status: 'stored' };
    }
    return { status: 'stored', position: String(append(database, topic, message, now)) };
  });
  for (const topic of topics.values()) {
    saveTopic(database, topic);
    database.touched.add(topic.id);
  }
  return results;
}

/** What was published earlier and is due by now comes first. */
function findTopic(database: Database, topology: Topology, name: string, now: number): TopicRow | undefined {
  const topic = topology.findTopic(database, name);
  return topic !== undefined && deliverDue(database, topic.id, now) > 0 ? topology.findTopic(database, name) : topic;
}

const refused = (error: WaybillError): SendResult => ({
  status: 'failed',
  outcome: 'not-sent',
  retryable: false,
  error,
});
