import { createRequire } from 'node:module';
import zlib from 'node:zlib';
import { expect, test } from 'vitest';
import { decodeFetch } from '../src/record-format.ts';

// Batches as kafkajs writes them, in the frame of an answer of one partition.
const { RecordBatch } = createRequire(import.meta.url)('kafkajs/src/protocol/recordBatch/v0') as {
  RecordBatch(options: object): Promise<{ buffer: Buffer }>;
};
const Record = createRequire(import.meta.url)('kafkajs/src/protocol/recordBatch/record/v0') as (
  record: object,
) => object;

interface BatchOptions {
  readonly first: number;
  readonly values: readonly string[];
  readonly producer?: number;
  readonly transactional?: boolean;
  /** By default one header with two values. */
  readonly headers?: readonly (readonly [string, string | readonly string[]])[];
}

async function batch(options: BatchOptions): Promise<Buffer> {
  const { first, values, producer = -1, transactional = false, headers = [['h', ['1', '2']]] } = options;
  const records = values.map((value, at) =>
    Record({
      offsetDelta: at,
      timestampDelta: at,
      key: Buffer.from('k'),
      value: Buffer.from(value),
      headers: Object.fromEntries(headers),
    }),
  );
  const { buffer } = await RecordBatch({
    firstOffset: first,
    firstTimestamp: 1_000,
    maxTimestamp: 2_000,
    lastOffsetDelta: Math.max(0, values.length - 1),
    producerId: producer,
    transactional,
    records,
  });
  return Buffer.from(buffer);
}

/** Sets bits of the attributes of a batch. */
function mark(data: Buffer, bits: number): Buffer {
  data.writeInt16BE(data.readInt16BE(21) | bits, 21);
  return data;
}

function answer(batches: Buffer, aborted: readonly { producer: number; first: number }[] = []): Buffer {
  const head = Buffer.alloc(10); // throttle, error, session
  const topic = Buffer.concat([int(1), Buffer.from([0, 1]), Buffer.from('t'), int(1)]);
  const partition = Buffer.concat([int(3), Buffer.alloc(2), long(99), long(88), long(0), int(aborted.length)]);
  const list = aborted.flatMap(({ producer, first }) => [long(producer), long(first)]);
  return Buffer.concat([head, topic, partition, ...list, int(-1), int(batches.length), batches]);
}

function int(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32BE(value);
  return buffer;
}
function long(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigInt64BE(BigInt(value));
  return buffer;
}

const none = (): undefined => undefined;

async function decode(batches: Buffer, aborted?: readonly { producer: number; first: number }[]) {
  const { partitions } = await decodeFetch(answer(batches, aborted), none);
  const [partition] = partitions;
  return { ...partition, values: partition?.records.map(({ value }) => String(value)) };
}

test('reads records with key, headers, times and offsets', async () => {
  const found = await decode(await batch({ first: 7, values: ['a', 'b'] }));
  expect(found).toMatchObject({
    topic: 't',
    partition: 3,
    errorCode: 0,
    lastStableOffset: 88,
    next: 9,
    values: ['a', 'b'],
  });
  expect(found.records?.[1]).toMatchObject({ offset: 8, timestamp: 1_001 });
  expect(found.records?.[0]?.headers).toEqual({ h: [Buffer.from('1'), Buffer.from('2')] });
});

test('a header may have any name', async () => {
  const names = ['constructor', '__proto__', 'toString'];
  const found = await decode(await batch({ first: 0, values: ['a'], headers: names.map((name) => [name, 'x']) }));
  expect(Object.entries(found.records?.[0]?.headers ?? {})).toEqual(names.map((name) => [name, Buffer.from('x')]));
});

test('a record that is held does not hold those that came with it', async () => {
  const found = await decode(await batch({ first: 0, values: Array.from({ length: 5_000 }, () => 'x'.repeat(100)) }));
  expect(found.records?.[500]?.value?.buffer.byteLength).toBeLessThanOrEqual(2 * Buffer.poolSize);
});

test('a batch that is cut off is left for the next fetch', async () => {
  const [one, two] = [await batch({ first: 0, values: ['a'] }), await batch({ first: 1, values: ['b'] })];
  expect(await decode(Buffer.concat([one, two.subarray(0, two.length - 1)]))).toMatchObject({ values: ['a'], next: 1 });
});

test('a batch that compaction has emptied moves the reader on', async () => {
  expect(await decode(await batch({ first: 5, values: [] }))).toMatchObject({ values: [], next: 6 });
});

test('what an aborted transaction wrote is left out, until its end', async () => {
  const data = Buffer.concat([
    await batch({ first: 0, values: ['gone'], producer: 4, transactional: true }),
    await batch({ first: 1, values: ['stays'], producer: 5, transactional: true }),
    mark(await batch({ first: 2, values: ['abort'], producer: 4, transactional: true }), 0x20),
    await batch({ first: 3, values: ['new'], producer: 4, transactional: true }),
  ]);
  expect(await decode(data, [{ producer: 4, first: 0 }])).toMatchObject({ values: ['stays', 'new'], next: 4 });
});

test('the broker stamps all records of a batch where it is told to', async () => {
  const found = await decode(mark(await batch({ first: 0, values: ['a', 'b'] }), 0x08));
  expect(found.records?.map(({ timestamp }) => timestamp)).toEqual([2_000, 2_000]);
});

test.each([
  ['gzip', 1, zlib.gzipSync],
  ['Zstandard', 4, zlib.zstdCompressSync],
])('reads %s', async (_, codec, compress) => {
  const data = await batch({ first: 0, values: ['a', 'b'] });
  const packed = mark(Buffer.concat([data.subarray(0, 61), compress(data.subarray(61))]), codec);
  packed.writeInt32BE(packed.length - 12, 8);
  expect(await decode(packed)).toMatchObject({ values: ['a', 'b'] });
});

test('a compression without codec is named', async () => {
  await expect(decode(mark(await batch({ first: 0, values: ['a'] }), 3))).rejects.toThrow(/LZ4/);
});
