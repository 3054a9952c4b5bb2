import { createHash } from 'node:crypto';
import { type NameOverrides, nameMaker } from '@waybill/core/adapter';

/** What SQS and SNS allow in a name, beside the ending of a FIFO one. */
const allowed = /[A-Za-z0-9_-]/;
const fifoEnding = '.fifo';
/** SQS ends names at 80 characters, the ending included. */
const queueName = nameMaker(allowed, 80 - fifoEnding.length);
/** SNS ends names at 256. */
const topicName = nameMaker(allowed, 256 - fifoEnding.length);
/** A name as it was before SQS's limit cut it: what a queue's tag can hold. */
const wholeName = nameMaker(allowed, 256);

/** Characters of a queue's name that a cut leaves as they are: enough to list the queues of a kind. */
const uncut = 40;

/** A queue by its name, and whether that name was chosen by the user: what exists under it is used as it is. */
export interface QueueName {
  readonly name: string;
  readonly given: boolean;
  /** The whole name, for the queue's tag; without meaning for a given one. */
  readonly whole: string;
}

/** The queues of a group. */
export interface GroupNames {
  readonly queue: QueueName;
  readonly dead: QueueName;
  /** Messages set apart for `receiveAlone`; `undefined` on ordered topics and for broadcasts. */
  readonly alone: QueueName | undefined;
}

/** Every name that this adapter uses (CFG-04). `v1` is the version of the wire format and topology. */
export class SqsNames {
  readonly #prefix: string;
  readonly #overrides: NameOverrides;

  constructor(prefix: string, overrides: NameOverrides) {
    this.#prefix = `${prefix}waybill-v1-`;
    this.#overrides = overrides;
  }

  /** The SNS topic: a name, or an ARN where the user's mapping gives one. */
  topic(topic: string, ordered: boolean): string {
    return this.#overrides.topic?.(topic) ?? fifo(topicName(`${this.#prefix}topic`, topic), ordered);
  }

  /** True where a topic's name is the user's own, so that its ending decides whether it is a FIFO one. */
  isGiven(topic: string): boolean {
    return this.#overrides.topic?.(topic) !== undefined;
  }

  /** The one queue that a topic is with `fanOut: 'queue'`. */
  topicQueue(topic: string, ordered: boolean): QueueName {
    const given = this.#overrides.topic?.(topic);
    return given === undefined ? this.#own('topic', ordered, topic) : { name: given, given: true, whole: given };
  }

  group(topic: string, group: string, ordered: boolean, temporary: boolean): GroupNames {
    const given = this.#overrides.group?.(topic, group);
    const dead = this.#overrides.deadLetter?.(topic, group);
    return {
      queue:
        given === undefined
          ? this.#own(temporary ? 'cast' : 'group', ordered, topic, group)
          : { name: given, given: true, whole: given },
      dead: dead === undefined ? this.#own('dead', ordered, topic, group) : { name: dead, given: true, whole: dead },
      alone: ordered || temporary ? undefined : this.#own('alone', false, topic, group),
    };
  }

  /** Where delayed publishes wait. */
  get delay(): QueueName {
    return this.#own('delay', false);
  }

  /** What the names of all broadcast queues begin with. */
  get broadcasts(): string {
    return queueName(`${this.#prefix}cast`).slice(0, uncut);
  }

  /** What the names of a topic's group queues begin with; `undefined` where the limit has cut it off. */
  groupsOf(topic: string): string | undefined {
    const start = `${queueName(`${this.#prefix}group`, topic)}_x_`;
    return start.length <= uncut ? start : undefined;
  }

  #own(kind: string, ordered: boolean, ...parts: readonly string[]): QueueName {
    const all = [`${this.#prefix}${kind}`, ...parts];
    return { name: fifo(queueName(...all), ordered), given: false, whole: fifo(wholeName(...all), ordered) };
  }
}

export function isFifo(name: string): boolean {
  return name.endsWith(fifoEnding);
}

const fifo = (name: string, ordered: boolean): string => (ordered ? `${name}${fifoEnding}` : name);

/** What a message group id may be. */
const plainGroupId = /^(?!waybill-x-)[!-~]{1,128}$/;

/** A key as a message group: as it is where SQS allows it, else by its hash. */
export function messageGroupOf(key: string): string {
  if (plainGroupId.test(key)) return key;
  return `waybill-x-${createHash('sha256').update(key).digest('hex')}`;
}
