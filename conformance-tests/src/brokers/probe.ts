import { connect } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { messageOf } from './run.ts';

/**
 * Asks a broker the first real question of its own protocol. An open port proves nothing: Docker's proxy accepts
 * connections before the broker in the container listens. Written by hand so that no client library's retries and
 * logs stand between.
 */
export type Probe = (at: Address) => Promise<void>;

export interface Address {
  readonly host: string;
  readonly port: number;
}

const ANSWER_WITHIN_MS = 2_000;
const ASK_EVERY_MS = 50;

/**
 * Probes until the broker answers.
 * @param giveUp says why there is no point in going on, such as a container that has stopped
 * @throws Error with the last thing seen
 */
export async function untilAnswers(
  probe: () => Promise<void>,
  timeoutMs: number,
  giveUp: () => Promise<string | undefined> = async () => undefined,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const seen = await probe().then(() => undefined, describe);
    if (seen === undefined) return;
    const reason = await giveUp();
    if (reason !== undefined) throw new Error(`${reason}; the last probe saw: ${seen}`);
    if (performance.now() > deadline)
      throw new Error(`no answer within ${timeoutMs / 1000} s; the last probe saw: ${seen}`);
    await wait(ASK_EVERY_MS);
  }
}

function describe(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(describe).join(', ');
  return messageOf(error);
}

interface Conversation {
  write(...parts: readonly Buffer[]): void;
  read(size: number): Promise<Buffer>;
}

async function converse(at: Address, talk: (conversation: Conversation) => Promise<void>): Promise<void> {
  const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
  const socket = connect({ host: at.host, port: at.port, signal });
  const chunks: AsyncIterator<Buffer> = socket[Symbol.asyncIterator]();
  let buffered = Buffer.alloc(0);
  const read = async (size: number): Promise<Buffer> => {
    while (buffered.length < size) {
      const chunk = await chunks.next();
      if (chunk.done) throw new Error('the connection was closed');
      buffered = Buffer.concat([buffered, chunk.value]);
    }
    const taken = buffered.subarray(0, size);
    buffered = buffered.subarray(size);
    return taken;
  };
  try {
    await talk({ read, write: (...parts) => void socket.write(Buffer.concat(parts)) });
  } finally {
    socket.destroy();
  }
}

/** Logs in as guest and opens the virtual host `/`: a node that is still booting gets no further than the log-in. */
export const probeRabbitmq: Probe = (at) =>
  converse(at, async (conversation) => {
    conversation.write(Buffer.from('AMQP\0\0\x09\x01', 'latin1'));
    await readMethod(conversation, CONNECTION_START);
    const noProperties = int32(0);
    const login = '\0guest\0guest';
    const startOk = [noProperties, shortText('PLAIN'), int32(login.length), Buffer.from(login), shortText('en_US')];
    writeMethod(conversation, 11, ...startOk);
    const limits = await readMethod(conversation, CONNECTION_TUNE);
    writeMethod(conversation, 31, limits);
    writeMethod(conversation, 40, shortText('/'), shortText(''), Buffer.of(0));
    await readMethod(conversation, CONNECTION_OPEN_OK);
    // Leaving without a close would put a warning into the broker's log at every probe.
    writeMethod(conversation, 50, int16(200), shortText(''), int16(0), int16(0));
    await readMethod(conversation, CONNECTION_CLOSE_OK);
  });

const CONNECTION_CLASS = 10;
const CONNECTION_START = 10;
const CONNECTION_TUNE = 30;
const CONNECTION_OPEN_OK = 41;
const CONNECTION_CLOSE_OK = 51;
const METHOD_FRAME = 1;
const FRAME_END = Buffer.of(0xce);

function writeMethod(conversation: Conversation, method: number, ...args: readonly Buffer[]): void {
  const payload = Buffer.concat([int16(CONNECTION_CLASS), int16(method), ...args]);
  conversation.write(Buffer.of(METHOD_FRAME), int16(0), int32(payload.length), payload, FRAME_END);
}

async function readMethod(conversation: Conversation, expected: number): Promise<Buffer> {
  const header = await conversation.read(7);
  if (header.readUInt8(0) !== METHOD_FRAME) throw new Error('what answered does not speak AMQP 0-9-1');
  const payload = await conversation.read(header.readUInt32BE(3));
  await conversation.read(FRAME_END.length);
  const method = payload.readUInt16BE(2);
  if (method !== expected) throw new Error(`AMQP connection method ${method} came instead of ${expected}`);
  return payload.subarray(4);
}

/**
 * Asks for the coordinator of a group. It is known only when the broker has rejoined its controller and leads its
 * partitions again, and the first such question makes a new broker create its offsets topic, so that no test has to.
 */
export const probeKafka: Probe = (at) =>
  converse(at, async (conversation) => {
    const findCoordinator = [int16(10), int16(0)];
    const correlation = int32(1);
    const request = Buffer.concat([...findCoordinator, correlation, text('waybill-probe'), text('waybill-probe')]);
    conversation.write(int32(request.length), request);
    const size = (await conversation.read(4)).readInt32BE(0);
    const response = await conversation.read(size);
    const error = response.readInt16BE(4);
    if (error !== 0) throw new Error(`Kafka answered with error ${error} when asked for a group's coordinator`);
  });

/** While it reads its log from the disk it answers with -LOADING. */
export const probeRedis: Probe = (at) =>
  converse(at, async (conversation) => {
    conversation.write(Buffer.from('PING\r\n'));
    const pong = '+PONG\r\n';
    const answer = await conversation.read(pong.length);
    if (answer.toString() !== pong) throw new Error(`Redis answered ${JSON.stringify(answer.toString())} to PING`);
  });

/** Begins to log in: while it recovers, it refuses instead of asking for the password. */
export const probePostgres: Probe = (at) =>
  converse(at, async (conversation) => {
    const version3 = int32(196_608);
    const parameters = Buffer.from('user\0postgres\0database\0postgres\0\0');
    conversation.write(int32(4 + version3.length + parameters.length), version3, parameters);
    const answer = (await conversation.read(1)).toString('latin1');
    if (answer === 'R') return;
    const size = (await conversation.read(4)).readInt32BE(0);
    const fields = (await conversation.read(size - 4)).toString().split('\0');
    throw new Error(`PostgreSQL answered: ${fields.find((field) => field.startsWith('M'))?.slice(1)}`);
  });

/** The server speaks first, and only once it is ready. */
export const probeMysql: Probe = (at) =>
  converse(at, async (conversation) => {
    const greeting = await conversation.read(5);
    const protocol = greeting.readUInt8(4);
    if (protocol !== 10) throw new Error(`protocol ${protocol} of MySQL came instead of 10`);
  });

export async function probeHttp({ host, port }: Address, path: string): Promise<void> {
  const answer = await fetch(`http://${host}:${port}${path}`, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
  await answer.body?.cancel();
  if (!answer.ok) throw new Error(`${path} answered with ${answer.status}`);
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** AMQP's text of up to 255 bytes. */
function shortText(value: string): Buffer {
  return Buffer.concat([Buffer.of(value.length), Buffer.from(value)]);
}

/** Kafka's text. */
function text(value: string): Buffer {
  return Buffer.concat([int16(value.length), Buffer.from(value)]);
}
