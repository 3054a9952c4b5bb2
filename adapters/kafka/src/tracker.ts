/**
 * Which messages of one partition are done. Kafka keeps one number a partition, the first that is not done; what was
 * done beyond it stands as a bitmap in the metadata of the commit, so that a crash does not bring it back (ACK-02).
 */
const mark = 'waybill1:';

/** Characters of a move's name, which stays in the metadata so that whoever asked for it sees it was followed. */
const MOVE = 8;

/** Characters of metadata that a broker takes unless told otherwise (`offset.metadata.max.bytes`). */
const METADATA_BYTES = 4_096;

/** Offsets that the bitmap can hold, in base64, beyond the first that is not done. */
export const WINDOW = Math.floor((METADATA_BYTES - mark.length - 1 - MOVE) / 4) * 3 * 8;

export class Tracker {
  /** Offsets that were read and may not be done yet, in their order, from `#head` on. */
  #read: number[] = [];
  #head = 0;
  /** Done, at or beyond the position. */
  readonly #done: Set<number>;
  readonly #move: string;
  #next: number;

  /** Goes on where a commit has left off. */
  constructor(offset: number, metadata: string) {
    this.#next = offset;
    this.#done = decodeDone(offset, metadata);
    this.#move = moveOf(metadata);
  }

  /** The first offset that is not done: what is committed. */
  get position(): number {
    return this.#read[this.#head] ?? this.#next;
  }

  /** A record that was read; false when it was done before, so that it is not handed out again. */
  add(offset: number): boolean {
    this.#next = offset + 1;
    if (this.#done.has(offset) && this.#head === this.#read.length) {
      this.#done.delete(offset);
      return false;
    }
    this.#read.push(offset);
    return !this.#done.has(offset);
  }

  /** Everything before `next` has been read; what was not added does not exist (compacted, aborted). */
  readTo(next: number): void {
    if (next > this.#next) this.#next = next;
  }

  finish(offset: number): void {
    if (offset < this.position) return;
    this.#done.add(offset);
    let first = this.#read[this.#head];
    while (first !== undefined && this.#done.delete(first)) first = this.#read[++this.#head];
    if (this.#head > 1_024 && this.#head * 2 > this.#read.length) {
      this.#read = this.#read.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Whether the bitmap would have room for this one: what is beyond must not be handed out yet. */
  hasRoom(offset: number): boolean {
    return offset - this.position < WINDOW;
  }

  /** The metadata of a commit at `position`. */
  metadata(): string {
    const { position } = this;
    let last = -1;
    for (const offset of this.#done) {
      // Bits of a former commit for offsets that do not exist.
      if (offset < position) this.#done.delete(offset);
      else if (offset > last) last = offset;
    }
    if (last < 0) return this.#move === '' ? '' : movedBy(this.#move);
    const bits = Buffer.alloc(((last - position) >> 3) + 1);
    for (const offset of this.#done) {
      const bit = offset - position;
      const at = bit >> 3;
      bits[at] = (bits[at] ?? 0) | (1 << (bit & 7));
    }
    return `${mark}${bits.toString('base64')}${this.#move === '' ? '' : `:${this.#move}`}`;
  }
}

/** Offsets that a commit says are done beyond its own; none where the metadata is somebody else's. */
export function decodeDone(offset: number, metadata: string): Set<number> {
  const done = new Set<number>();
  if (!metadata.startsWith(mark)) return done;
  const [encoded = ''] = metadata.slice(mark.length).split(':');
  const bits = Buffer.from(encoded, 'base64');
  for (let at = 0; at < bits.length; at++) {
    const byte = bits[at] ?? 0;
    for (let bit = 0; byte >> bit !== 0; bit++) {
      if ((byte >> bit) & 1) done.add(offset + at * 8 + bit);
    }
  }
  return done;
}

/** The metadata of a place that a move has set; nothing beyond it is done. */
export const movedBy = (move: string): string => `${mark}:${move.slice(0, MOVE)}`;

/** The last move that a place has followed; empty where there was none. */
export function moveOf(metadata: string): string {
  return metadata.startsWith(mark) ? (metadata.slice(mark.length).split(':')[1] ?? '') : '';
}
