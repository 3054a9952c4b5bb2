/** `@waybill/core/outbox`: publishing in two steps, for an outbox that keeps messages between them. */
import { type Clock, systemClock } from './clock.ts';
import { type Codec, jsonCodec } from './codec.ts';
import { throughMiddleware } from './compose.ts';
import { type EncodedMessage, type Forwarder, forwarding } from './encoded.ts';
import { ConfigError } from './errors.ts';
import { type AnyTopic, resolveTopic } from './topic.ts';
import type { Bus, PublishMiddleware, PublishOptions, Receipt } from './types.ts';
import { encodeMessage } from './validate.ts';

export type { EncodedMessage, TopicDeclaration } from './encoded.ts';

export interface EncodeSetup {
  /** For topics without a codec of their own. Default: JSON. */
  readonly codec?: Codec;
  /** Default: the system's. */
  readonly clock?: Clock;
  /** Runs around every publish; the first in the list is outermost. The bus that sends it later runs none. */
  readonly middleware?: readonly PublishMiddleware[];
}

/**
 * Checks and encodes a publish as `bus.publish` would, and lets `keep` have it. What only the broker knows is checked
 * when it is sent: its longest delay, its largest message, the order of a topic that was not declared.
 *
 * @throws InvalidMessageError, ConfigError naming the field, as `publish` does
 */
export async function publishTo(
  keep: (message: EncodedMessage) => Promise<Receipt>,
  topic: AnyTopic | string,
  data: unknown,
  options: PublishOptions = {},
  { codec = jsonCodec, clock = systemClock, middleware }: EncodeSetup = {},
): Promise<Receipt> {
  const definition = resolveTopic(topic);
  const { name, ordered, lanes, broker } = definition;
  const on = { name, ordered: ordered ?? false, lanes, options: undefined };
  const context = { codec, clock, adapter: '', maxDelay: Number.POSITIVE_INFINITY };
  return throughMiddleware(middleware, definition, data, options, async (final) => {
    const encoded = await encodeMessage(definition, on, data, final, context);
    const { topic: _, options: __, ...rest } = encoded;
    return keep({ ...rest, topic: { name, ordered, lanes, broker }, broker: final.broker });
  });
}

/**
 * Sends an encoded message through the bus's own queue and batches. Its id, key, headers and times stay as they are,
 * and publish middleware does not run again. Resolves and rejects as `bus.publish` does.
 *
 * @throws ConfigError when `bus` is not one of Waybill's
 * @throws UnsupportedError, InvalidMessageError where this broker cannot take it: sending it again is in vain
 */
export async function send(
  bus: Bus,
  message: EncodedMessage,
  options: { readonly signal?: AbortSignal } = {},
): Promise<Receipt> {
  const forwarder = bus as Partial<Forwarder> | undefined;
  if (typeof forwarder?.[forwarding] !== 'function') throw new ConfigError('bus', 'is not a bus of connect()');
  return forwarder[forwarding](message, options);
}
