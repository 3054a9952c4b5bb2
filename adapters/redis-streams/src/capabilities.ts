import type { Capabilities, Support } from '@waybill/core/adapter';
import { temporaryExpiry } from './housekeeping.ts';
import type { Settings } from './options.ts';

const yes: Support = { supported: true };
const no = (reason: string): Support => ({ supported: false, reason });

export function capabilitiesOf(settings: Settings): Capabilities {
  const { maxMessageBytes, retainMessages, maxLength } = settings;
  return {
    lease: { kind: 'delivery', min: 1_000, max: 24 * 60 * 60_000, maxHandling: Number.POSITIVE_INFINITY },
    maxMessageBytes,
    maxDelay: Number.POSITIVE_INFINITY,
    publish: { maxMessages: 1_000, maxBytes: Math.max(maxMessageBytes, 16 * 1024 * 1024) + 64 * 1024, maxInFlight: 2 },
    log: yes,
    groups: yes,
    orderedAttempts: no(
      'a failing message of an ordered topic is tried again in place, by the member that has its lane',
    ),
    countsDeliveries: yes,
    cleanJoin: yes,
    knowsOrder: yes,
    tellsLostPosition: yes,
    openPeek: yes,
    broadcastCleanup: temporaryExpiry,
    retention:
      `streams, sorted sets and groups without expiry; a topic keeps what any group has not acked and the last ${retainMessages} messages` +
      `${maxLength === undefined ? '' : `, but never more than ${maxLength}`}; retries, delays and dead letters are kept until they are settled`,
  };
}
