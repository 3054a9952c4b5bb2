import { type AdapterContext, Alarm } from '@waybill/core/adapter';
import { adapterName } from './errors.ts';
import type { Link } from './link.ts';
import type { KeyNames, TopicKeys } from './names.ts';
import type { Settings } from './options.ts';
import { asList, asNumber, asText } from './replies.ts';
import { expiredTemporary, moveDelayed, tidy } from './scripts.ts';
import type { Topology } from './topology.ts';

/** Milliseconds that a broadcast's group outlives the last sign of its subscription. */
export const temporaryExpiry = 60_000;
/** Milliseconds between two looks at the topics that this connection has to do with. */
const interval = 5_000;
/** Topics that one look takes; a connection that uses more gets round to each of them later. */
const topicsAtOnce = 100;
/** Delayed messages that are moved by one call. */
export const moveLimit = 500;

/** Milliseconds until more is moved that is due, and until it is tried again where the server could not or would not. */
const moveOn = 20;
const refused = 300;

interface Topic {
  readonly name: string;
  readonly keys: TopicKeys;
  readonly lanes: number;
  /** In `clock.monotonic()`, when a delayed publish of this connection is due. */
  due: number;
}

/**
 * What nobody does for us on the server: streams are trimmed, delayed publishes are moved when they are due, and the
 * groups of broadcasts whose process died are deleted. Every connection does it for the topics that it uses.
 */
export class Housekeeping {
  readonly #link: Link;
  readonly #names: KeyNames;
  readonly #topology: Topology;
  readonly #settings: Settings;
  readonly #context: AdapterContext;
  readonly #topics = new Map<string, Topic>();
  readonly #alarm: Alarm;
  #nextRound = Number.POSITIVE_INFINITY;
  #busy = false;

  constructor(link: Link, names: KeyNames, topology: Topology, settings: Settings, context: AdapterContext) {
    this.#link = link;
    this.#names = names;
    this.#topology = topology;
    this.#settings = settings;
    this.#context = context;
    this.#alarm = new Alarm(context.clock, () => void this.#work());
  }

  /** From now on this topic is looked after. */
  add(name: string, lanes: number): void {
    if (this.#topics.has(name)) return;
    const keys = this.#names.topic(name, lanes);
    this.#topics.set(name, { name, keys, lanes, due: Number.POSITIVE_INFINITY });
    if (this.#topics.size > 1) return;
    this.#nextRound = this.#context.clock.monotonic() + interval;
    this.#alarm.at(this.#nextRound);
  }

  /** A message of this topic is due in so many milliseconds. */
  delayed(name: string, lanes: number, delay: number): void {
    this.add(name, lanes);
    const topic = this.#topics.get(name);
    if (topic === undefined) return;
    topic.due = Math.min(topic.due, this.#context.clock.monotonic() + delay);
    this.#alarm.at(topic.due);
  }

  stop(): void {
    this.#alarm.stop();
  }

  async #work(): Promise<void> {
    const { clock, logger } = this.#context;
    let wait = moveOn;
    if (!this.#busy) {
      this.#busy = true;
      const now = clock.monotonic();
      wait = refused;
      try {
        if (this.#link.isUp) {
          for (const topic of this.#topics.values()) if (topic.due <= now) await this.#move(topic);
          if (now >= this.#nextRound) await this.#goRound();
          wait = moveOn;
        }
      } catch (error) {
        logger.debug(`${adapterName}: housekeeping failed, tried again`, { error });
      } finally {
        this.#busy = false;
        if (now >= this.#nextRound) this.#nextRound = clock.monotonic() + interval;
      }
    }
    const soonest = clock.monotonic() + wait;
    this.#alarm.at(Math.max(soonest, this.#nextRound));
    for (const { due } of this.#topics.values()) {
      if (due !== Number.POSITIVE_INFINITY) this.#alarm.at(Math.max(soonest, due));
    }
  }

  async #goRound(): Promise<void> {
    for (const topic of [...this.#topics.values()].slice(0, topicsAtOnce)) {
      // Behind all others, for the next time.
      this.#topics.delete(topic.name);
      this.#topics.set(topic.name, topic);
      await this.#move(topic);
      await this.#tidy(topic);
    }
  }

  async #move(topic: Topic): Promise<void> {
    const [stream] = topic.keys.streams;
    if (topic.lanes > 0 || stream === undefined) return;
    const next = asNumber(await this.#link.run(moveDelayed, [topic.keys.delayed, stream], [moveLimit]));
    topic.due = next < 0 ? Number.POSITIVE_INFINITY : this.#context.clock.monotonic() + next;
  }

  async #tidy({ name, keys, lanes }: Topic): Promise<void> {
    const { retainMessages, maxLength = -1 } = this.#settings;
    // Of an ordered topic each lane keeps its share.
    const share = (messages: number): number => Math.ceil(messages / Math.max(1, lanes));
    for (const stream of keys.streams) {
      await this.#link.run(tidy, [stream], [share(retainMessages), maxLength < 0 ? maxLength : share(maxLength)]);
    }
    for (const group of asList(await this.#link.run(expiredTemporary, [keys.temporary], []))) {
      await this.#topology.drop({ topic: keys, groups: this.#names.rawGroup(name, asText(group), lanes), lanes });
    }
  }
}
