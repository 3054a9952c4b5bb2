import type { AdapterContext, GroupRef, Position, ProvisionItem, TopicInfo } from '@waybill/core/adapter';
import type { Database } from './database.ts';
import { noGroup, noTopic, refuseOptions } from './errors.ts';
import { findTopic, makeTopic, positionOf, type TopicRow } from './log.ts';
import { temporaryLease } from './upkeep.ts';

const defaultLanes = 8;

/** A group as it stands in the file. */
export interface GroupRow {
  readonly id: number;
  readonly topic: number;
  readonly name: string;
  readonly next: number;
  readonly epoch: number;
}

/**
 * The topics and groups of one connection: names as the bus says them, in the file under its mapping (CFG-04). A file
 * takes every name as it is, so nothing is escaped. All of it is part of a read or a transaction.
 */
export class Topology {
  readonly target: string;
  readonly #names: AdapterContext['names'];
  readonly #prefix: string;
  readonly #clock: AdapterContext['clock'];

  constructor(target: string, context: AdapterContext) {
    this.target = target;
    this.#names = context.names;
    this.#prefix = context.namePrefix;
    this.#clock = context.clock;
  }

  describe(database: Database, name: string): TopicInfo | undefined {
    const topic = this.findTopic(database, name);
    return topic && { ordered: topic.ordered === 1, lanes: topic.ordered === 1 ? topic.lanes : undefined };
  }

  findTopic(database: Database, name: string): TopicRow | undefined {
    return findTopic(database, this.topicName(name));
  }

  /** @throws ConfigError when there is no such topic */
  topic(database: Database, name: string): TopicRow {
    const topic = this.findTopic(database, name);
    if (topic === undefined) throw noTopic(this.target, this.topicName(name));
    return topic;
  }

  findGroup(database: Database, ref: GroupRef): GroupRow | undefined {
    return database.get<GroupRow>(
      'SELECT g.* FROM groups g JOIN topics t ON t.id = g.topic WHERE t.name = ? AND g.name = ?',
      this.topicName(ref.topic.name),
      this.groupName(ref.topic.name, ref.name),
    );
  }

  /** @throws ConfigError when there is no such topic or group */
  group(database: Database, ref: GroupRef): GroupRow {
    const group = this.findGroup(database, ref);
    if (group !== undefined) return group;
    this.topic(database, ref.topic.name);
    throw this.noGroup(ref);
  }

  noGroup(ref: GroupRef): ReturnType<typeof noGroup> {
    const { name } = ref.topic;
    return noGroup(this.target, this.topicName(name), this.groupName(name, ref.name));
  }

  makeTopic(database: Database, declared: ProvisionItem['topic']): TopicRow {
    return (
      this.findTopic(database, declared.name) ??
      makeTopic(
        database,
        this.topicName(declared.name),
        declared.ordered ? (declared.lanes ?? defaultLanes) : undefined,
      )
    );
  }

  makeGroup(database: Database, ref: GroupRef, startAt: Position): GroupRow {
    const topic = this.makeTopic(database, ref.topic);
    const existing = this.findGroup(database, ref);
    if (existing !== undefined) return existing;
    database.run(
      'INSERT INTO groups (topic, name, next, expires_at) VALUES (?, ?, ?, ?)',
      topic.id,
      this.groupName(ref.topic.name, ref.name),
      positionOf(database, topic, startAt),
      ref.temporary ? this.#clock.now() + temporaryLease : null,
    );
    return this.group(database, ref);
  }

  /** Makes or checks what is declared; returns the differences. */
  provision(database: Database, items: readonly ProvisionItem[], mode: 'create' | 'verify'): string[] {
    const differences: string[] = [];
    for (const item of items) {
      const { name, ordered, lanes, options } = item.topic;
      refuseOptions(options);
      if (mode === 'create') this.makeTopic(database, item.topic);
      const topic = this.findTopic(database, name);
      if (topic === undefined) {
        differences.push(`topic "${this.topicName(name)}" is missing`);
      } else if ((topic.ordered === 1) !== ordered) {
        differences.push(`topic "${topic.name}" is ${inWords(topic.ordered === 1)}, declared is ${inWords(ordered)}`);
      } else if (ordered && lanes !== undefined && topic.lanes !== lanes) {
        differences.push(`topic "${topic.name}" has ${topic.lanes} lanes, declared are ${lanes}`);
      }
      for (const group of item.groups) {
        refuseOptions(group.options);
        const ref: GroupRef = { topic: item.topic, name: group.name, temporary: group.temporary };
        if (mode === 'create') this.makeGroup(database, ref, group.startAt);
        else if (this.findGroup(database, ref) === undefined) {
          const groupName = this.groupName(name, group.name);
          differences.push(`group "${groupName}" of topic "${this.topicName(name)}" is missing`);
        }
      }
    }
    return differences;
  }

  topicName(name: string): string {
    return this.#names.topic?.(name) ?? this.#prefix + name;
  }

  /** Without prefix: groups stand within their topic, which has it. */
  groupName(topic: string, name: string): string {
    return this.#names.group?.(topic, name) ?? name;
  }
}

const inWords = (ordered: boolean): string => (ordered ? 'ordered' : 'not ordered');
