/**
 * Reads the answer of a fetch: Kafka's record batches, version 2. The library's own decoder hides the batches, but a
 * batch that compaction or an aborted transaction has emptied must move the reader on as well, or it would read it
 * for ever.
 *
 * Format: https://kafka.apache.org/documentation/#messageformat
 */
import zlib from 'node:zlib';
import { type FetchedRecord, newHeaders } from './driver.ts';

export interface FetchedPartition {
  readonly topic: string;
  readonly partition: number;
  readonly errorCode: number;
  readonly lastStableOffset: number;
  readonly records: readonly FetchedRecord[];
  /** Offset after the last whole batch; `undefined` when none came. */
  readonly next: number | undefined;
}

export interface FetchedAll {
  readonly throttle: number;
  readonly errorCode: number;
  readonly partitions: readonly FetchedPartition[];
}

/** The user's codecs, by Kafka's number: 2 Snappy, 3 LZ4, 4 Zstandard. */
export type ForeignCodec = (codec: number) => ((compressed: Buffer) => Buffer | Promise<Buffer>) | undefined;

/** @throws Error on a compression without codec, or on a message format older than Kafka 0.11 */
export async function decodeFetch(payload: Buffer, foreign: ForeignCodec): Promise<FetchedAll> {
  const reader = new Reader(payload);
  const throttle = reader.int32();
  const errorCode = reader.int16();
  reader.skip(4); // session id
  const partitions: FetchedPartition[] = [];
  for (let topics = reader.int32(); topics > 0; topics--) {
    const topic = reader.string();
    for (let count = reader.int32(); count > 0; count--) partitions.push(await decodePartition(topic, reader, foreign));
  }
  return { throttle, errorCode, partitions };
}

async function decodePartition(topic: string, reader: Reader, foreign: ForeignCodec): Promise<FetchedPartition> {
  const partition = reader.int32();
  const errorCode = reader.int16();
  reader.skip(8); // high watermark
  const lastStableOffset = reader.int64();
  reader.skip(8); // log start offset
  const aborted: { producer: bigint; first: number }[] = [];
  for (let count = reader.int32(); count > 0; count--) {
    aborted.push({ producer: reader.bigint64(), first: reader.int64() });
  }
  reader.skip(4); // preferred read replica
  const size = reader.int32();
  const batches = size > 0 ? reader.bytes(size) : empty;
  return { topic, partition, errorCode, lastStableOffset, ...(await decodeBatches(batches, aborted, foreign)) };
}

/** Bytes of a batch up to its length field, and from there to its first record. */
const PREFIX = 12;
const HEADER = 49;
const LOG_APPEND_TIME = 0x08;
const TRANSACTIONAL = 0x10;
const CONTROL = 0x20;
const empty = Buffer.alloc(0);

async function decodeBatches(
  data: Buffer,
  aborted: { producer: bigint; first: number }[],
  foreign: ForeignCodec,
): Promise<{ records: FetchedRecord[]; next: number | undefined }> {
  const records: FetchedRecord[] = [];
  const cancelled = new Set<bigint>();
  let next: number | undefined;
  for (let at = 0; at + PREFIX + HEADER <= data.length; ) {
    const first = Number(data.readBigInt64BE(at));
    const end = at + PREFIX + data.readInt32BE(at + 8);
    // A fetch is cut at its byte limit: the last batch may be half there.
    if (end > data.length) break;
    const magic = data.readInt8(at + 16);
    if (magic !== 2) throw new Error(`messages are stored in format ${magic}, from before Kafka 0.11`);
    const attributes = data.readInt16BE(at + 21);
    const last = first + data.readInt32BE(at + 23);
    const firstTimestamp = Number(data.readBigInt64BE(at + 27));
    const maxTimestamp = Number(data.readBigInt64BE(at + 35));
    const producer = data.readBigInt64BE(at + 43);
    const count = data.readInt32BE(at + 57);
    const body = data.subarray(at + PREFIX + HEADER, end);
    at = end;
    next = last + 1;

    while (aborted[0] !== undefined && aborted[0].first <= last) {
      cancelled.add(aborted[0].producer);
      aborted.shift();
    }
    if ((attributes & CONTROL) !== 0) {
      // The marker that ends a transaction; key: version and type, where type 0 is an abort.
      cancelled.delete(producer);
      continue;
    }
    if ((attributes & TRANSACTIONAL) !== 0 && cancelled.has(producer)) continue;
    const plain = await decompress(attributes & 0x07, body, foreign);
    const appended = (attributes & LOG_APPEND_TIME) !== 0 ? maxTimestamp : undefined;
    decodeRecords(new Reader(plain), count, first, firstTimestamp, appended, records);
  }
  return { records, next };
}

function decodeRecords(
  batch: Reader,
  count: number,
  firstOffset: number,
  firstTimestamp: number,
  appended: number | undefined,
  into: FetchedRecord[],
): void {
  for (let left = count; left > 0; left--) {
    // A copy, or one message that is held for long would hold all that came with it.
    const reader = new Reader(Buffer.from(batch.bytes(batch.varint())));
    reader.skip(1); // attributes, unused
    const timestamp = appended ?? firstTimestamp + reader.varint();
    if (appended !== undefined) reader.varint();
    const offset = firstOffset + reader.varint();
    const key = reader.varbytes();
    const value = reader.varbytes();
    const headers = newHeaders<Buffer | Buffer[]>();
    for (let more = reader.varint(); more > 0; more--) {
      const name = reader.vartext();
      const content = reader.varbytes() ?? empty;
      const before = headers[name];
      headers[name] = before === undefined ? content : Array.isArray(before) ? [...before, content] : [before, content];
    }
    into.push({ offset, timestamp, key, value, headers });
  }
}

function decompress(codec: number, body: Buffer, foreign: ForeignCodec): Buffer | Promise<Buffer> {
  switch (codec) {
    case 0:
      return body;
    case 1:
      return zlib.gunzipSync(body);
    default: {
      const decode = foreign(codec);
      if (decode !== undefined) return decode(body);
      // Node has it from 22.15 on.
      if (codec === 4 && typeof zlib.zstdDecompressSync === 'function') return zlib.zstdDecompressSync(body);
      const name = ['none', 'gzip', 'Snappy', 'LZ4', 'Zstandard'][codec] ?? `codec ${codec}`;
      throw new Error(
        `messages are compressed with ${name}, which needs a codec: set CompressionCodecs of kafkajs before connecting`,
      );
    }
  }
}

class Reader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }
  skip(bytes: number): void {
    this.#at += bytes;
  }
  int16(): number {
    this.#at += 2;
    return this.#data.readInt16BE(this.#at - 2);
  }
  int32(): number {
    this.#at += 4;
    return this.#data.readInt32BE(this.#at - 4);
  }
  /** Offsets and times stay below 2^53 for longer than anyone will care. */
  int64(): number {
    return Number(this.bigint64());
  }
  bigint64(): bigint {
    this.#at += 8;
    return this.#data.readBigInt64BE(this.#at - 8);
  }
  bytes(length: number): Buffer {
    this.#at += length;
    return this.#data.subarray(this.#at - length, this.#at);
  }
  string(): string {
    return this.bytes(this.int16()).toString('utf8');
  }
  varbytes(): Buffer | null {
    const length = this.varint();
    return length < 0 ? null : this.bytes(length);
  }
  vartext(): string {
    const length = Math.max(0, this.varint());
    this.#at += length;
    return this.#data.toString('utf8', this.#at - length, this.#at);
  }
  /** Zigzag; up to 64 bits, computed in doubles because deltas beyond 2^53 do not occur. */
  varint(): number {
    let byte = this.#data.readUInt8(this.#at++);
    // Nearly all take one byte.
    if (byte < 0x80) return (byte >>> 1) ^ -(byte & 1);
    let value = byte & 0x7f;
    let scale = 128;
    for (;;) {
      byte = this.#data.readUInt8(this.#at++);
      value += (byte & 0x7f) * scale;
      if ((byte & 0x80) === 0) break;
      scale *= 128;
    }
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }
}
