/**
 * Who of a group reads what. A unit is what goes to one member as a whole: a partition of the topic with the same one
 * of the group's retry topic, or one delay level.
 *
 * A unit moves in two steps: first its owner is told to let go, and only when it has joined again without the unit does
 * somebody else get it. So nothing is handled twice when members come and go, and what stays is not disturbed.
 */

import type { TopicPartition } from './driver.ts';

/** Named to the broker: members that share units by other rules cannot join. */
export const PROTOCOL = 'waybill-1';

export interface Claim {
  readonly member: string;
  readonly units: readonly string[];
  /** Of the claim: a member that was away for a while may claim what has long been another's. */
  readonly generation: number;
  /** Joined only to move the group: gets no units. */
  readonly move?: Move;
}

/** New places of a group, by `topic:partition`; told to all members by the leader's assignment. */
export interface Move {
  readonly id: string;
  readonly offsets: Readonly<Record<string, number>>;
}

/**
 * `even`: members get equally many. `one`: whoever has most gets what nobody has, and the others stand by, so that
 * nothing moves or depends on members that have just come.
 */
export type Sharing = 'even' | 'one';

/** The units of each member; those that have to be let go first are with nobody. */
export function assign(claims: readonly Claim[], units: readonly string[], sharing: Sharing): Map<string, string[]> {
  const owners = new Map<string, Claim>();
  const exists = new Set(units);
  for (const claim of claims) {
    for (const unit of claim.units) {
      const other = owners.get(unit);
      if (exists.has(unit) && (other === undefined || other.generation < claim.generation)) owners.set(unit, claim);
    }
  }
  const owned = claims.map((claim) => ({ claim, units: units.filter((unit) => owners.get(unit) === claim) }));
  // Who has most keeps most, so that the fewest units move; who has just come is last.
  owned.sort((a, b) => {
    const order = b.units.length - a.units.length || b.claim.generation - a.claim.generation;
    return order || (a.claim.member < b.claim.member ? -1 : 1);
  });
  const shares = owned.map(({ claim, units: mine }, index) => {
    const quota = Math.floor(units.length / owned.length) + (index < units.length % owned.length ? 1 : 0);
    const most = sharing === 'even' ? quota : index === 0 ? units.length : mine.length;
    return { member: claim.member, most, units: mine.slice(0, most) };
  });
  const free = units.filter((unit) => !owners.has(unit));
  for (let least = 0; free.length > 0 && least <= units.length; least++) {
    for (const share of shares) {
      if (share.units.length > least || share.units.length >= share.most) continue;
      const unit = free.shift();
      if (unit !== undefined) share.units.push(unit);
    }
  }
  return new Map(shares.map(({ member, units: mine }) => [member, mine]));
}

/** What the leader of a group tells its members, from what they claimed when they joined. */
export function divide(
  members: readonly { readonly id: string; readonly metadata: Buffer }[],
  partitions: readonly TopicPartition[],
  unitOf: (partition: TopicPartition) => string,
  sharing: Sharing,
): { id: string; assignment: Buffer }[] {
  const units = new Map<string, TopicPartition[]>();
  for (const partition of partitions) {
    const unit = unitOf(partition);
    units.set(unit, [...(units.get(unit) ?? []), partition]);
  }
  const claims = members.map(({ id, metadata }) => decodeSubscription(id, metadata));
  const moves = claims.flatMap(({ move }) => (move === undefined ? [] : [move]));
  const shares = assign(
    claims.filter(({ move }) => move === undefined),
    [...units.keys()],
    sharing,
  );
  return members.map(({ id }) => {
    const byTopic = new Map<string, number[]>(partitions.map(({ topic }) => [topic, []]));
    for (const unit of shares.get(id) ?? []) {
      for (const { topic, partition } of units.get(unit) ?? []) byTopic.get(topic)?.push(partition);
    }
    return { id, assignment: encodeAssignment(byTopic, moves) };
  });
}

// Kafka's own formats of a subscription and an assignment, version 0, so that its tools can show who reads what.
// https://kafka.apache.org/protocol#protocol_consumer

export function encodeSubscription(topics: readonly string[], claim: Omit<Claim, 'member'>): Buffer {
  return Buffer.concat([
    int16(0),
    int32(topics.length),
    ...topics.map(text),
    bytes(Buffer.from(JSON.stringify(claim))),
  ]);
}

/** What a member claims; nothing where that cannot be read. */
export function decodeSubscription(member: string, data: Buffer): Claim {
  const { units, generation, move } = userData(data, (at) => at + 2 + data.readInt16BE(at));
  if (!Array.isArray(units) || typeof generation !== 'number') return { member, units: [], generation: -1 };
  const claim = { member, units: units.map(String), generation };
  return isMove(move) ? { ...claim, move } : claim;
}

export function encodeAssignment(topics: ReadonlyMap<string, readonly number[]>, moves: readonly Move[] = []): Buffer {
  const parts = [int16(0), int32(topics.size)];
  for (const [topic, partitions] of topics) parts.push(text(topic), int32(partitions.length), ...partitions.map(int32));
  return Buffer.concat([
    ...parts,
    bytes(moves.length === 0 ? Buffer.alloc(0) : Buffer.from(JSON.stringify({ moves }))),
  ]);
}

export function decodeAssignment(data: Buffer): { partitions: TopicPartition[]; moves: Move[] } {
  const partitions: TopicPartition[] = [];
  const { moves } = userData(data, (start) => {
    const length = data.readInt16BE(start);
    const topic = data.toString('utf8', start + 2, start + 2 + length);
    let at = start + 2 + length + 4;
    for (let left = data.readInt32BE(at - 4); left > 0; left--, at += 4) {
      partitions.push({ topic, partition: data.readInt32BE(at) });
    }
    return at;
  });
  return { partitions, moves: Array.isArray(moves) ? moves.filter(isMove) : [] };
}

/** The JSON behind the list of topics; nothing where there is none, or another program's. */
function userData(data: Buffer, skipTopic: (at: number) => number): Record<string, unknown> {
  try {
    let at = 6;
    for (let left = data.readInt32BE(2); left > 0; left--) at = skipTopic(at);
    const length = data.readInt32BE(at);
    const found: unknown = length <= 0 ? {} : JSON.parse(data.toString('utf8', at + 4, at + 4 + length));
    return typeof found === 'object' && found !== null ? (found as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function isMove(value: unknown): value is Move {
  if (typeof value !== 'object' || value === null || !('id' in value) || !('offsets' in value)) return false;
  const { id, offsets } = value;
  if (typeof id !== 'string' || typeof offsets !== 'object' || offsets === null) return false;
  return Object.values(offsets).every((offset) => typeof offset === 'number');
}

function int16(value: number): Buffer {
  const buffer = Buffer.alloc(2);
  buffer.writeInt16BE(value);
  return buffer;
}
function int32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32BE(value);
  return buffer;
}
const text = (value: string): Buffer => Buffer.concat([int16(Buffer.byteLength(value)), Buffer.from(value)]);
const bytes = (value: Buffer): Buffer => Buffer.concat([int32(value.length), value]);
