import {
  type DeadLetterCount,
  type DeadLetterRecord,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  laneOf,
  nameOfGroup,
  type SettleResult,
} from '@waybill/core/adapter';
import { requestFailure } from './errors.ts';
import { isAfter } from './ids.ts';
import type { Link } from './link.ts';
import { type Entry, toDeadLetter } from './message.ts';
import type { GroupKeys } from './names.ts';
import { asEntry, asList, asNumber, asText } from './replies.ts';
import { moveBytes, purge, lag as readLag, redrive, type Script } from './scripts.ts';
import type { GroupPlace, Topology } from './topology.ts';

/** Looks at groups from outside: how much waits, and what is dead. */
export class Admin {
  readonly #link: Link;
  readonly #topology: Topology;

  constructor(link: Link, topology: Topology) {
    this.#link = link;
    this.#topology = topology;
  }

  async lag(ref: GroupRef): Promise<Lag> {
    try {
      const { topic, groups, lanes } = await this.#topology.existing(ref);
      const parts = await Promise.all(
        groups.map(async (keys) => {
          // Nothing is delayed on an ordered topic, and its lanes lie elsewhere.
          const delayed = lanes === 0 ? topic.delayed : keys.waiting;
          const members = lanes === 0 ? keys.members : keys.waiting;
          return this.#link.run(
            readLag,
            [keys.stream, keys.retry, keys.alone, keys.waiting, members, delayed, keys.owner],
            [keys.group],
          );
        }),
      );
      const sum = { waiting: 0, delayed: 0, inFlight: 0, exact: true };
      for (const part of parts) {
        const [waiting, delayed, inFlight, exact] = asList(part).map(asNumber);
        sum.waiting += waiting ?? 0;
        sum.delayed += delayed ?? 0;
        sum.inFlight += inFlight ?? 0;
        if (exact !== 1) sum.exact = false;
      }
      return sum;
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(ref)} has no lag to tell`);
    }
  }

  async countDeadLetters(ref: GroupRef): Promise<DeadLetterCount> {
    try {
      const { groups } = await this.#topology.existing(ref);
      const counts = await Promise.all(groups.map(({ deadLetters }) => this.#link.call(['XLEN', deadLetters])));
      return { value: counts.reduce((sum: number, count) => sum + asNumber(count), 0), exact: true };
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(ref)} has no dead letters to count`);
    }
  }

  async openDeadLetters(ref: GroupRef): Promise<DeadLetterScan> {
    try {
      const place = await this.#topology.existing(ref);
      const ends = await Promise.all(
        place.groups.map(async ({ deadLetters }) => {
          const [last] = asList(await this.#link.call(['XREVRANGE', deadLetters, '+', '-', 'COUNT', 1]));
          return last === undefined ? undefined : asText(asList(last)[0]);
        }),
      );
      return new Scan(this.#link, ref, place, ends);
    } catch (error) {
      throw requestFailure(error, `${nameOfGroup(ref)} has no dead letters to read`);
    }
  }
}

/** Where a walk is in the dead letters of one lane. */
interface Walk {
  readonly keys: GroupKeys;
  /** The last one that was there at the beginning. */
  readonly end: string;
  /** What comes next begins behind it. */
  after: string;
  readonly ahead: Entry[];
  done: boolean;
}

/** Reads without taking anything out. Dead letters of several lanes come in the order of their times. */
class Scan implements DeadLetterScan {
  readonly #link: Link;
  readonly #ref: GroupRef;
  readonly #place: GroupPlace;
  readonly #walks: Walk[] = [];
  readonly #homes = new WeakMap<DeadLetterRecord, GroupKeys>();

  constructor(link: Link, ref: GroupRef, place: GroupPlace, ends: readonly (string | undefined)[]) {
    this.#link = link;
    this.#ref = ref;
    this.#place = place;
    place.groups.forEach((keys, lane) => {
      const end = ends[lane];
      if (end !== undefined) this.#walks.push({ keys, end, after: '-', ahead: [], done: false });
    });
  }

  async next(max: number): Promise<readonly DeadLetterRecord[]> {
    const records: DeadLetterRecord[] = [];
    try {
      while (records.length < max) {
        await Promise.all(this.#walks.map((walk) => this.#fill(walk, max)));
        let first: Walk | undefined;
        for (const walk of this.#walks) {
          const entry = walk.ahead[0];
          if (entry !== undefined && (first?.ahead[0] === undefined || isAfter(first.ahead[0].id, entry.id)))
            first = walk;
        }
        const entry = first?.ahead.shift();
        if (first === undefined || entry === undefined) break;
        const record = toDeadLetter(entry);
        this.#homes.set(record, first.keys);
        records.push(record);
      }
    } catch (error) {
      throw requestFailure(error, `dead letters of ${nameOfGroup(this.#ref)} cannot be read`);
    }
    return records;
  }

  /** Those of one key go back to its lane. */
  redrive(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#each(redrive, records, ({ deadLetters, retry, stream }) => [deadLetters, retry, stream]);
  }

  purge(records: readonly DeadLetterRecord[]): Promise<readonly SettleResult[]> {
    return this.#each(purge, records, ({ deadLetters }) => [deadLetters]);
  }

  /** Nothing was taken out to be looked at, so nothing has to be put back. */
  async close(): Promise<void> {}

  async #fill(walk: Walk, max: number): Promise<void> {
    if (walk.done || walk.ahead.length > 0) return;
    const { deadLetters } = walk.keys;
    const entries = asList(await this.#link.call(['XRANGE', deadLetters, walk.after, walk.end, 'COUNT', max]));
    for (const one of entries) {
      const [id, fields] = asList(one);
      walk.ahead.push(asEntry(id, fields));
    }
    const last = walk.ahead.at(-1);
    if (last === undefined || last.id === walk.end) walk.done = true;
    else walk.after = `(${last.id}`;
  }

  async #each(
    script: Script,
    records: readonly DeadLetterRecord[],
    keysOf: (keys: GroupKeys) => readonly string[],
  ): Promise<readonly SettleResult[]> {
    const results = new Array<SettleResult>(records.length).fill('lost');
    const byHome = Map.groupBy(records.keys(), (at) => this.#home(records[at] as DeadLetterRecord));
    const move = async (keys: GroupKeys, places: readonly number[]): Promise<void> => {
      const ids = places.map((at) => ((records[at] as DeadLetterRecord).native as Entry).id);
      try {
        const done = asList(await this.#link.run(script, keysOf(keys), ids));
        places.forEach((at, i) => {
          results[at] = asNumber(done[i]) === 1 ? 'applied' : 'lost';
        });
      } catch (error) {
        const failure = requestFailure(error, `dead letters of ${nameOfGroup(this.#ref)} cannot be moved`);
        for (const at of places) results[at] = failure;
      }
    };
    await Promise.all(
      [...byHome].map(async ([keys, places]) => {
        for (const part of portions(places, (at) => (records[at] as DeadLetterRecord).body.byteLength)) {
          await move(keys, part);
        }
      }),
    );
    return results;
  }

  #home(record: DeadLetterRecord): GroupKeys {
    const { groups } = this.#place;
    const lane = record.key === undefined ? 0 : laneOf(record.key, groups.length);
    return this.#homes.get(record) ?? (groups[lane] as GroupKeys);
  }
}

/** One script moves no more than so many bytes at once, but always one message: the server serves nobody else meanwhile. */
function portions(places: readonly number[], bytesOf: (at: number) => number): number[][] {
  const parts: number[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const at of places) {
    bytes += bytesOf(at);
    if (bytes > moveBytes) {
      parts.push([at]);
      bytes = bytesOf(at);
    } else parts.at(-1)?.push(at);
  }
  return parts;
}
