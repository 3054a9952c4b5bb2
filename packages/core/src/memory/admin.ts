import type { DeadLetterRecord, DeadLetterScan, GroupRef, Lag, Position, SettleResult } from '../adapter.ts';
import type { DeadLetter } from './broker/dead-letters.ts';
import type { Group } from './broker/group.ts';
import type { Link } from './broker/link.ts';
import { positionOf, type Topology } from './topology.ts';

export function countDeadLetters(topology: Topology, ref: GroupRef): number {
  return topology.group(ref).deadLetters.size;
}

export function lag(topology: Topology, ref: GroupRef): Lag {
  return topology.group(ref).lag;
}

/**
 * Moves a group. What waits before the new place is skipped; `earliest` skips nothing, also of what is so old that the
 * log has dropped it.
 */
export function seek(topology: Topology, ref: GroupRef, to: Position): void {
  const group = topology.group(ref);
  group.moveTo(positionOf(group.topic, to), to !== 'earliest');
}

export class MemoryDeadLetterScan implements DeadLetterScan {
  readonly #link: Link;
  readonly #group: Group;
  readonly #walk: Iterator<DeadLetter, undefined>;

  constructor(topology: Topology, ref: GroupRef) {
    this.#link = topology.link;
    this.#group = topology.group(ref);
    this.#walk = this.#group.deadLetters.walk();
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    this.#link.check();
    const records: DeadLetterRecord[] = [];
    while (records.length < max) {
      const letter = this.#walk.next().value;
      if (letter === undefined) break;
      records.push(recordOf(letter));
    }
    return records;
  }

  async redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    const results = this.#each(records, (entry) => this.#group.redrive(entry));
    this.#group.serve();
    return results;
  }

  async purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#each(records, (entry) => this.#group.deadLetters.take(entry) !== undefined);
  }

  /** Nothing was taken out to be looked at, so nothing has to be put back. */
  async close(): Promise<void> {}

  #each(records: readonly DeadLetterRecord[], act: (entry: string) => boolean): SettleResult[] {
    this.#link.check();
    if (this.#group.removed) return records.map(() => 'lost');
    return records.map((record) => (act(record.details.entry) ? 'applied' : 'lost'));
  }
}

function recordOf({ copy, details }: DeadLetter): DeadLetterRecord {
  const { content, position, storedAt } = copy.message;
  return {
    id: content.id,
    key: content.key,
    type: content.type,
    contentType: content.contentType,
    body: new Uint8Array(content.body),
    headers: content.headers,
    publishedAt: content.publishedAt ?? storedAt,
    expiresAt: content.expiresAt,
    position: String(position),
    native: copy.message,
    details,
  };
}
