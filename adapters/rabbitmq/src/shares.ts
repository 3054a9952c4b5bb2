import { murmur2 } from '@waybill/core/adapter';

/**
 * Who reads which lane: even shares, the same answer in every member that knows the same members, and few lanes that
 * move when one comes or goes.
 *
 * @returns the member of each lane
 */
export function shareLanes(members: readonly string[], lanes: number): readonly string[] {
  const least = Math.floor(lanes / members.length);
  let withOneMore = lanes % members.length;
  const counts = new Map<string, number>();
  const owners: string[] = [];
  for (let lane = 0; lane < lanes; lane++) {
    // A lane prefers members in an order of its own, and takes the first that has room.
    const preferred = members
      .map((member) => ({ member, rank: murmur2(Buffer.from(`${member}:${lane}`)) }))
      .sort((a, b) => a.rank - b.rank || (a.member < b.member ? -1 : 1));
    for (const { member } of preferred) {
      const count = counts.get(member) ?? 0;
      if (count > least || (count === least && withOneMore === 0)) continue;
      if (count === least) withOneMore--;
      counts.set(member, count + 1);
      owners.push(member);
      break;
    }
  }
  return owners;
}
