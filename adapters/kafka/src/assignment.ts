/**
 * Who of a group reads what. A unit is what goes to one member as a whole: a partition of the topic with the same one
 * of the group's retry topic, or one delay level.
 *
 * A unit moves in two steps: first its owner is told to let go, and only when it has joined again without the unit does
 * somebody else get it. So nothing is handled twice when members come and go, and what stays is not disturbed.
 */

/** Named to the broker: members that share units by other rules cannot join. */
export const PROTOCOL = 'waybill-1';

export interface Claim {
  readonly member: string;
  readonly units: readonly string[];
  /** Of the claim: a member that was away for a while may claim what has long been another's. */
  readonly generation: number;
}

/** `even`: members get equally many. `keep`: a new member gets only what nobody has, so nothing moves. */
export type Sharing = 'even' | 'keep';

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
  const owned = claims.map((claim) => ({
    member: claim.member,
    units: units.filter((unit) => owners.get(unit) === claim),
  }));
  // Who has most keeps most: so the fewest units move.
  owned.sort((a, b) => b.units.length - a.units.length || (a.member < b.member ? -1 : 1));
  const share = Math.floor(units.length / Math.max(1, owned.length));
  const larger = units.length % Math.max(1, owned.length);
  const free = units.filter((unit) => !owners.has(unit));
  const result = new Map<string, string[]>();
  for (const [index, { member, units: mine }] of owned.entries()) {
    result.set(member, sharing === 'keep' ? mine : mine.slice(0, share + (index < larger ? 1 : 0)));
  }
  for (let round = 0; free.length > 0 && round <= share; round++) {
    for (const [index, { member }] of owned.entries()) {
      const mine = result.get(member) ?? [];
      const quota = share + (index < larger ? 1 : 0);
      if (mine.length > round || mine.length >= quota) continue;
      const unit = free.shift();
      if (unit === undefined) break;
      mine.push(unit);
    }
  }
  return result;
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
  try {
    let at = 6;
    for (let left = data.readInt32BE(2); left > 0; left--) at += 2 + data.readInt16BE(at);
    const length = data.readInt32BE(at);
    const claim: unknown = JSON.parse(data.toString('utf8', at + 4, at + 4 + length));
    if (typeof claim === 'object' && claim !== null && 'units' in claim && 'generation' in claim) {
      const { units, generation } = claim;
      if (Array.isArray(units) && typeof generation === 'number')
        return { member, units: units.map(String), generation };
    }
  } catch {
    // Not ours: it claims nothing.
  }
  return { member, units: [], generation: -1 };
}

export function encodeAssignment(topics: ReadonlyMap<string, readonly number[]>): Buffer {
  const parts = [int16(0), int32(topics.size)];
  for (const [topic, partitions] of topics) parts.push(text(topic), int32(partitions.length), ...partitions.map(int32));
  return Buffer.concat([...parts, bytes(Buffer.alloc(0))]);
}

export function decodeAssignment(data: Buffer): { topic: string; partition: number }[] {
  const found: { topic: string; partition: number }[] = [];
  if (data.length < 6) return found;
  let at = 6;
  for (let topics = data.readInt32BE(2); topics > 0; topics--) {
    const length = data.readInt16BE(at);
    const topic = data.toString('utf8', at + 2, at + 2 + length);
    at += 2 + length;
    const count = data.readInt32BE(at);
    at += 4;
    for (let left = count; left > 0; left--, at += 4) found.push({ topic, partition: data.readInt32BE(at) });
  }
  return found;
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
