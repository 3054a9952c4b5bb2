import { randomUUID } from 'node:crypto';
import type { Clock, Logger } from '@waybill/core/adapter';
import type { Channel, ChannelModel, Message } from 'amqplib';
import { closeChannel } from './channel.ts';
import type { Link } from './link.ts';
import type { BrokerNames } from './names.ts';

/** What one member says of itself; adjacent versions read what they know of it. */
interface Word {
  readonly v: 1;
  readonly from: string;
  /** Counts up: an older word does not undo a newer one. */
  readonly n: number;
  /** The lanes it reads. */
  readonly lanes: readonly number[];
  /** Everybody it knows. */
  readonly members: readonly string[];
  /** Asks for an answer. */
  readonly hello?: boolean;
  readonly bye?: boolean;
}

interface Peer {
  n: number;
  lanes: ReadonlySet<number>;
}

export interface PresenceParts {
  /** Owns the member's queue: with this connection it is gone. */
  readonly consume: Link;
  /** Carries what it says: a connection that publishes may be blocked, and acks must not wait for that. */
  readonly publish: Link;
  readonly names: BrokerNames;
  readonly groupKey: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The lanes that this member reads now. */
  readonly lanes: () => readonly number[];
  /** Members came or went, or read other lanes. */
  readonly changed: () => void;
}

/**
 * Who else is a member of an ordered group. A member is a queue that the broker deletes with its connection, and whoever
 * writes to a queue that is gone is told so: thus the broker says who lives, and no clock has to.
 */
export class Presence {
  readonly id = randomUUID();
  readonly #parts: PresenceParts;
  readonly #peers = new Map<string, Peer>();
  #channel: Channel | undefined;
  #said = 0;
  /** Once it is bye, it is no member until it is hello again. */
  #news: 'hello' | 'bye' = 'hello';
  /** Whether everybody has been told the news, as far as we know. */
  #told = false;
  #mouth: { readonly model: ChannelModel; readonly channel: Promise<Channel> } | undefined;
  readonly #end = new AbortController();

  constructor(parts: PresenceParts) {
    this.#parts = parts;
  }

  /** Aborts when the member's queue is gone. */
  get ended(): AbortSignal {
    return this.#end.signal;
  }

  /** The others, with the lanes they read. */
  get peers(): ReadonlyMap<string, { readonly lanes: ReadonlySet<number> }> {
    return this.#peers;
  }

  /** Lets the others know us. */
  async join(model: ChannelModel): Promise<void> {
    const { names, groupKey } = this.#parts;
    const channel = await model.createChannel();
    this.#channel = channel;
    channel.on('error', () => {});
    channel.on('close', () => this.#end.abort());
    const queue = names.member(this.id);
    try {
      await channel.assertQueue(queue, { exclusive: true, autoDelete: true, durable: false });
      await channel.bindQueue(queue, names.members, groupKey);
      await channel.consume(queue, (message) => this.#hear(message), { noAck: true });
    } catch (error) {
      await closeChannel(channel);
      throw error;
    }
    await this.announce('hello');
  }

  /** Tells everybody that we are a member, or that we are none any more. Never rejects. */
  async announce(news: 'hello' | 'bye'): Promise<void> {
    this.#news = news;
    this.#told = false;
    const { names, groupKey } = this.#parts;
    const said = await this.#say(names.members, groupKey, { [news]: true });
    if (this.#news === news) this.#told = said;
  }

  /** Tells everybody what we read. Never rejects. */
  async tellAll(): Promise<void> {
    const { names, groupKey } = this.#parts;
    if (this.#news === 'hello') await this.#say(names.members, groupKey, {});
  }

  /** Tells each we know of, so that we learn who is gone; and everybody the news, where that has failed. */
  async pulse(): Promise<void> {
    if (!this.#told) await this.announce(this.#news);
    for (const id of [...this.#peers.keys()]) await this.#tell(id, this.#news === 'bye' ? { bye: true } : {});
  }

  /** Says goodbye and is gone. Never rejects. */
  async leave(): Promise<void> {
    if (this.#news !== 'bye' || !this.#told) await this.announce('bye');
    await this.close();
  }

  /** Never rejects; waits only for the queue to go, because a blocked connection may not answer. */
  async close(): Promise<void> {
    const mouth = this.#mouth;
    this.#mouth = undefined;
    mouth?.channel.then((channel) => channel.close()).catch(() => {});
    if (this.#channel !== undefined) await closeChannel(this.#channel);
  }

  async #tell(id: string, more: Pick<Word, 'hello' | 'bye'> = {}): Promise<void> {
    if (this.#news === 'hello' || more.bye === true) await this.#say('', this.#parts.names.member(id), more);
  }

  /** What cannot be said now is said by the next pulse. A blocked connection would not even answer. */
  async #say(exchange: string, routingKey: string, more: Pick<Word, 'hello' | 'bye'>): Promise<boolean> {
    if (this.#parts.publish.blocked !== undefined) return false;
    const word: Word = {
      v: 1,
      from: this.id,
      n: ++this.#said,
      lanes: this.#parts.lanes(),
      members: [...this.#peers.keys()],
      ...more,
    };
    try {
      const channel = await this.#openMouth();
      channel.publish(exchange, routingKey, Buffer.from(JSON.stringify(word)), {
        mandatory: true,
        contentType: 'application/json',
      });
      return true;
    } catch (error) {
      this.#parts.logger.debug('rabbitmq: a member cannot be heard by its group at the moment', { error });
      return false;
    }
  }

  #openMouth(): Promise<Channel> {
    const { model } = this.#parts.publish;
    if (this.#mouth?.model === model) return this.#mouth.channel;
    const forget = (): void => {
      if (this.#mouth?.channel === opening) this.#mouth = undefined;
    };
    const opening = model.createChannel().then((channel) => {
      channel.on('error', () => {});
      channel.on('close', () => {
        forget();
        // With it went what the broker had not read yet.
        this.#told = false;
      });
      channel.on('return', (message) => this.#isGone(message.fields.routingKey));
      return channel;
    });
    opening.catch(forget);
    this.#mouth = { model, channel: opening };
    return opening;
  }

  #isGone(queue: string): void {
    const id = [...this.#peers.keys()].find((peer) => this.#parts.names.member(peer) === queue);
    if (id !== undefined && this.#peers.delete(id)) this.#parts.changed();
  }

  #hear(message: Message | null): void {
    if (message === null) {
      // Somebody deleted our queue: to the others we are dead, and have to come again.
      void this.#channel?.close().catch(() => {});
      return;
    }
    const word = read(message);
    if (word === undefined || word.from === this.id) return;
    if (word.bye === true) {
      if (this.#peers.delete(word.from)) this.#parts.changed();
      return;
    }
    const peer = this.#peers.get(word.from);
    if (peer === undefined) {
      this.#peers.set(word.from, { n: word.n, lanes: new Set(word.lanes) });
      this.#parts.changed();
    } else if (peer.n < word.n) {
      const before = peer.lanes;
      peer.n = word.n;
      peer.lanes = new Set(word.lanes);
      if (before.size !== peer.lanes.size || word.lanes.some((lane) => !before.has(lane))) this.#parts.changed();
    }
    if (word.hello === true || peer === undefined) void this.#tell(word.from);
    for (const id of word.members) {
      if (id !== this.id && !this.#peers.has(id)) void this.#tell(id, { hello: true });
    }
  }
}

function read(message: Message): Word | undefined {
  let word: unknown;
  try {
    word = JSON.parse(message.content.toString());
  } catch {
    return undefined;
  }
  if (typeof word !== 'object' || word === null) return undefined;
  const { from, n, lanes, members, hello, bye } = word as Partial<Word>;
  if (typeof from !== 'string' || typeof n !== 'number' || !Array.isArray(lanes)) return undefined;
  return {
    v: 1,
    from,
    n,
    lanes,
    members: Array.isArray(members) ? members : [],
    ...(hello === true ? { hello } : {}),
    ...(bye === true ? { bye } : {}),
  };
}
