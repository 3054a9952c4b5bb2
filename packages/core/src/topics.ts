import type { Connection, TopicInfo, TopicRef, Topology } from './adapter.ts';
import { ConfigError } from './errors.ts';
import type { Patience } from './patience.ts';
import type { TopicDefinition } from './topic.ts';

export type TopicOnBroker = TopicRef & { readonly ordered: boolean };

export interface TopicsSetup {
  readonly adapter: string;
  readonly connection: Connection;
  readonly topology: Topology;
  readonly patience: Patience;
  /** Milliseconds that a look at the broker may wait for a reconnect. */
  readonly timeout: number;
}

/**
 * The topics of a bus as they stand on the broker: looked up (and with `create` made) before the first use, compared
 * with what was declared (ORD-05), and remembered.
 */
export class Topics {
  readonly #setup: TopicsSetup;
  readonly #known = new Map<string, TopicInfo>();
  readonly #looking = new Map<string, Promise<TopicInfo>>();
  readonly #resolved = new WeakMap<TopicDefinition, TopicOnBroker>();

  constructor(setup: TopicsSetup) {
    this.#setup = setup;
  }

  /** The topic, if this declaration of it has been looked up already. */
  known(definition: TopicDefinition): TopicOnBroker | undefined {
    return this.#resolved.get(definition);
  }

  /** @throws ConfigError when it disagrees with what was declared, or is missing and must not be made */
  async ensure(definition: TopicDefinition): Promise<TopicOnBroker> {
    const resolved = this.#resolved.get(definition);
    if (resolved !== undefined && this.#known.has(definition.name)) return resolved;
    let info = this.#known.get(definition.name);
    if (info === undefined) {
      let looking = this.#looking.get(definition.name);
      if (looking === undefined) {
        looking = this.#find(definition).finally(() => this.#looking.delete(definition.name));
        this.#looking.set(definition.name, looking);
      }
      info = await looking;
      this.#known.set(definition.name, info);
    }
    this.#compare(definition, info);
    const declared = this.declared(definition);
    const topic = { ...declared, ordered: info.ordered ?? declared.ordered, lanes: info.lanes ?? declared.lanes };
    this.#resolved.set(definition, topic);
    return topic;
  }

  /** The topic, for questions about its groups: nothing is made for them. `undefined`: there is none. */
  async look(definition: TopicDefinition): Promise<TopicOnBroker | undefined> {
    const { connection, topology } = this.#setup;
    if (!this.#known.has(definition.name) && topology !== 'none') {
      const info = await this.#ask(() => connection.describeTopic(definition.name));
      if (info === undefined) return undefined;
      this.#known.set(definition.name, info);
    }
    return this.ensure(definition);
  }

  /** Asks the broker again next time: it may have been deleted. */
  forget(definition: TopicDefinition): void {
    this.#known.delete(definition.name);
    this.#resolved.delete(definition);
  }

  /** How it was declared, for when nothing is asked of the broker. */
  declared(definition: TopicDefinition): TopicOnBroker {
    return {
      name: definition.name,
      ordered: definition.ordered ?? false,
      lanes: definition.lanes,
      options: definition.broker?.[this.#setup.adapter],
    };
  }

  async #find(definition: TopicDefinition): Promise<TopicInfo> {
    const { connection, topology, adapter } = this.#setup;
    if (topology === 'none') return { ordered: undefined, lanes: undefined };
    const info = await this.#ask(() => connection.describeTopic(definition.name));
    if (info !== undefined) return info;
    if (topology === 'verify') {
      throw new ConfigError('topology', `topic "${definition.name}" does not exist, and topology is 'verify'`, {
        adapter,
      });
    }
    const declared = this.declared(definition);
    const differences = await this.#ask(() => connection.provision([{ topic: declared, groups: [] }], 'create'));
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter });
    return (await this.#ask(() => connection.describeTopic(definition.name))) ?? declared;
  }

  #ask<T>(ask: () => Promise<T>): Promise<T> {
    const { patience, timeout } = this.#setup;
    return patience.ask(timeout, () => patience.within(timeout, ask()));
  }

  #compare({ name, ordered, lanes }: TopicDefinition, info: TopicInfo): void {
    const { adapter } = this.#setup;
    if (ordered !== undefined && info.ordered !== undefined && ordered !== info.ordered) {
      throw new ConfigError(
        'ordered',
        `topic "${name}" is declared ${words(ordered)}, and stands ${words(info.ordered)} on the broker; declare it as it is, or take a new topic`,
        { adapter },
      );
    }
    if (lanes !== undefined && info.lanes !== undefined && lanes !== info.lanes) {
      throw new ConfigError(
        'lanes',
        `topic "${name}" is declared with ${lanes} lanes, and has ${info.lanes} on the broker; it is not altered, because keys would move`,
        { adapter },
      );
    }
  }
}

const words = (ordered: boolean): string => (ordered ? 'ordered' : 'without order');
