import type { GroupRef, NameOverrides } from '@waybill/core/adapter';

/** Where a group lives: keys of one slot. */
export interface GroupKeys {
  /** The stream that its messages are published to: the topic's, or one lane's. */
  readonly stream: string;
  /** The name of the consumer group, the same on all of its streams. */
  readonly group: string;
  /** Messages for this group alone: retries that are due, and redriven messages. */
  readonly retry: string;
  /** Messages set apart for `receiveAlone`. */
  readonly alone: string;
  /** Retries that wait, by the time they are due. */
  readonly waiting: string;
  readonly deadLetters: string;
  /** Members, by the time until which they are known to live. */
  readonly members: string;
  /** Who has the lane. */
  readonly owner: string;
}

/** Where a topic lives. */
export interface TopicKeys {
  /** The stream; for an ordered topic one per lane. */
  readonly streams: readonly string[];
  /** Whether it is ordered, and its lanes. */
  readonly facts: string;
  /** Publishes that wait for their time. */
  readonly delayed: string;
  /** Groups of broadcasts, by the time until which they are known to be used. */
  readonly temporary: string;
}

const version = 'waybill:v1';

/**
 * Every key that this adapter uses (CFG-04). A topic without order is the stream of its own name; all else begins with
 * `waybill:v1:` and has the topic's key as its hash tag, so that a script finds what belongs together in one slot.
 */
export class KeyNames {
  readonly #overrides: NameOverrides;
  readonly #prefix: string;

  constructor(prefix: string, overrides: NameOverrides) {
    // A brace in it would be taken for a hash tag; % so that this can be read back.
    this.#prefix = prefix.replace(/[{}%]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
    this.#overrides = overrides;
  }

  /** The key that a topic without order is published to. */
  stream(topic: string): string {
    return this.#overrides.topic?.(topic) ?? this.#prefix + topic;
  }

  /** @param lanes 0 for a topic without order */
  topic(topic: string, lanes: number): TopicKeys {
    const stream = this.stream(topic);
    const own = ownKeys(stream);
    return {
      streams: lanes === 0 ? [stream] : Array.from({ length: lanes }, (_, lane) => laneKeys(stream, lane)('lane')),
      facts: own('topic'),
      delayed: own('delayed'),
      temporary: own('temporary'),
    };
  }

  /** The group's name on the broker. */
  groupName(topic: string, group: string): string {
    return this.#overrides.group?.(topic, group) ?? group;
  }

  /** @param lanes 0 for a topic without order */
  group({ topic, name }: Pick<GroupRef, 'name'> & { topic: { name: string } }, lanes: number): readonly GroupKeys[] {
    const retry = this.#overrides.retry?.(topic.name, name);
    const deadLetters = this.#overrides.deadLetter?.(topic.name, name);
    return this.#group(this.stream(topic.name), this.groupName(topic.name, name), lanes, retry, deadLetters);
  }

  /** A group by its name on the broker. */
  rawGroup(topic: string, group: string, lanes: number): readonly GroupKeys[] {
    return this.#group(this.stream(topic), group, lanes, undefined, undefined);
  }

  #group(
    stream: string,
    group: string,
    lanes: number,
    retry: string | undefined,
    deadLetters: string | undefined,
  ): readonly GroupKeys[] {
    const members = ownKeys(stream)('members', group);
    const keysOf = (own: OwnKeys, key: string, lane: string): GroupKeys => ({
      stream: key,
      group,
      retry: retry === undefined ? own('retry', group) : retry + lane,
      alone: own('alone', group),
      waiting: own('waiting', group),
      deadLetters: deadLetters === undefined ? own('dead', group) : deadLetters + lane,
      members,
      owner: own('owner', group),
    });
    if (lanes === 0) return [keysOf(ownKeys(stream), stream, '')];
    return Array.from({ length: lanes }, (_, lane) => {
      const own = laneKeys(stream, lane);
      return keysOf(own, own('lane'), `:${lane}`);
    });
  }
}

type OwnKeys = (kind: string, group?: string) => string;

/** `waybill:v1:{orders}:retry:billing`. The group is the last part, so it may hold anything. */
function ownKeys(stream: string): OwnKeys {
  const tag = hashTag(stream);
  // A name of the user's own may have a tag of its own, which must stay the tag; then the whole name stands behind it.
  const more = tag === stream ? '' : `:${encodeURIComponent(stream)}`;
  return (kind, group) => `${version}:{${tag}}${more}:${kind}${group === undefined ? '' : `:${group}`}`;
}

/** Lanes lie in slots of their own, so that a cluster shares them. */
function laneKeys(stream: string, lane: number): OwnKeys {
  const tag = hashTag(stream);
  const more = tag === stream ? '' : `:${encodeURIComponent(stream)}`;
  return (kind, group) => `${version}:{${tag}/${lane}}${more}:lane-${kind}${group === undefined ? '' : `:${group}`}`;
}

/** What a cluster hashes of a key: the first braces that hold something, else all of it. */
export function hashTag(key: string): string {
  const from = key.indexOf('{');
  if (from < 0) return key;
  const to = key.indexOf('}', from + 1);
  return to <= from + 1 ? key : key.slice(from + 1, to);
}
