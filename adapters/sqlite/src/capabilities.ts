import type { Capabilities, Support } from '@waybill/core/adapter';
import type { Settings } from './options.ts';
import { temporaryLease, upkeepPulse } from './upkeep.ts';

const yes: Support = { supported: true };

export function capabilitiesOf({ maxMessageBytes, retainFor, retainBytes }: Settings): Capabilities {
  return {
    lease: { kind: 'delivery', min: 1_000, max: 3_600_000, maxHandling: Number.POSITIVE_INFINITY },
    maxMessageBytes,
    maxDelay: Number.POSITIVE_INFINITY,
    // The event loop waits while a batch is written, so it is not larger; what comes during its flush is the next one.
    publish: {
      maxMessages: 1_000,
      maxBytes: Math.max(maxMessageBytes, 4 * 1_024 * 1_024) + 64 * 1_024,
      maxInFlight: 1,
    },
    log: yes,
    groups: yes,
    orderedAttempts: yes,
    countsDeliveries: yes,
    cleanJoin: yes,
    knowsOrder: yes,
    tellsLostPosition: yes,
    openPeek: yes,
    broadcastCleanup: temporaryLease + upkeepPulse,
    retention: `Groups, retries, delays and dead letters stay in the file until they are settled or removed. A topic keeps what any group has still to read, and what all have read for ${retainFor} ms, up to ${retainBytes} bytes.`,
  };
}
