export type * from './adapter.ts';
export { type Clock, systemClock, type Timer } from './clock.ts';
export { type Codec, jsonCodec } from './codec.ts';
export { type ConnectOptions, connect } from './connect.ts';
export type { DeadLetter, DeadLetterSelection, DeadLetters } from './dead-letters.ts';
export type {
  DiagnosticEvents,
  HandleEvent,
  PublishEvent,
  SettleEvent,
  SubscriptionEvent,
} from './diagnostics.ts';
export { type Duration, duration } from './duration.ts';
export * from './errors.ts';
export {
  type Claim,
  type ClaimOutcome,
  type Fence,
  type IdempotencyStore,
  type Inbox,
  type MemoryStoreOptions,
  memoryStore,
} from './idempotency.ts';
export type { Logger } from './logger.ts';
export * from './memory/index.ts';
export type { StandardSchema } from './schema.ts';
export {
  type AnyTopic,
  type Consumer,
  consumer,
  type EventOf,
  type EventSchemas,
  type EventTopic,
  type EventTopicOptions,
  type InputOf,
  type MessageOf,
  type OutputOf,
  type SchemaTopicOptions,
  type Topic,
  type TopicOptions,
  topic,
} from './topic.ts';
export type * from './types.ts';
export type { DeadLetterReason } from './wire.ts';
