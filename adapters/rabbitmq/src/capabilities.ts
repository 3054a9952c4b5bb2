import { type Capabilities, handlingWithin, type Support, waitBefore } from '@waybill/core/adapter';
import { maxDelay } from './delay.ts';
import type { Settings } from './options.ts';
import { temporaryExpiry } from './topology.ts';

const yes: Support = { supported: true };
const no = (reason: string): Support => ({ supported: false, reason });

/** Silence of a peer that the broker bears, in heartbeats: it let go after 2.0 to 3.0 of them, measured. */
const heartbeatsToDeath = 3;

/** Milliseconds after which what core has not taken goes back to the queue: somebody else may be idle. */
export function longestWait(consumerTimeout: number): number {
  return Math.min(5 * 60_000, waitBefore(handlingWithin(consumerTimeout)));
}

export function capabilitiesOf(settings: Settings): Capabilities {
  const { heartbeat, maxMessageBytes, consumerTimeout, queueType } = settings;
  return {
    lease: {
      kind: 'connection',
      min: Math.max(1_000, heartbeatsToDeath * heartbeat),
      max: 60 * 60_000,
      maxHandling: handlingWithin(consumerTimeout),
    },
    maxMessageBytes,
    maxDelay,
    publish: { maxMessages: 1_000, maxBytes: Math.max(maxMessageBytes, 16 * 1024 * 1024) + 64 * 1024, maxInFlight: 4 },
    log: no('a RabbitMQ queue keeps no message that was acked'),
    groups: yes,
    orderedAttempts: no('a RabbitMQ queue counts every return of a message, not the attempts'),
    countsDeliveries: queueType === 'quorum' ? yes : no('classic queues do not count deliveries; quorum queues do'),
    cleanJoin: yes,
    knowsOrder: yes,
    tellsLostPosition: yes,
    openPeek: no('a RabbitMQ queue shows a message only by handing it out'),
    broadcastCleanup: temporaryExpiry,
    retention:
      `${queueType === 'quorum' ? 'quorum' : 'durable classic'} queues without length limit, time-to-live or expiry; ` +
      'a broadcast queue is deleted at close, or when nobody has read it for a minute',
  };
}
