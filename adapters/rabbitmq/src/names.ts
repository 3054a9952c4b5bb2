import { createHash } from 'node:crypto';
import { type GroupRef, type NameOverrides, nameMaker } from '@waybill/core/adapter';

/** AMQP's limit for every name and routing key, in bytes; what the makers let through is ASCII. */
const maxLength = 255;
/** Room for `.lane_x_` and a number behind a name. */
const laneRoom = 20;

const token = /[!#$%&'*+\-.^_`|~0-9A-Za-z]/;
/** As words of a routing key, `*` and `#` would match other topics. */
const literalInBindings = /[!$%&'+\-.^_`|~0-9A-Za-z]/;

const objectName = nameMaker(token, maxLength - laneRoom);
const routingKeyName = nameMaker(literalInBindings, maxLength - laneRoom);
/**
 * The broker names a marker in an error of at most 255 bytes, and what we are after stands behind the name; so it has
 * to be short.
 */
const markerName = nameMaker(token, 90);

/** Where a group lives on the broker. */
export interface GroupPlace {
  /** The queues its members read: one, or one per lane of an ordered topic. */
  readonly queues: readonly string[];
  readonly deadLetters: string;
  /** Messages set apart for `receiveAlone`. */
  readonly alone: string;
  /** True where a queue's name was chosen by the user: what exists under it is used as it is. */
  readonly given: boolean;
}

/** Every name that this adapter uses on the broker (CFG-04). `v1` is the version of the wire format and topology. */
export class BrokerNames {
  readonly #overrides: NameOverrides;
  readonly #prefix: string;
  /** The exchange that topics are published to, with the topic's routing key. */
  readonly topics: string;
  /** Carries what members of one ordered group tell each other. */
  readonly members: string;

  constructor(prefix: string, overrides: NameOverrides, exchange: string | undefined) {
    this.#prefix = `${prefix}waybill.v1.`;
    this.#overrides = overrides;
    this.topics = exchange ?? this.#own('topics');
    this.members = this.#own('members');
  }

  /** A topic's routing key, for publishers and for the bindings of others. */
  routingKey(topic: string): string {
    return this.#overrides.topic?.(topic) ?? routingKeyName(topic);
  }

  /** A lane's routing key: a word more than the topic's, so that `<topic>.*` binds all lanes. */
  laneKey(topic: string, lane: number): string {
    return `${this.routingKey(topic)}.lane_x_${lane}`;
  }

  /** The exchange that remembers a topic's order and lanes. */
  marker(topic: string): string {
    return markerName(`${this.#prefix}topic`, topic);
  }

  /** @param lanes 0 for one queue */
  group(topic: string, group: string, lanes: number): GroupPlace {
    const given = this.#overrides.group?.(topic, group);
    const queue = given ?? this.#own('group', topic, group);
    return {
      queues: lanes === 0 ? [queue] : Array.from({ length: lanes }, (_, lane) => `${queue}_x_${lane}`),
      deadLetters: this.#overrides.deadLetter?.(topic, group) ?? this.#own('dead', topic, group),
      alone: this.#own('alone', topic, group),
      given: given !== undefined,
    };
  }

  /** The name by which the members of an ordered group find each other. */
  membersKey(group: GroupRef): string {
    return this.#own('group', group.topic.name, group.name);
  }

  /** The queue of one member of an ordered group. */
  member(id: string): string {
    return this.#own('member', id);
  }

  delay(part: string): string {
    return this.#own('delay', part);
  }

  #own(kind: string, ...parts: readonly string[]): string {
    return objectName(`${this.#prefix}${kind}`, ...parts);
  }
}

/**
 * A destination of delayed messages as one short word of a routing key: routing keys end at 255 bytes, and names may
 * hold dots.
 */
export function addressOf(kind: 'topic' | 'queue', name: string): string {
  return createHash('sha256').update(`${kind}\0${name}`).digest('hex').slice(0, 16);
}
