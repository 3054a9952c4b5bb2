/**
 * Connections to brokers on kafkajs: its sockets, TLS, SASL and codecs of the protocol, and what is used of them beyond
 * its public interface.
 */
import { createRequire } from 'node:module';
import net from 'node:net';
import tls from 'node:tls';
import { type Clock, type Host, type Logger, showHost } from '@waybill/core/adapter';
import kafkajs from 'kafkajs';
import { KafkaFailure } from './driver.ts';

export interface LinkOptions {
  readonly ssl: boolean | tls.ConnectionOptions;
  readonly sasl: kafkajs.SASLOptions | kafkajs.Mechanism | undefined;
  readonly clientId: string;
  /** Milliseconds, for the connection and again for the log-in. */
  readonly connectTimeout: number;
  /** Milliseconds that a broker may take for an answer, beside what it was told to wait. */
  readonly requestTimeout: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The highest versions that both sides know are used, but of these not above one that has what is needed. */
const highest: Readonly<Record<string, number>> = {
  // The decoder in record-format.ts reads this one.
  Fetch: 11,
  // The last that may say how long an offset is kept; from 5 on the broker drops the place of an idle group.
  OffsetCommit: 4,
};

/** Milliseconds by which kafkajs may be late with a time-out; it looks ten times a second. */
const GRACE = 1_000;

/** Connections to the brokers, one each, made when they are first needed. */
export class LinkPool {
  readonly #options: LinkOptions;
  readonly #links = new Map<string, Link>();
  #closed = false;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  at(host: Host): Link {
    if (this.#closed) throw closedFailure();
    const name = showHost(host);
    let link = this.#links.get(name);
    if (link === undefined) {
      link = new Link(this.#options, host);
      this.#links.set(name, link);
    }
    return link;
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
  }
}

/** A connection to one broker, opened again after it was lost, when the next request comes. */
class Link {
  readonly #options: LinkOptions;
  readonly #host: Host;
  #connection: KafkajsConnection | undefined;
  #opening: Promise<KafkajsConnection> | undefined;
  #versions: ApiVersions = {};
  #underWay = 0;
  #closed = false;

  constructor(options: LinkOptions, host: Host) {
    this.#options = options;
    this.#host = host;
  }

  async call(
    api: string,
    args: unknown,
    timeout?: number,
    decode?: (raw: Buffer) => Promise<unknown>,
  ): Promise<unknown> {
    const connection = await this.#open();
    let sent = false;
    this.#underWay++;
    try {
      const { request, response, requestTimeout } = this.#protocol(api, args);
      const encode = request.encode;
      const limit = Math.max(timeout ?? this.#options.requestTimeout, requestTimeout ?? 0);
      const answer = connection.send({
        request: {
          ...request,
          encode: async () => {
            const encoded = await encode();
            sent = true;
            return encoded;
          },
        },
        // kafkajs would throw at the first refused partition and drop the answers about all others.
        response: { decode: decode ?? response.decode, parse: (data) => Promise.resolve(data) },
        requestTimeout: limit,
        logResponseError: false,
      });
      return await this.#inTime(answer, limit + GRACE, () => sent);
    } catch (error) {
      // A write that the system refused has not reached the broker as a whole; of several, nobody knows which one.
      if (this.#underWay === 1 && isFailedWrite(error)) sent = false;
      const failure = toFailure(error, sent);
      // What was not answered in time blocks everything behind it.
      if (failure.code === 'TIMEOUT') this.#drop(connection, failure);
      throw failure;
    } finally {
      this.#underWay--;
    }
  }

  #protocol(api: string, args: unknown): ProtocolCall {
    const definition = requests[api];
    const offered = definition === undefined ? undefined : this.#versions[apiKeys[api] ?? -1];
    if (definition === undefined || offered === undefined) {
      throw new KafkaFailure('UNSUPPORTED_VERSION', `the broker does not know ${api} requests`, { sent: false });
    }
    const best = highest[api] ?? Math.max(...definition.versions.map(Number));
    return definition.protocol({ version: Math.min(best, offered.maxVersion) })(args);
  }

  #open(): Promise<KafkajsConnection> {
    if (this.#closed) return Promise.reject(closedFailure());
    // A connection that is logging in is connected, too.
    if (this.#opening !== undefined) return this.#opening;
    if (this.#connection?.isConnected()) return Promise.resolve(this.#connection);
    this.#opening = this.#connect().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #connect(): Promise<KafkajsConnection> {
    const connection = openConnection(this.#host, this.#options);
    this.#connection = connection;
    try {
      await this.#inTime(this.#logIn(connection), 2 * this.#options.connectTimeout, () => false);
      if (this.#closed) throw closedFailure();
      return connection;
    } catch (error) {
      const failure = toFailure(error, false);
      this.#drop(connection, failure);
      throw failure;
    }
  }

  async #logIn(connection: KafkajsConnection): Promise<void> {
    await connection.connect();
    const call = requests.ApiVersions.protocol({ version: 0 })({});
    const { apiVersions } = (await connection.send({
      ...call,
      requestTimeout: this.#options.requestTimeout,
    })) as VersionsAnswer;
    this.#versions = Object.fromEntries(apiVersions.map(({ apiKey, maxVersion }) => [apiKey, { maxVersion }]));
    connection.setVersions(this.#versions);
    connection.setSupportAuthenticationProtocol(SASL_AUTHENTICATE in this.#versions);
    await connection.authenticate();
  }

  /**
   * Logging in, also anew when a session ends, has no time-out in kafkajs, and a request that meets a connection which
   * is just being closed is never answered: either would hang for ever.
   */
  #inTime<T>(work: Promise<T>, ms: number, sent: () => boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = this.#options.clock.setTimeout(() => {
        const text = `no answer from ${showHost(this.#host)} within ${ms} ms`;
        reject(new KafkaFailure('TIMEOUT', text, { sent: sent() }));
      }, ms);
      work.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  #drop(connection: KafkajsConnection, failure: Error): void {
    // Every request that timed out on it comes by here.
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    connection.rejectRequests(failure);
    // It waits for pending requests, of which there are none any more.
    connection.disconnect().then(
      () => connection.socket?.destroy(),
      () => connection.socket?.destroy(),
    );
  }

  close(): void {
    this.#closed = true;
    if (this.#connection !== undefined) this.#drop(this.#connection, closedFailure());
  }
}

export const closedFailure = (): KafkaFailure =>
  new KafkaFailure('CLOSED', 'the connection has been closed', { sent: false });

function openConnection({ host, port }: Host, options: LinkOptions): KafkajsConnection {
  const { ssl, sasl, clientId, connectTimeout, requestTimeout, logger } = options;
  const connection = new Connection({
    host,
    port,
    ssl: ssl === true ? {} : ssl === false ? null : ssl,
    sasl: sasl ?? null,
    clientId,
    connectionTimeout: connectTimeout,
    requestTimeout,
    logger: toKafkajsLogger(logger),
    socketFactory,
  });
  // kafkajs arms a timer after every answer, with a negative time, about which Node prints a warning to the user.
  const queue = connection.requestQueue;
  const schedule = queue.scheduleCheckPendingRequests;
  queue.scheduleCheckPendingRequests = () => {
    if (queue.pending.length > 0) schedule.call(queue);
  };
  return connection;
}

/** Without Nagle's algorithm, which kafkajs leaves on and which holds small requests back for up to 40 ms. */
function socketFactory({ host, port, ssl, onConnect }: SocketOptions): net.Socket {
  const socket =
    ssl === null
      ? net.connect({ host, port }, onConnect)
      : tls.connect({ host, port, ...(net.isIP(host) === 0 ? { servername: host } : {}), ...ssl }, onConnect);
  socket.setNoDelay(true);
  socket.setKeepAlive(true, 60_000);
  return socket;
}

export function foreignCodec(codec: number): ((compressed: Buffer) => Buffer | Promise<Buffer>) | undefined {
  const make = (
    kafkajs.CompressionCodecs as Record<number, (() => { decompress(data: Buffer): Promise<Buffer> }) | undefined>
  )[codec];
  if (make === undefined) return undefined;
  try {
    const { decompress } = make();
    return (data) => decompress(data);
  } catch {
    // kafkajs's placeholder for a codec that nobody has set.
    return undefined;
  }
}

const extraCodes: Readonly<Record<number, string>> = { 89: 'THROTTLING_QUOTA_EXCEEDED', 100: 'UNKNOWN_TOPIC_ID' };

export function nameOf(code: number): string {
  return (
    errorCodes.find((one) => one.code === code)?.type ?? extraCodes[code] ?? (code === 0 ? 'NONE' : `ERROR_${code}`)
  );
}

export function refusal(code: number, about: string): KafkaFailure {
  const known = errorCodes.find((one) => one.code === code);
  return new KafkaFailure(nameOf(code), `${known?.message ?? nameOf(code)} (${about})`, { sent: true });
}

export const refused = (code: string, about: string): KafkaFailure =>
  new KafkaFailure(code, `${errorCodes.find((one) => one.type === code)?.message ?? code} (${about})`, { sent: false });

const isFailedWrite = (error: unknown): boolean =>
  error instanceof Error && /: write (ECONNRESET|EPIPE|ECONNABORTED)$/.test(error.message);

const tlsCodes = /^(ERR_SSL|ERR_TLS|EPROTO|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|HOSTNAME_MISMATCH)/;

export function toFailure(error: unknown, sent: boolean): KafkaFailure {
  if (error instanceof KafkaFailure) return error;
  if (!(error instanceof Error)) return new KafkaFailure('UNREADABLE', String(error), { sent, cause: error });
  const { code, type } = error as { code?: unknown; type?: unknown };
  const make = (name: string, was = sent): KafkaFailure =>
    new KafkaFailure(name, error.message, { sent: was, cause: error });
  switch (error.name) {
    case 'KafkaJSConnectionClosedError':
      return make('CONNECTION');
    case 'KafkaJSConnectionError':
      if (typeof code === 'string' && tlsCodes.test(code)) return make('TLS');
      return make('CONNECTION', sent && error.message !== 'Not connected');
    case 'KafkaJSRequestTimeoutError':
      return make('TIMEOUT');
    case 'KafkaJSSASLAuthenticationError':
      return make('AUTHENTICATION');
    case 'KafkaJSProtocolError':
      return make(typeof type === 'string' ? type : 'UNREADABLE');
    default:
      return make('UNREADABLE');
  }
}

function toKafkajsLogger(logger: Logger): KafkajsLogger {
  const write = (text: string): void => logger.debug(`kafkajs: ${text}`);
  // Debug texts of kafkajs are one per request; they are not worth their price.
  const made: KafkajsLogger = { info: write, warn: write, error: write, debug: () => {}, namespace: () => made };
  return made;
}

// What is used of kafkajs beyond its public interface.

interface KafkajsLogger {
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
  debug(text: string): void;
  namespace(name: string): KafkajsLogger;
}

interface SocketOptions extends Host {
  readonly ssl: tls.ConnectionOptions | null;
  readonly onConnect: () => void;
}

interface ProtocolCall {
  readonly request: { readonly encode: () => Promise<unknown> };
  readonly response: { decode(raw: Buffer): Promise<unknown>; parse(data: unknown): Promise<unknown> };
  readonly requestTimeout?: number;
}

interface KafkajsConnection {
  readonly socket?: net.Socket;
  readonly requestQueue: { readonly pending: readonly unknown[]; scheduleCheckPendingRequests(): void };
  isConnected(): boolean;
  connect(): Promise<unknown>;
  authenticate(): Promise<void>;
  disconnect(): Promise<unknown>;
  setVersions(versions: ApiVersions): void;
  setSupportAuthenticationProtocol(supported: boolean): void;
  rejectRequests(error: Error): void;
  send(call: ProtocolCall & { logResponseError?: boolean }): Promise<unknown>;
}

type ApiVersions = Readonly<Record<number, { readonly maxVersion: number }>>;

const load = createRequire(import.meta.url);
const Connection = load('kafkajs/src/network/connection') as new (options: object) => KafkajsConnection;
interface Api {
  readonly versions: readonly string[];
  protocol(options: { version: number }): (args: unknown) => ProtocolCall;
}

const { requests } = load('kafkajs/src/protocol/requests') as {
  requests: { readonly [name: string]: Api | undefined; readonly ApiVersions: Api };
};
const apiKeys = load('kafkajs/src/protocol/requests/apiKeys') as Readonly<Record<string, number>>;
const SASL_AUTHENTICATE = 36;
const { errorCodes } = load('kafkajs/src/protocol/error') as {
  errorCodes: readonly { type: string; code: number; message: string }[];
};

interface VersionsAnswer {
  readonly apiVersions: readonly { apiKey: number; maxVersion: number }[];
}
