import { type Capabilities, handlingWithin, type Support } from '@waybill/core/adapter';
import type { Settings } from './options.ts';
import { maxTopicBytes } from './publisher.ts';
import { maxQueueBytes, maxVisibility } from './requests.ts';

const yes: Support = { supported: true };
const no = (reason: string): Support => ({ supported: false, reason });

/**
 * Bytes kept for what is beside the body: 16 KiB of headers, a third more where they travel as base64, id, key, type
 * and content type, and the details of a dead letter.
 */
const reserve = 32 * 1024;

/** Milliseconds between a broadcast's last sign of life and its removal, at the latest. */
export const broadcastCleanup = 10 * 60_000;

export const oneGroup = "with fanOut: 'queue' a topic is one queue, and so one group";

export function capabilitiesOf(settings: Settings): Capabilities {
  const maxBytes = settings.fanOut === 'topic' ? maxTopicBytes : maxQueueBytes;
  return {
    // SQS hides a message for twelve hours at the most, counted from when it was received.
    lease: { kind: 'delivery', min: 2_000, max: 11 * 3_600_000, maxHandling: handlingWithin(maxVisibility * 1_000) },
    // Any body has to fit, and one that is no text grows by a third.
    maxMessageBytes: Math.floor((maxBytes - reserve) / 4) * 3,
    maxDelay: Number.POSITIVE_INFINITY,
    publish: { maxMessages: 10, maxBytes, maxInFlight: 8 },
    log: no('SQS keeps no message that was deleted'),
    groups: settings.fanOut === 'topic' ? yes : no(oneGroup),
    orderedAttempts: no(
      'SQS counts how often it hands a message out, not the attempts, and nothing can be written on a message that is out',
    ),
    countsDeliveries: yes,
    cleanJoin: yes,
    knowsOrder: yes,
    tellsLostPosition: no('SQS drops what nobody has settled within 14 days without a word'),
    openPeek: no('SQS shows a message only by handing it out'),
    broadcastCleanup,
    retention:
      'queues keep messages for 14 days, the longest that SQS has; a broadcast queue is deleted at close, or by other ' +
      'members ten minutes after its process was last seen',
  };
}
