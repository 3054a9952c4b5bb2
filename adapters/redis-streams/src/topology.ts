import {
  type AdapterContext,
  type Clock,
  ConfigError,
  checkOptions,
  type GroupRef,
  nameOfGroup,
  type Position,
  type ProvisionItem,
  type TopicInfo,
} from '@waybill/core/adapter';
import { adapterName, requestFailure } from './errors.ts';
import { temporaryExpiry } from './housekeeping.ts';
import type { Link } from './link.ts';
import type { GroupKeys, KeyNames, TopicKeys } from './names.ts';
import { asList, asText } from './replies.ts';
import { dropGroup, keepTemporary, makeGroup, makeTopic, seekGroup } from './scripts.ts';

const defaultLanes = 8;
/** The largest second half of an entry's id. */
const lastSequence = '18446744073709551615';

/** A group as it stands on the server. */
export interface GroupPlace {
  readonly topic: TopicKeys;
  /** One, or one per lane. */
  readonly groups: readonly GroupKeys[];
  /** 0 for a topic without order. */
  readonly lanes: number;
}

type Declared = ProvisionItem['topic'];

/** Topics and groups: looked up, made, compared, deleted. */
export class Topology {
  readonly #link: Link;
  readonly #names: KeyNames;
  readonly #clock: Clock;

  constructor(link: Link, names: KeyNames, context: AdapterContext) {
    this.#link = link;
    this.#names = names;
    this.#clock = context.clock;
  }

  /** A stream that others have made is a topic without order. */
  async describe(name: string): Promise<TopicInfo | undefined> {
    const { facts, streams } = this.#names.topic(name, 0);
    try {
      const [ordered, lanes] = asList(await this.#link.call(['HMGET', facts, 'ordered', 'lanes'])).map(asText);
      if (ordered === '1') return { ordered: true, lanes: Number(lanes) };
      if (ordered === '0') return { ordered: false, lanes: undefined };
      const kind = asText(await this.#link.call(['TYPE', streams[0] ?? '']));
      if (kind === 'none') return undefined;
      if (kind === 'stream') return { ordered: false, lanes: undefined };
      throw new ConfigError('topology', `the key "${streams[0]}" of topic "${name}" is a ${kind}, not a stream`, {
        adapter: adapterName,
      });
    } catch (error) {
      throw requestFailure(error, `topic "${name}" cannot be looked up`);
    }
  }

  /** How many lanes a topic has; 0 for one without order, also where nothing is known of it. */
  async lanesOf(topic: { readonly name: string; readonly ordered: boolean; readonly lanes: number | undefined }) {
    const info = await this.describe(topic.name);
    if (info === undefined) return topic.ordered ? (topic.lanes ?? defaultLanes) : 0;
    return info.ordered === true ? (info.lanes ?? defaultLanes) : 0;
  }

  async placeOf(ref: GroupRef): Promise<GroupPlace> {
    const lanes = await this.lanesOf(ref.topic);
    return { lanes, topic: this.#names.topic(ref.topic.name, lanes), groups: this.#names.group(ref, lanes) };
  }

  /** @throws ConfigError when there is no such group */
  async existing(ref: GroupRef): Promise<GroupPlace> {
    const place = await this.placeOf(ref);
    if (!(await this.#hasGroup(place))) {
      throw new ConfigError(
        'group',
        `topic "${ref.topic.name}" has no group "${ref.name}"; subscribe with it first, or make it with provision()`,
        { adapter: adapterName },
      );
    }
    return place;
  }

  /** Makes what is missing; returns what cannot be made good. */
  async create(item: ProvisionItem): Promise<string[]> {
    const { topic, groups } = item;
    refuseOptions(topic.options);
    for (const { options } of groups) refuseOptions(options);
    const what = `topic "${topic.name}"`;
    try {
      let found = await this.describe(topic.name);
      if (found === undefined) {
        const { facts } = this.#names.topic(topic.name, 0);
        const lanes = topic.ordered ? (topic.lanes ?? defaultLanes) : 0;
        await this.#link.run(makeTopic, [facts], [topic.ordered ? 1 : 0, lanes]);
        found = await this.describe(topic.name);
      }
      const differences = compare(topic, found);
      if (differences.length > 0) return differences;
      for (const { name, temporary, startAt } of groups) {
        await this.make({ topic, name, temporary }, startOf(startAt, this.#clock));
      }
      return [];
    } catch (error) {
      throw requestFailure(error, `${what} cannot be made`);
    }
  }

  /**
   * @param start of each lane, as `makeGroup` takes it; `undefined` leaves a lane as it is
   * @param back whether a group that is there goes back to it; the lanes of an ordered topic stay
   */
  async make(ref: GroupRef, start: (lane: number) => string | undefined, back = false): Promise<void> {
    const { topic, groups, lanes } = await this.placeOf(ref);
    const [first] = groups;
    if (ref.temporary && first !== undefined) {
      await this.#link.run(keepTemporary, [topic.temporary], [first.group, temporaryExpiry]);
    }
    await Promise.all(
      groups.map(async (keys, lane) => {
        const from = start(lane);
        if (from === undefined) return;
        await this.#link.run(
          makeGroup,
          [keys.stream, keys.retry, keys.alone, keys.deadLetters, ...(lanes === 0 ? [topic.facts] : [])],
          [keys.group, from, lanes === 0 ? 1 : 0, back && lanes === 0 ? 1 : 0],
        );
      }),
    );
  }

  /** Lists what is missing or different. */
  async verify(item: ProvisionItem): Promise<string[]> {
    const { topic, groups } = item;
    refuseOptions(topic.options);
    for (const { options } of groups) refuseOptions(options);
    try {
      const found = await this.describe(topic.name);
      const differences = compare(topic, found);
      for (const { name, temporary } of groups) {
        if (!(await this.#hasGroup(await this.placeOf({ topic, name, temporary })))) {
          differences.push(`${nameOfGroup({ topic, name })} is missing`);
        }
      }
      return differences;
    } catch (error) {
      throw requestFailure(error, `topic "${topic.name}" cannot be checked`);
    }
  }

  async remove(ref: GroupRef): Promise<void> {
    try {
      await this.drop(await this.placeOf(ref));
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(ref)} cannot be removed`);
    }
  }

  async drop({ topic, groups }: GroupPlace): Promise<void> {
    await Promise.all(
      groups.map((keys) =>
        this.#link.run(
          dropGroup,
          [keys.stream, keys.retry, keys.alone, keys.waiting, keys.deadLetters, keys.owner],
          [keys.group],
        ),
      ),
    );
    const [first] = groups;
    if (first === undefined) return;
    await this.#link.call(['DEL', first.members]);
    await this.#link.call(['ZREM', topic.temporary, first.group]);
    await this.#link.call(['HDEL', topic.facts, `made:${first.group}`]);
  }

  async seek(ref: GroupRef, to: Position): Promise<void> {
    const { groups } = await this.existing(ref);
    const start = startOf(to, this.#clock);
    try {
      await Promise.all(
        groups.map(({ stream, group }, lane) => this.#link.run(seekGroup, [stream], [group, start(lane)])),
      );
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(ref)} cannot be moved`);
    }
  }

  async #hasGroup({ groups }: GroupPlace): Promise<boolean> {
    const found = await Promise.all(groups.map(({ stream, group }) => this.#streamHas(stream, group)));
    return found.every((one) => one);
  }

  async #streamHas(stream: string, group: string): Promise<boolean> {
    if (asText(await this.#link.call(['TYPE', stream])) !== 'stream') return false;
    const groups = asList(await this.#link.call(['XINFO', 'GROUPS', stream]));
    return groups.some((flat) => asText(asList(flat)[1]) === group);
  }
}

/** @throws ConfigError: there are none for topics, subscriptions and publishes, so any is a mistake (CFG-01) */
export function refuseOptions(options: Readonly<Record<string, unknown>> | undefined): void {
  if (options !== undefined) checkOptions(options, [], `broker.${adapterName}`);
}

function compare({ name, ordered, lanes }: Declared, found: TopicInfo | undefined): string[] {
  if (found === undefined) return [`topic "${name}" is missing`];
  if (found.ordered !== ordered) {
    return [`topic "${name}" is ${words(found.ordered === true)}, declared is ${words(ordered)}`];
  }
  if (ordered && lanes !== undefined && found.lanes !== lanes) {
    return [`topic "${name}" has ${found.lanes} lanes, declared are ${lanes}`];
  }
  return [];
}

const words = (ordered: boolean): string => (ordered ? 'ordered' : 'without order');

const idOf = /^(\d{1,15})-(\d{1,20})$/;

/**
 * Where a group starts, by lane: '$', '0', or the id of the last message that it skips.
 *
 * @throws ConfigError for what is no position of ours
 */
export function startOf(position: Position, clock: Clock): (lane: number) => string {
  if (position === 'earliest') return () => '0';
  if (position === 'latest') return () => '$';
  if (position instanceof Date) {
    const time = position.getTime();
    // A group that stood in the future would skip what is published until then.
    return time >= clock.now() ? () => '$' : () => beforeTime(time);
  }
  const text = position.position;
  const slash = text.indexOf('/');
  const id = text.slice(slash + 1);
  const match = idOf.exec(id);
  if (match === null || (slash >= 0 && !/^\d{1,6}$/.test(text.slice(0, slash)))) {
    throw new ConfigError('position', `"${text}" is not a position of a stream, such as 1700000000000-0`, {
      adapter: adapterName,
    });
  }
  const time = Number(match[1]);
  const exact = before(time, BigInt(match[2] ?? '0'));
  // Of another lane the time is all that can be said.
  return slash < 0 ? () => exact : (lane) => (lane === Number(text.slice(0, slash)) ? exact : beforeTime(time));
}

/** The id before another one. */
export function idBefore(id: string): string {
  const match = idOf.exec(id);
  return match === null ? '0' : before(Number(match[1]), BigInt(match[2] ?? '0'));
}

function before(time: number, sequence: bigint): string {
  return sequence > 0n ? `${time}-${sequence - 1n}` : beforeTime(time);
}

function beforeTime(time: number): string {
  return time <= 0 ? '0' : `${time - 1}-${lastSequence}`;
}
