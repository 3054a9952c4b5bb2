import type { Capabilities } from '@waybill/core/adapter';
import { RESERVE, type Settings } from './options.ts';

/** What Kafka can do, with these settings. */
export function capabilities(settings: Settings): Capabilities {
  const yes = { supported: true } as const;
  const no = (reason: string) => ({ supported: false, reason }) as const;
  return {
    // The bounds of a session that brokers allow unless told otherwise.
    lease: { kind: 'lane', min: 6_000, max: 1_800_000, maxHandling: Number.POSITIVE_INFINITY },
    maxMessageBytes: settings.maxMessageBytes - RESERVE,
    maxDelay: Number.POSITIVE_INFINITY,
    publish: { maxMessages: 2_000, maxBytes: 8 * 1024 * 1024, maxInFlight: 4 },
    log: yes,
    groups: yes,
    orderedAttempts: no(
      'attempts of an ordered topic are counted in the member that holds the key, and a crash starts them again: Kafka has no place for a number beside a message',
    ),
    countsDeliveries: no('a Kafka broker keeps no count of deliveries'),
    cleanJoin: yes,
    knowsOrder: no('a Kafka topic keeps order by key whatever was declared'),
    tellsLostPosition: yes,
    openPeek: yes,
    broadcastCleanup: 0,
    retention:
      "topics keep the broker's retention unless config sets it; the place of a group never expires, however long it is idle; retries, delays and dead letters are kept without limit (retention.ms -1, dead letters compacted)",
  };
}
