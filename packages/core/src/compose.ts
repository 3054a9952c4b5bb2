import { randomUUID } from 'node:crypto';
import { diagnostics } from './diagnostics.ts';
import type { ReceivedMessage } from './message.ts';
import type { TopicDefinition } from './topic.ts';
import type {
  ConsumeDelivery,
  ConsumeMiddleware,
  Outgoing,
  PublishMiddleware,
  PublishOptions,
  Receipt,
} from './types.ts';
import { keyOf } from './validate.ts';

/** Calls a handler with one attempt's messages, and under an inbox with its transaction. */
export type Call = (messages: readonly ReceivedMessage[], signal: AbortSignal | undefined, tx?: unknown) => unknown;

/** Puts middleware around a handler, once per subscription: the first is outermost; without any, nothing is added. */
export function withMiddleware(call: Call, middleware: readonly ConsumeMiddleware[], batch: boolean): Call {
  if (middleware.length === 0) return call;
  return (messages, signal) => {
    const delivery: ConsumeDelivery = batch
      ? { kind: 'batch', messages }
      : { kind: 'single', message: messages[0] as ReceivedMessage };
    const run = async (at: number): Promise<void> => {
      const current = middleware[at];
      if (current === undefined) await call(messages, signal);
      else await current(delivery, () => run(at + 1));
    };
    return run(0);
  };
}

/** Tells the diagnostics channel of each call; costs a look at a flag while nobody listens. */
export function withDiagnostics(
  call: Call,
  place: { readonly adapter: string; readonly topic: string; readonly group: string },
  now: () => number,
): Call {
  return (messages, signal, tx) => {
    if (!diagnostics.handle.hasSubscribers) return call(messages, signal, tx);
    const started = now();
    const tell = (phase: 'start' | 'end', failure: { error?: unknown }): void =>
      diagnostics.handle.publish({
        ...place,
        phase,
        messages,
        duration: phase === 'start' ? 0 : now() - started,
        ...failure,
      });
    tell('start', {});
    return (async () => {
      try {
        await call(messages, signal, tx);
        tell('end', {});
      } catch (error) {
        tell('end', { error });
        throw error;
      }
    })();
  };
}

/** Publishes through middleware: the first is outermost, and what they made of id, key and headers is published. */
export function throughMiddleware(
  middleware: readonly PublishMiddleware[] | undefined,
  definition: TopicDefinition,
  data: unknown,
  options: PublishOptions,
  publish: (options: PublishOptions) => Promise<Receipt>,
): Promise<Receipt> {
  if (middleware === undefined || middleware.length === 0) return publish(options);
  const type = options.type ?? definition.event;
  const outgoing: Outgoing = {
    topic: definition.name,
    data,
    id: options.id ?? randomUUID(),
    key: keyOf(definition, data, type, options.key),
    type,
    headers: { ...options.headers },
  };
  const run = (at: number): Promise<Receipt> => {
    const current = middleware[at];
    if (current !== undefined) return current(outgoing, () => run(at + 1));
    const { id, key, headers } = outgoing;
    return publish({ ...options, id, headers, ...(key === undefined ? {} : { key }) });
  };
  return run(0);
}
