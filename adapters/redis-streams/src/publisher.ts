import { randomUUID } from 'node:crypto';
import { type Clock, laneOf, type OutgoingMessage, type SendResult } from '@waybill/core/adapter';
import { isPassing, NoAnswer, NotSent, requestFailure, ServerError } from './errors.ts';
import type { Housekeeping } from './housekeeping.ts';
import type { Command, Link } from './link.ts';
import { toFields } from './message.ts';
import type { KeyNames, TopicKeys } from './names.ts';
import type { Settings } from './options.ts';
import { asText } from './replies.ts';
import { storeDelayed } from './scripts.ts';
import { refuseOptions, type Topology } from './topology.ts';

/** Topics whose places are remembered; more than a service has. */
const maxRoutes = 10_000;

interface Route {
  readonly keys: TopicKeys;
  readonly lanes: number;
}

/** A message as a command, and where it goes. */
interface Sending {
  readonly message: OutgoingMessage;
  readonly key: string;
  readonly lane: number | undefined;
  /** Milliseconds; 0 for at once. */
  readonly delay: number;
  readonly command: Command;
}

/** Core's batches as XADDs in one go, and the server's answers as results. */
export class Publisher {
  readonly #link: Link;
  readonly #names: KeyNames;
  readonly #topology: Topology;
  readonly #housekeeping: Housekeeping;
  readonly #settings: Settings;
  readonly #clock: Clock;
  readonly #routes = new Map<string, Route>();
  /** Makes entries of a sorted set, which are told apart by their content, each one of its own. */
  readonly #origin = randomUUID();
  readonly #named = new WeakMap<OutgoingMessage, string>();
  #count = 0;

  constructor(
    link: Link,
    names: KeyNames,
    topology: Topology,
    housekeeping: Housekeeping,
    settings: Settings,
    clock: Clock,
  ) {
    this.#link = link;
    this.#names = names;
    this.#topology = topology;
    this.#housekeeping = housekeeping;
    this.#settings = settings;
    this.#clock = clock;
  }

  /** Lanes may have changed while we were away. */
  forgetRoutes(): void {
    this.#routes.clear();
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const results = new Array<SendResult>(batch.length);
    const sendings: Sending[] = [];
    const places: number[] = [];
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i] as OutgoingMessage;
      try {
        const route = this.#routes.get(message.topic.name) ?? (await this.#learn(message.topic));
        sendings.push(this.#sending(message, route));
        places.push(i);
      } catch (error) {
        results[i] = failed(error, message.topic.name);
      }
    }
    const replies = await this.#send(sendings);
    await this.#loadMissing(sendings, replies);
    for (let i = 0; i < sendings.length; i++) {
      results[places[i] as number] = this.#result(sendings[i] as Sending, replies[i]);
    }
    return results;
  }

  async #learn(topic: OutgoingMessage['topic']): Promise<Route> {
    const lanes = await this.#topology.lanesOf(topic);
    const route: Route = { lanes, keys: this.#names.topic(topic.name, lanes) };
    if (this.#routes.size >= maxRoutes) this.#routes.clear();
    this.#routes.set(topic.name, route);
    this.#housekeeping.add(topic.name, lanes);
    return route;
  }

  #sending(message: OutgoingMessage, { keys, lanes }: Route): Sending {
    refuseOptions(message.options);
    const delay = message.deliverAt === undefined ? 0 : Math.max(0, message.deliverAt - this.#clock.now());
    const fields = toFields(message);
    if (delay > 0 && lanes === 0) {
      const own = this.#nameOf(message);
      const command: Command = ['EVALSHA', storeDelayed.sha, 1, keys.delayed, delay, own, ...fields];
      return { message, key: keys.delayed, lane: undefined, delay, command };
    }
    // Without a key any lane is right; in turn, so that all are used.
    const lane =
      lanes === 0 ? undefined : message.key === undefined ? ++this.#count % lanes : laneOf(message.key, lanes);
    const key = keys.streams[lane ?? 0] as string;
    const { maxLength } = this.#settings;
    const limit = maxLength === undefined ? [] : ['MAXLEN', '~', Math.ceil(maxLength / Math.max(1, lanes))];
    return { message, key, lane, delay: 0, command: ['XADD', key, ...limit, '*', ...fields] };
  }

  /** The same when a message is sent again: while it waits, it is still one. */
  #nameOf(message: OutgoingMessage): string {
    let name = this.#named.get(message);
    if (name === undefined) {
      name = `${this.#origin}:${++this.#count}`;
      this.#named.set(message, name);
    }
    return name;
  }

  /** In the order given; in a cluster, what has one key in its order. */
  async #send(sendings: readonly Sending[]): Promise<unknown[]> {
    if (sendings.length === 0) return [];
    if (!this.#link.isCluster) return this.#link.callAll(sendings.map(({ command }) => command));
    const replies = new Array<unknown>(sendings.length);
    const byKey = Map.groupBy(sendings.keys(), (at) => (sendings[at] as Sending).key);
    await Promise.all(
      [...byKey.values()].map(async (places) => {
        const part = await this.#link.callAll(places.map((at) => (sendings[at] as Sending).command));
        for (let i = 0; i < places.length; i++) replies[places[i] as number] = part[i];
      }),
    );
    return replies;
  }

  /** What found no script is sent once more with it: nothing was done the first time. */
  async #loadMissing(sendings: readonly Sending[], replies: unknown[]): Promise<void> {
    for (let i = 0; i < replies.length; i++) {
      const reply = replies[i];
      if (!(reply instanceof ServerError && reply.message.startsWith('NOSCRIPT'))) continue;
      const { command } = sendings[i] as Sending;
      replies[i] = await this.#link
        .run(storeDelayed, [String(command[3])], command.slice(4))
        .catch((error: unknown) => error);
    }
  }

  #result({ message, lane, delay }: Sending, reply: unknown): SendResult {
    if (reply instanceof Error) {
      return failed(reply, message.topic.name);
    }
    if (delay > 0) {
      this.#housekeeping.delayed(message.topic.name, 0, delay);
      return { status: 'stored' };
    }
    const id = asText(reply);
    return { status: 'stored', position: lane === undefined ? id : `${lane}/${id}` };
  }
}

function failed(cause: unknown, topic: string): SendResult {
  const error = requestFailure(cause, `topic "${topic}" cannot be published to`);
  if (cause instanceof NoAnswer) return { status: 'failed', outcome: 'unknown', retryable: true, error };
  const passing = cause instanceof NotSent || (cause instanceof ServerError && isPassing(cause));
  const retryable = passing || error.code === 'CONNECTION';
  return { status: 'failed', outcome: 'not-sent', retryable, error };
}
