import type { Content, StoredMessage } from './message.ts';

/** How much a log keeps beyond what its groups have still to read. */
export interface Retention {
  readonly messages: number;
  /** Of bodies. */
  readonly bytes: number;
}

const segmentSize = 1_024;

/** A topic's messages by position. Kept in segments, so that forgetting the oldest costs the same however many follow. */
export class Log {
  readonly #segments: StoredMessage[][] = [];
  #segmentsGone = 0;
  #first = 0;
  #end = 0;
  #bytes = 0;
  #lastStoredAt = 0;

  /** Position of the oldest message that is kept; equal to `end` when there is none. */
  get first(): number {
    return this.#first;
  }

  /** Position of the next message. */
  get end(): number {
    return this.#end;
  }

  append(content: Content, lane: number, now: number): StoredMessage {
    this.#lastStoredAt = Math.max(this.#lastStoredAt, now);
    const message = { content, position: this.#end, lane, storedAt: this.#lastStoredAt };
    if (this.#end % segmentSize === 0) this.#segments.push([]);
    this.#segments.at(-1)?.push(message);
    this.#end++;
    this.#bytes += content.body.byteLength;
    return message;
  }

  /** The message at a position from `first` to before `end`. */
  at(position: number): StoredMessage {
    const message = this.#segments[Math.floor(position / segmentSize) - this.#segmentsGone]?.[position % segmentSize];
    if (message === undefined) throw new RangeError(`position ${position} is not in ${this.#first} to ${this.#end}`);
    return message;
  }

  /** Position of the first message stored at this time or later. */
  positionAt(time: number): number {
    let low = this.#first;
    let high = this.#end;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.at(middle).storedAt < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Forgets the oldest messages while there are more than `retention` asks for, none from `floor` on. */
  trim(floor: number, retention: Retention): void {
    while (this.#first < floor && (this.#end - this.#first > retention.messages || this.#bytes > retention.bytes)) {
      this.#bytes -= this.at(this.#first).content.body.byteLength;
      this.#first++;
      if (this.#first % segmentSize === 0) {
        this.#segments.shift();
        this.#segmentsGone++;
      }
    }
  }
}
