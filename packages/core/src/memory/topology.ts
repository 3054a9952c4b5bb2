import type { AdapterContext, GroupRef, Position, ProvisionItem, TopicInfo } from '../adapter.ts';
import type { Broker } from './broker/broker.ts';
import type { Group } from './broker/group.ts';
import type { Link } from './broker/link.ts';
import type { Topic } from './broker/topic.ts';
import { noGroup, noPosition, noTopic, refuseOptions } from './errors.ts';

const defaultLanes = 8;

/** What a topic or group is declared as. */
type Declared = ProvisionItem['topic'];

/** The topics and groups of one connection: names as the bus says them, on the broker under its mapping (CFG-04). */
export class Topology {
  readonly link: Link;
  readonly #names: AdapterContext['names'];
  readonly #prefix: string;

  constructor(link: Link, context: AdapterContext) {
    this.link = link;
    this.#names = context.names;
    this.#prefix = context.namePrefix;
  }

  get #broker(): Broker {
    return this.link.broker;
  }

  describe(name: string): TopicInfo | undefined {
    const topic = this.findTopic(name);
    return topic && { ordered: topic.ordered, lanes: topic.ordered ? topic.lanes : undefined };
  }

  findTopic(name: string): Topic | undefined {
    return this.#broker.topics.get(this.#topicName(name));
  }

  /** @throws ConfigError when there is no such topic or group */
  group(ref: GroupRef): Group {
    const topic = this.findTopic(ref.topic.name);
    if (topic === undefined) throw noTopic(this.#broker.target, this.#topicName(ref.topic.name));
    const name = this.#groupName(ref.topic.name, ref.name);
    const group = topic.groups.get(name);
    if (group === undefined) throw noGroup(this.#broker.target, topic.name, name);
    return group;
  }

  makeTopic(declared: Declared): Topic {
    return (
      this.findTopic(declared.name) ??
      this.#broker.addTopic(
        this.#topicName(declared.name),
        declared.ordered ? (declared.lanes ?? defaultLanes) : undefined,
      )
    );
  }

  makeGroup(ref: GroupRef, startAt: Position): Group {
    const topic = this.makeTopic(ref.topic);
    const name = this.#groupName(ref.topic.name, ref.name);
    const existing = topic.groups.get(name);
    if (existing !== undefined) return existing;
    const group = topic.addGroup(name, ref.temporary, positionOf(topic, startAt));
    if (ref.temporary) this.link.temporary.add(group);
    return group;
  }

  removeGroup(ref: GroupRef): void {
    this.findTopic(ref.topic.name)?.removeGroup(this.#groupName(ref.topic.name, ref.name));
  }

  /** Makes or checks what is declared; returns the differences. */
  provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): string[] {
    const differences: string[] = [];
    for (const item of items) {
      const { name, ordered, lanes, options } = item.topic;
      refuseOptions(options);
      if (mode === 'create') this.makeTopic(item.topic);
      const topic = this.findTopic(name);
      if (topic === undefined) {
        differences.push(`topic "${this.#topicName(name)}" is missing`);
      } else if (topic.ordered !== ordered) {
        differences.push(`topic "${topic.name}" is ${inWords(topic.ordered)}, declared is ${inWords(ordered)}`);
      } else if (ordered && lanes !== undefined && topic.lanes !== lanes) {
        differences.push(`topic "${topic.name}" has ${topic.lanes} lanes, declared are ${lanes}`);
      }
      for (const group of item.groups) {
        refuseOptions(group.options);
        const groupName = this.#groupName(name, group.name);
        if (mode === 'create') this.makeGroup({ ...group, topic: item.topic }, group.startAt);
        else if (!topic?.groups.has(groupName)) {
          differences.push(`group "${groupName}" of topic "${this.#topicName(name)}" is missing`);
        }
      }
    }
    return differences;
  }

  #topicName(name: string): string {
    return this.#names.topic?.(name) ?? this.#prefix + name;
  }

  /** Without prefix: groups stand within their topic, which has it. */
  #groupName(topic: string, name: string): string {
    return this.#names.group?.(topic, name) ?? name;
  }
}

/** @throws ConfigError for a position that the log does not keep */
export function positionOf(topic: Topic, position: Position): number {
  const { log } = topic;
  if (position === 'earliest') return log.first;
  if (position === 'latest') return log.end;
  if (position instanceof Date) return log.positionAt(position.getTime());
  const number = /^\d{1,15}$/.test(position.position) ? Number(position.position) : Number.NaN;
  if (!(number >= log.first && number <= log.end)) throw noPosition(topic.name, position.position, log.first, log.end);
  return number;
}

const inWords = (ordered: boolean): string => (ordered ? 'ordered' : 'not ordered');
