import {
  type Clock,
  type DeadLetterCount,
  type DeadLetterRecord,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  laneOf,
  nameOfGroup,
  type SettleResult,
  sleep,
} from '@waybill/core/adapter';
import type { Channel, Message } from 'amqplib';
import { onScratchChannel } from './channel.ts';
import type { ConfirmSender, Parcel, Sent } from './confirm-sender.ts';
import { DeliveryChannel } from './delivery-channel.ts';
import { requestFailure, unroutable } from './errors.ts';
import type { Link } from './link.ts';
import { isFirstDelivery, redriveCopy, toDeadLetter } from './message.ts';
import type { GroupPlace } from './names.ts';
import type { Topology } from './topology.ts';

/** Milliseconds to wait for the broker to count what a scan has put back. */
const countPatience = 1_000;
/** Milliseconds without another message after which a scan asks whether there is more. */
const quiet = 500;
/** How often the answer may be yes, and still none comes. */
const maxLooks = 10;
/** What a prefetch can count to. */
const maxPrefetch = 65_535;

export interface AdminParts {
  readonly link: Link;
  readonly copies: ConfirmSender;
  readonly topology: Topology;
  readonly clock: Clock;
}

/** Looks at groups from outside: how much waits, and what is dead. */
export class Admin {
  readonly #parts: AdminParts;

  constructor(parts: AdminParts) {
    this.#parts = parts;
  }

  /** The broker counts per queue; what is in delay levels or in hands it tells only to its management. */
  async lag(group: GroupRef): Promise<Lag> {
    const { link, topology } = this.#parts;
    const place = await topology.placeOf(group);
    try {
      const waiting = await onScratchChannel(link, async (channel) => {
        let sum = 0;
        for (const queue of place.queues) sum += (await channel.checkQueue(queue)).messageCount;
        return sum;
      });
      return { waiting, delayed: 0, inFlight: 0, exact: false };
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no lag to tell`);
    }
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    const { link, topology } = this.#parts;
    const { deadLetters } = await topology.placeOf(group);
    try {
      const { messageCount } = await onScratchChannel(link, (channel) => channel.checkQueue(deadLetters));
      // Those that somebody looks at are not counted.
      return { value: messageCount, exact: false };
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no dead letters to count`);
    }
  }

  async openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    const { link, topology } = this.#parts;
    const place = await topology.placeOf(group);
    try {
      const channel = await link.model.createChannel();
      channel.on('error', () => {});
      const { messageCount } = await channel.checkQueue(place.deadLetters);
      return new Scan(this.#parts, group, place, channel, messageCount);
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(group)} has no dead letters to read`);
    }
  }
}

/**
 * Takes dead letters and keeps them unsettled until it is closed, when what is left goes back; meanwhile others do not
 * see them.
 *
 * A quorum queue hands out what came back before everything else, and what comes back goes behind what did so earlier.
 * So the order stays only if all that ever came back is taken along and goes back together.
 */
class Scan implements DeadLetterScan {
  readonly #parts: AdminParts;
  readonly #group: GroupRef;
  readonly #place: GroupPlace;
  readonly #channel: DeliveryChannel;
  /** Those that were there at the beginning and have not been taken. */
  #left: number;
  /** Tags of those that were taken and not settled. */
  readonly #held = new Set<number>();
  /** Whether the last one that was taken had come back before: then the next one may have, too. */
  #amongReturned = false;
  /** Taken ahead of `next`. */
  #ahead: Message[] = [];

  constructor(parts: AdminParts, group: GroupRef, place: GroupPlace, channel: Channel, count: number) {
    this.#parts = parts;
    this.#group = group;
    this.#place = place;
    this.#channel = new DeliveryChannel(channel, {
      queue: place.deadLetters,
      byConsumer: true,
      arrived: (message) => {
        this.#hold(message);
        if (this.#left === 0) return;
        this.#left--;
        this.#ahead.push(message);
      },
    });
    this.#left = count;
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    const records = this.#ahead.splice(0, max).map(toDeadLetter);
    try {
      await this.#take(Math.min(max - records.length, this.#left), (message) => {
        records.push(toDeadLetter(message));
        return true;
      });
    } catch (error) {
      throw requestFailure(error, `dead letters of ${nameOfGroup(this.#group)} cannot be read`);
    }
    return records;
  }

  async redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const parcels = records.map((record): Parcel => {
      const message = record.native as Message;
      return {
        topic: this.#group.topic.name,
        exchange: '',
        routingKey: this.#queueOf(record.key),
        body: message.content,
        properties: { ...redriveCopy(message), mandatory: true },
      };
    });
    const sent = await this.#parts.copies.send(parcels);
    const done = records.filter((_, i) => (sent[i] as Sent).status === 'stored');
    const acked = await this.#ack(done);
    return sent.map((one) => {
      if (one.status === 'stored') return acked;
      return one.status === 'failed' ? one.error : unroutable('group');
    });
  }

  async purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const result = await this.#ack(records);
    return records.map(() => result);
  }

  async close(): Promise<void> {
    const { link, clock } = this.#parts;
    if (this.#held.size > 0 && this.#amongReturned) {
      // Without their content, and to the first that never came back.
      await this.#take(this.#left, () => this.#amongReturned).catch(() => {});
    }
    const held = this.#held.size;
    if (held > 0) this.#channel.requeue([...this.#held]);
    await this.#channel.close();
    if (held === 0) return;
    // The queue counts them again a moment after it has answered; whoever counts next should find them.
    const end = clock.monotonic() + countPatience;
    try {
      while (link.isUp && clock.monotonic() < end) {
        const { messageCount } = await onScratchChannel(link, (channel) => channel.checkQueue(this.#place.deadLetters));
        if (messageCount >= held) return;
        await sleep(clock, 5);
      }
    } catch {
      // Nothing depends on it.
    }
  }

  /**
   * Takes so many, as far as they are there: others may have been quicker. Not by `basic.get`, because the queue keeps
   * apart what each `get` took, and puts it back in no order when the connection is lost.
   *
   * @param wantsMore told of each; false ends it
   */
  async #take(count: number, wantsMore: (message: Message) => boolean): Promise<void> {
    if (count === 0) return;
    const { clock } = this.#parts;
    const { channel } = this.#channel;
    const done = new AbortController();
    let taken = 0;
    let last = clock.monotonic();
    let looks = 0;
    // It is no more than the queue lets a consumer have at once; 0 is no limit.
    await this.#channel.prefetch(count <= maxPrefetch ? count : 0);
    const { consumerTag } = await channel.consume(this.#place.deadLetters, (message) => {
      if (message === null) return done.abort();
      this.#hold(message);
      last = clock.monotonic();
      looks = 0;
      taken++;
      if (!done.signal.aborted && (!wantsMore(message) || taken === count)) done.abort();
    });
    void this.#channel.ended.then(() => done.abort());
    for (; !done.signal.aborted; await sleep(clock, quiet / 5, done.signal)) {
      if (clock.monotonic() - last < quiet) continue;
      // Silence proves nothing: the broker, or the way to it, may stand still.
      const { messageCount } = await channel.checkQueue(this.#place.deadLetters);
      if (messageCount === 0) break;
      if (++looks === maxLooks) throw new Error(`${messageCount} of them are there, and the broker hands none out`);
      last = clock.monotonic();
    }
    this.#left = taken < count ? 0 : this.#left - taken;
    await channel.cancel(consumerTag);
  }

  #hold(message: Message): void {
    this.#held.add(message.fields.deliveryTag);
    this.#amongReturned = !isFirstDelivery(message);
  }

  async #ack(records: readonly DeadLetterRecord[]): Promise<SettleResult> {
    if (records.length === 0) return 'applied';
    const tags = records.map((record) => (record.native as Message).fields.deliveryTag);
    const result = await this.#channel.ack(tags);
    for (const tag of tags) this.#held.delete(tag);
    return result;
  }

  /** Behind what its key has waiting (ORD-04). */
  #queueOf(key: string | undefined): string {
    const { queues } = this.#place;
    return queues[key === undefined ? 0 : laneOf(key, queues.length)] as string;
  }
}
