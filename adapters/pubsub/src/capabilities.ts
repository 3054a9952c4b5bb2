import type { Capabilities, Support } from '@waybill/core/adapter';
import { maxDelay } from './delay.ts';
import { limits } from './message.ts';
import type { Settings } from './options.ts';
import { temporaryExpiry } from './topology.ts';

const yes: Support = { supported: true };
const no = (reason: string): Support => ({ supported: false, reason });

/** Bytes of a request that are kept for headers, ours included. */
const headerReserve = 64 * 1_024;

export function capabilitiesOf(settings: Settings): Capabilities {
  return {
    // What a member was sent and never got is hidden for the shortest deadline that a subscription can have, 10 s.
    lease: { kind: 'delivery', min: 10_000, max: 600_000, maxHandling: maxDelay },
    maxMessageBytes: limits.requestBytes - headerReserve,
    maxDelay,
    publish: { maxMessages: limits.messagesPerPublish, maxBytes: limits.requestBytes, maxInFlight: 8 },
    log: settings.retainFor === undefined ? no('retainFor is false, so topics keep nothing') : yes,
    groups: yes,
    orderedAttempts: no('nothing can be written on a message that Pub/Sub holds for its key'),
    countsDeliveries: no(
      'Pub/Sub counts deliveries only together with a dead-letter policy of its own, which also moves messages that no handler was given',
    ),
    cleanJoin: yes,
    knowsOrder: yes,
    tellsLostPosition: no('Pub/Sub drops what nobody has acked within 31 days without a trace'),
    openPeek: no('Pub/Sub shows a message only by handing it out'),
    broadcastCleanup: temporaryExpiry,
    retention:
      'subscriptions never expire and keep what is not settled for as long as Pub/Sub can, up to 31 days; ' +
      `topics keep ${settings.retainFor === undefined ? 'nothing' : `everything for ${settings.retainFor / 3_600_000} hours`}; ` +
      "a broadcast's subscription expires after a day without reader",
  };
}
