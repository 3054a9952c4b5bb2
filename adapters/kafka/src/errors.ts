import {
  ConfigError,
  ConnectionError,
  MessageTooLargeError,
  PublishError,
  type SendResult,
  WaybillError,
} from '@waybill/core/adapter';
import { KafkaFailure } from './driver.ts';

export const adapter = 'kafka';

/** Refusals that end by themselves: leaders and coordinators that move, brokers that start, replicas that lag. */
const passing = new Set([
  'CONNECTION',
  'TIMEOUT',
  'UNKNOWN_TOPIC_OR_PARTITION',
  'LEADER_NOT_AVAILABLE',
  'NOT_LEADER_FOR_PARTITION',
  'REQUEST_TIMED_OUT',
  'BROKER_NOT_AVAILABLE',
  'REPLICA_NOT_AVAILABLE',
  'NETWORK_EXCEPTION',
  'GROUP_LOAD_IN_PROGRESS',
  'GROUP_COORDINATOR_NOT_AVAILABLE',
  'NOT_COORDINATOR_FOR_GROUP',
  'NOT_ENOUGH_REPLICAS',
  'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
  'NOT_CONTROLLER',
  'REBALANCE_IN_PROGRESS',
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER_ID',
  'FENCED_LEADER_EPOCH',
  'UNKNOWN_LEADER_EPOCH',
  'OFFSET_NOT_AVAILABLE',
  'KAFKA_STORAGE_ERROR',
  'OUT_OF_ORDER_SEQUENCE_NUMBER',
  'UNKNOWN_PRODUCER_ID',
  'INVALID_PRODUCER_EPOCH',
  'UNSTABLE_OFFSET_COMMIT',
  'UNKNOWN',
]);

export const isPassing = (failure: KafkaFailure): boolean => passing.has(failure.code);

/** The connection, not the request, is at fault. */
export const isNetwork = (failure: KafkaFailure): boolean =>
  failure.code === 'CONNECTION' || failure.code === 'TIMEOUT' || failure.code === 'BROKER_NOT_AVAILABLE';

export function asFailure(error: unknown): KafkaFailure {
  if (error instanceof KafkaFailure) return error;
  // What was made of a failure for the user is still that failure, which may pass.
  if (WaybillError.is(error) && error.cause instanceof KafkaFailure) return error.cause;
  const text = error instanceof Error ? error.message : String(error);
  return new KafkaFailure('UNREADABLE', text, { sent: true, cause: error });
}

/** LIFE-04: what went wrong, where, and what to look at. */
export function connectionError(error: unknown, target: string): ConnectionError {
  const failure = asFailure(error);
  const hint = hints[failure.code];
  return new ConnectionError(`cannot reach ${target}: ${failure.message}${hint === undefined ? '' : `; ${hint}`}`, {
    adapter,
    cause: failure.cause ?? failure,
    retryable: isPassing(failure),
  });
}

const hints: Readonly<Record<string, string>> = {
  CONNECTION:
    'check host and port, and that the listener speaks plain text unless ssl is set, and wants no SASL unless it is given',
  TIMEOUT: 'check host and port, and whether the listener expects TLS (ssl=true)',
  AUTHENTICATION: 'check user, password and saslMechanism',
  TLS: 'check ssl: the listener may speak plain text, or its certificate is not trusted (ssl.ca)',
};

/** An error about something that was asked of the broker, for the user. */
export function toWaybillError(error: unknown, what: string, target: string): WaybillError {
  if (WaybillError.is(error)) return error;
  const failure = asFailure(error);
  if (failure.code === 'INVALID_TOPIC_EXCEPTION') return nameError(what, failure);
  if (failure.code.endsWith('AUTHORIZATION_FAILED')) {
    return new ConfigError('sasl', `${what}: ${failure.message}; the user may not do this on ${target}`, {
      adapter,
      cause: failure,
    });
  }
  return new ConnectionError(`${what}: ${failure.message} (${failure.code}, ${target})`, {
    adapter,
    cause: failure,
    retryable: isPassing(failure),
  });
}

function nameError(what: string, failure: KafkaFailure): ConfigError {
  const why = failure.message.includes('collides')
    ? 'Kafka takes . and _ for the same in names of topics; rename one of the two, or give it another name by `names.topic`'
    : 'give it another name by `names.topic`';
  return new ConfigError('topic', `${what}: ${failure.message}; ${why}`, { adapter, cause: failure });
}

/** Why a message was not stored. Only what was surely refused, or never sent, is `not-sent`. */
export function sendFailure(failure: KafkaFailure, topic: string, size: number, limit: number): SendResult {
  if (failure.code === 'MESSAGE_TOO_LARGE' || failure.code === 'RECORD_LIST_TOO_LARGE') {
    const error = new MessageTooLargeError(topic, size, Math.min(limit, size - 1), { adapter, cause: failure });
    return { status: 'failed', outcome: 'not-sent', retryable: false, error };
  }
  const outcome = isUnknown(failure) ? 'unknown' : 'not-sent';
  const retryable = isPassing(failure);
  const text = `Kafka did not take a message for topic "${topic}": ${failure.message} (${failure.code})`;
  return { status: 'failed', outcome, retryable, error: new PublishError(text, { adapter, outcome, cause: failure }) };
}

/**
 * Answers after which a batch may be stored all the same. A leader that is deposed while it waits for its replicas says
 * that it leads no more, also about what these have taken already.
 */
const doubtful = new Set([
  'CONNECTION',
  'TIMEOUT',
  'CLOSED',
  'UNREADABLE',
  'UNKNOWN',
  'NETWORK_EXCEPTION',
  'REQUEST_TIMED_OUT',
  'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
  'NOT_LEADER_FOR_PARTITION',
  'REPLICA_NOT_AVAILABLE',
  'FENCED_LEADER_EPOCH',
  'KAFKA_STORAGE_ERROR',
]);

/** Whether nobody knows if what was sent is stored. */
export const isUnknown = (failure: KafkaFailure): boolean => failure.sent && doubtful.has(failure.code);
