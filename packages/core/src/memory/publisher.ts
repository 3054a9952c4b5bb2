import type { OutgoingMessage, SendResult } from '../adapter.ts';
import { MessageTooLargeError, type WaybillError } from '../errors.ts';
import type { Topic } from './broker/topic.ts';
import { noTopic, unknownOption } from './errors.ts';
import type { Topology } from './topology.ts';

/** Stores a batch, and then serves whoever waits for it. */
export function publish(
  topology: Topology,
  batch: readonly OutgoingMessage[],
  options: { readonly maxMessageBytes: number; readonly makeTopics: boolean },
): SendResult[] {
  const topics = new Set<Topic>();
  const results = batch.map((message): SendResult => {
    const { name } = message.topic;
    const mistake = unknownOption(message.options);
    if (mistake !== undefined) return refused(mistake);
    if (message.body.byteLength > options.maxMessageBytes) {
      const size = message.body.byteLength;
      return refused(new MessageTooLargeError(name, size, options.maxMessageBytes, { adapter: 'memory' }));
    }
    const topic = topology.findTopic(name) ?? (options.makeTopics ? topology.makeTopic(message.topic) : undefined);
    if (topic === undefined) return refused(noTopic(topology.link.broker.target, name));
    topics.add(topic);
    const position = topic.publish(message, message.deliverAt);
    return position === undefined ? { status: 'stored' } : { status: 'stored', position: String(position) };
  });
  for (const topic of topics) topic.serve();
  return results;
}

/** What a batch comes to while the broker cannot be reached. */
export function notSent(batch: readonly OutgoingMessage[], error: WaybillError): SendResult[] {
  return batch.map(() => ({ status: 'failed', outcome: 'not-sent', retryable: true, error }));
}

const refused = (error: WaybillError): SendResult => ({
  status: 'failed',
  outcome: 'not-sent',
  retryable: false,
  error,
});
