import { Alarm } from '../../alarm.ts';
import { type Clock, systemClock } from '../../clock.ts';
import { ConfigError, type ConnectionError } from '../../errors.ts';
import { cutOff } from '../errors.ts';
import { Link, type LinkEvents } from './link.ts';
import type { Retention } from './log.ts';
import { Topic } from './topic.ts';

/** The broker itself: topics by name, and one timer for all that has a time. */
export class Broker {
  /** As texts name it: `memory:orders`. */
  readonly target: string;
  readonly retention: Retention;
  readonly topics = new Map<string, Topic>();
  readonly #links = new Set<Link>();
  readonly #cutClients = new Set<string>();
  #allCut = false;
  #clock: Clock | undefined;
  #alarm: Alarm | undefined;
  #keepAlive: NodeJS.Timeout | undefined;
  #token = 0;

  constructor(target: string, retention: Retention) {
    this.target = target;
    this.retention = retention;
  }

  get clock(): Clock {
    return this.#clock ?? systemClock;
  }

  /** A number that no other delivery of this broker has. */
  nextToken(): number {
    return ++this.#token;
  }

  /** Something is due at this time of `clock.monotonic()`. */
  wakeAt(time: number): void {
    // Without a client nobody could notice, and a timer would keep the process alive: the next client makes up for it.
    if (this.#links.size > 0) this.#alarm?.at(time);
  }

  addTopic(name: string, lanes: number | undefined): Topic {
    const topic = new Topic(this, name, lanes);
    this.topics.set(name, topic);
    return topic;
  }

  removeTopic(name: string): void {
    const topic = this.topics.get(name);
    this.topics.delete(name);
    for (const group of topic?.groups.keys() ?? []) topic?.removeGroup(group);
  }

  // Clients.

  /**
   * @throws ConnectionError while this client is cut off
   * @throws ConfigError when it lives by another clock than those before it
   */
  connect(client: string, clock: Clock, events: LinkEvents): Link {
    if (this.#isCut(client)) throw cutOff(this.target);
    if (this.#clock !== undefined && this.#clock !== clock) {
      throw new ConfigError(
        'clock',
        `the broker ${this.target} runs by the clock of the bus that connected first; use that one, or another name for the broker`,
      );
    }
    this.#clock = clock;
    this.#alarm ??= new Alarm(clock, () => this.#tick());
    const link = new Link(this, client, events);
    this.#links.add(link);
    if (this.#links.size === 1) {
      // An open connection keeps the process alive, as a socket would: what runs on any other broker runs on this one.
      this.#keepAlive = setInterval(() => {}, 2 ** 30);
      this.#tick();
    }
    return link;
  }

  disconnected(link: Link): void {
    if (!this.#links.delete(link) || this.#links.size > 0) return;
    clearInterval(this.#keepAlive);
    this.#alarm?.off();
  }

  /** Cuts off this client, or all, until `reconnect`. */
  disconnect(client: string | undefined): void {
    if (client === undefined) this.#allCut = true;
    else this.#cutClients.add(client);
    const error: ConnectionError = cutOff(this.target);
    for (const link of this.#links) if (this.#isCut(link.client)) link.cut(error);
  }

  /** Lets this client through again, or all that were cut off. */
  reconnect(client: string | undefined): void {
    if (client === undefined) {
      this.#allCut = false;
      this.#cutClients.clear();
    } else this.#cutClients.delete(client);
    for (const link of this.#links) if (!this.#isCut(link.client)) link.mend();
  }

  #isCut(client: string): boolean {
    return this.#allCut || this.#cutClients.has(client);
  }

  #tick(): void {
    const now = this.clock.monotonic();
    let next = Number.POSITIVE_INFINITY;
    for (const topic of this.topics.values()) next = Math.min(next, topic.tick(now));
    this.wakeAt(next);
  }
}
