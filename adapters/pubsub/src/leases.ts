import type { SettleResult } from '@waybill/core/adapter';
import { isNotFound, requestFailure, status, statusOf } from './errors.ts';
import type { Link } from './link.ts';

/** Ack ids in one request; the service takes 512 KiB of them. */
const idsPerRequest = 1_000;

/**
 * What a subscription is told of the messages it handed out. Without exactly-once delivery the service answers the same
 * for an ack id that has run out: whoever calls looks at the lease first.
 */
export class Leases {
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  /** A result for each ack id, in order. */
  acknowledge(subscription: string, ackIds: readonly string[]): Promise<readonly SettleResult[]> {
    return this.#each(ackIds, (some) =>
      this.#link.call((link) => link.subscriber.acknowledge({ subscription, ackIds: [...some] }, link.once())),
    );
  }

  /**
   * Sets how long the broker waits from now on until it hands these out again.
   *
   * @param patience milliseconds to wait for the answer; by default as the settings say
   */
  setDeadline(
    subscription: string,
    ackIds: readonly string[],
    seconds: number,
    patience?: number,
  ): Promise<readonly SettleResult[]> {
    return this.#each(ackIds, (some) =>
      this.#link.call((link) =>
        link.subscriber.modifyAckDeadline(
          { subscription, ackIds: [...some], ackDeadlineSeconds: seconds },
          link.once(patience),
        ),
      ),
    );
  }

  /** As `setDeadline`, where nothing depends on the answer: the broker does it by itself after the deadline. */
  async hand(subscription: string, ackIds: readonly string[], seconds: number): Promise<void> {
    if (ackIds.length > 0) await this.setDeadline(subscription, ackIds, seconds);
  }

  async #each(
    ackIds: readonly string[],
    request: (some: readonly string[]) => Promise<unknown>,
  ): Promise<readonly SettleResult[]> {
    if (ackIds.length <= idsPerRequest) return this.#some(ackIds, request);
    const parts: (readonly string[])[] = [];
    for (let at = 0; at < ackIds.length; at += idsPerRequest) parts.push(ackIds.slice(at, at + idsPerRequest));
    return (await Promise.all(parts.map((part) => this.#some(part, request)))).flat();
  }

  async #some(
    ackIds: readonly string[],
    request: (some: readonly string[]) => Promise<unknown>,
  ): Promise<readonly SettleResult[]> {
    const all = (result: SettleResult): readonly SettleResult[] => ackIds.map(() => result);
    try {
      await request(ackIds);
      return all('applied');
    } catch (error) {
      const told = toldOf(error, ackIds);
      if (told !== undefined) return ackIds.map((id) => resultOf(told[id], error));
      if (isNotFound(error)) return all('lost');
      const code = statusOf(error);
      if (code === status.invalidArgument || code === status.failedPrecondition) {
        if (ackIds.length === 1) return all('lost');
        // Which one it was is not told: the others count in the half that it is not in.
        const half = ackIds.length >> 1;
        const halves = [ackIds.slice(0, half), ackIds.slice(half)];
        return (await Promise.all(halves.map((some) => this.#some(some, request)))).flat();
      }
      return all(requestFailure(error, 'the broker was not told'));
    }
  }
}

/**
 * With exactly-once delivery the service says which ack ids did not count, and why; the others did, whatever the code of
 * the error. Errors of every kind carry such details, so only those that name an ack id count.
 */
function toldOf(error: unknown, ackIds: readonly string[]): Readonly<Record<string, string>> | undefined {
  if (!(error instanceof Error) || !('errorInfoMetadata' in error)) return undefined;
  const told = error.errorInfoMetadata;
  if (typeof told !== 'object' || told === null) return undefined;
  return ackIds.some((id) => id in told) ? (told as Record<string, string>) : undefined;
}

function resultOf(failure: string | undefined, cause: unknown): SettleResult {
  if (failure === undefined) return 'applied';
  return failure.startsWith('TRANSIENT_') ? requestFailure(cause, failure) : 'lost';
}
