import { once } from 'node:events';
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { type AdapterContext, Alarm, backOff, ConnectionError, sleep } from '@waybill/core/adapter';
import { Cluster, Redis } from 'ioredis';
import { adapterName, connectFailure, NoAnswer, NotSent, ServerError, textOf } from './errors.ts';
import type { Settings } from './options.ts';
import type { Script } from './scripts.ts';

export type Arg = string | number | Uint8Array;
/** A command with its arguments. */
export type Command = readonly [string, ...Arg[]];

interface LinkHandlers {
  up(): void;
  down(error: ConnectionError): void;
}

/** Of the time to connect, what one try may take: so that what it ran into can be told when the time is up. */
const tryShare = 0.8;
/** Milliseconds to find out why a host cannot be reached. */
const askPatience = 500;
/** Milliseconds between tries to reconnect. */
const reconnect = { initial: 50, max: 2_000 } as const;
/** Milliseconds between two new connections because the server is a replica. */
const lookElsewhere = 2_000;

interface InFlight {
  readonly since: number;
}

/**
 * A connection to the server, or to a cluster. It reconnects by itself and repeats nothing: a call that was under way
 * when the connection ended rejects with `NoAnswer`, one that found no connection with `NotSent`. ioredis would send
 * both again, and so store a message twice.
 */
export class Link {
  readonly client: Redis | Cluster;
  readonly #settings: Settings;
  readonly #context: AdapterContext;
  readonly #handlers: LinkHandlers;
  /** Milliseconds that a call may wait for its answer. */
  readonly #patience: number;
  readonly #inFlight = new Set<InFlight>();
  readonly #alarm: Alarm;
  #nextLookElsewhere = 0;
  #lastError: unknown;
  /** There was a connection, with TLS where that was asked for. */
  #shaken = false;
  #up = false;
  #opened = false;
  #closed = false;

  private constructor(
    name: string,
    password: string | undefined,
    patience: number,
    settings: Settings,
    context: AdapterContext,
    handlers: LinkHandlers,
  ) {
    this.#settings = settings;
    this.#context = context;
    this.#handlers = handlers;
    this.#patience = patience;
    this.#alarm = new Alarm(context.clock, () => this.#lookForSilence());
    this.client = this.#makeClient(`${context.clientName}:${name}`, password);
    this.client.on('error', (error) => {
      this.#lastError = error;
    });
    this.client.on('node error', (error) => {
      this.#lastError = error;
    });
    this.client.on('connect', () => {
      this.#shaken = true;
    });
    this.client.on('ready', () => this.#onReady());
    this.client.on('close', () => this.#onClose());
  }

  /**
   * @param allowance milliseconds that its calls may block on purpose
   * @throws ConnectionError that names the cause and the target (LIFE-04)
   */
  static async open(
    name: string,
    allowance: number,
    settings: Settings,
    context: AdapterContext,
    handlers: LinkHandlers,
  ): Promise<Link> {
    const password = await askPassword(settings);
    const link = new Link(name, password, settings.commandTimeout + allowance, settings, context, handlers);
    const over = new AbortController();
    try {
      const connected = link.client.connect().then(
        () => true,
        () => false,
      );
      const late = sleep(
        context.clock,
        context.connectTimeout * tryShare,
        AbortSignal.any([over.signal, context.signal]),
      );
      const ok = await Promise.race([connected, late.then(() => undefined)]);
      if (ok === undefined) throw link.#lastError ?? new Error(link.#silence);
      // A database that does not exist is told as an event only, and then commands would go to another one.
      if (!ok || /DB index/i.test(textOf(link.#lastError))) {
        throw link.#lastError ?? new Error(link.#shaken ? 'the server closed the connection' : link.#silence);
      }
      const { client } = link;
      // The first calls need not wait, and what is wrong with a node is seen now.
      if (client instanceof Cluster) await Promise.all(client.nodes('master').map((node) => node.ping()));
      link.#opened = true;
      link.#up = true;
      return link;
    } catch (error) {
      await link.close();
      throw connectFailure(await cause(withoutSecrets(error), settings), settings.target);
    } finally {
      over.abort();
    }
  }

  get isUp(): boolean {
    return this.#up;
  }

  get isCluster(): boolean {
    return this.#settings.mode === 'cluster';
  }

  /**
   * The reply, with texts as Buffers.
   *
   * @throws NotSent, NoAnswer, ServerError
   */
  async call(command: Command): Promise<unknown> {
    const [name, ...args] = command;
    return this.#watched(() => this.client.callBuffer(name, args as (string | Buffer | number)[]));
  }

  /** Calls in one go, all with keys of one slot; each reply, or the error in its place. */
  async callAll(commands: readonly Command[]): Promise<(unknown | NotSent | NoAnswer | ServerError)[]> {
    if (!this.#up) return commands.map(() => new NotSent(this.#away));
    const pipeline = this.client.pipeline();
    for (const [name, ...args] of commands) pipeline.callBuffer(name, ...(args as (string | Buffer | number)[]));
    try {
      const replies = await this.#watched(() => pipeline.exec());
      return commands.map((_, i) => {
        const reply = replies?.[i];
        if (reply === undefined) return new NoAnswer('there is no reply');
        return reply[0] === null ? reply[1] : this.#failure(reply[0]);
      });
    } catch (error) {
      return commands.map(() => error);
    }
  }

  /**
   * Runs a script, and loads it where the server does not know it yet.
   *
   * @param keys of one slot
   * @throws NotSent, NoAnswer, ServerError
   */
  async run(script: Script, keys: readonly string[], args: readonly Arg[]): Promise<unknown> {
    try {
      return await this.call(['EVALSHA', script.sha, keys.length, ...keys, ...args]);
    } catch (error) {
      if (!(error instanceof ServerError && error.message.startsWith('NOSCRIPT'))) throw error;
      return await this.call(['EVAL', script.lua, keys.length, ...keys, ...args]);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#up = false;
    this.#alarm.stop();
    this.client.disconnect();
    this.#destroySockets('the connection was closed');
  }

  /** Why a first connect came to nothing without an error. */
  get #silence(): string {
    const { connectTimeout, signal } = this.#context;
    if (signal.aborted) return 'given up';
    const { tls } = this.#settings;
    const hint = tls === undefined || this.#shaken ? '' : ' to the TLS handshake; does this port want redis: instead?';
    return `no answer within ${connectTimeout * tryShare} ms${hint}`;
  }

  get #away(): string {
    return `${this.#settings.target} cannot be reached at the moment`;
  }

  async #watched<T>(start: () => Promise<T>): Promise<T> {
    if (!this.#up) throw new NotSent(this.#away);
    const { clock } = this.#context;
    const one: InFlight = { since: clock.monotonic() };
    this.#inFlight.add(one);
    this.#alarm.at(one.since + this.#patience);
    try {
      return await start();
    } catch (error) {
      throw this.#failure(error);
    } finally {
      this.#inFlight.delete(one);
    }
  }

  #failure(error: unknown): NotSent | NoAnswer | ServerError {
    const text = textOf(error);
    if (error instanceof Error && error.name === 'ReplyError') return new ServerError(text);
    if (/isn't writeable|isn't ready/.test(text)) return new NotSent(this.#away);
    return new NoAnswer(`the connection to ${this.#settings.target} ended before the answer came`);
  }

  /** A connection on which nothing comes back is given up: it may be a hole that swallows everything. */
  #lookForSilence(): void {
    const [oldest] = this.#inFlight;
    if (oldest === undefined) return;
    const due = oldest.since + this.#patience;
    if (due > this.#context.clock.monotonic()) this.#alarm.at(due);
    else this.reset(`no answer within ${this.#patience} ms`);
  }

  /** Ends the connection as it is; what is under way rejects, and a new one is made. */
  reset(why: string): void {
    this.#lastError = new Error(why);
    this.#destroySockets(why);
  }

  #destroySockets(why: string): void {
    const { client } = this;
    const nodes = client instanceof Cluster ? client.nodes('all') : [client];
    // Before the first connect there is none.
    for (const { stream } of nodes) (stream as typeof stream | undefined)?.destroy(new Error(why));
  }

  #onReady(): void {
    if (!this.#opened || this.#closed || this.#up) return;
    this.#lastError = undefined;
    this.#up = true;
    this.#handlers.up();
  }

  #onClose(): void {
    if (!this.#opened || this.#closed) return;
    void this.#renewPassword();
    if (!this.#up) return;
    this.#up = false;
    const { target } = this.#settings;
    const why = this.#lastError === undefined ? 'the connection was closed' : textOf(this.#lastError);
    this.#handlers.down(
      new ConnectionError(`the connection to ${target} was lost: ${why}`, { adapter: adapterName, retryable: true }),
    );
  }

  /** For the next connect, which comes after a while. */
  async #renewPassword(): Promise<void> {
    const { client } = this;
    if (this.#settings.password === undefined || client instanceof Cluster) return;
    try {
      client.options.password = await this.#settings.password();
    } catch (error) {
      this.#context.logger.warn(`${adapterName}: the password could not be got, the last one is used`, { error });
    }
  }

  #makeClient(connectionName: string, password: string | undefined): Redis | Cluster {
    const { mode, hosts, master, user, tls, db, sentinelUser, sentinelPassword } = this.#settings;
    const { connectTimeout } = this.#context;
    const again = (times: number): number | null => (this.#opened && !this.#closed ? backOff(times, reconnect) : null);
    // A master that is a replica now: another connect may find the new master, but not every time that it is asked.
    const reconnectOnError = ({ message }: Error): boolean => {
      const now = this.#context.clock.monotonic();
      if (!message.startsWith('READONLY') || now < this.#nextLookElsewhere) return false;
      this.#nextLookElsewhere = now + lookElsewhere;
      return true;
    };
    const common = {
      lazyConnect: true,
      // Its names are for the server's list of clients, which takes no spaces.
      connectionName: connectionName.replace(/[^!-~]/g, '_'),
      protocol: 2 as const,
      connectTimeout,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      noDelay: true,
      retryStrategy: again,
      ...(user === undefined ? {} : { username: user }),
      ...(password === undefined ? {} : { password }),
      ...(tls === undefined ? {} : { tls }),
    };
    if (mode === 'cluster') {
      return new Cluster(
        hosts.map(({ host, port }) => ({ host, port })),
        {
          lazyConnect: true,
          // Nodes are connected to when they are first needed, and a call waits for that.
          enableOfflineQueue: true,
          // Nothing is sent a second time by itself.
          retryDelayOnFailover: 0,
          clusterRetryStrategy: again,
          slotsRefreshTimeout: connectTimeout,
          redisOptions: common,
        },
      );
    }
    if (mode === 'sentinel') {
      return new Redis({
        ...common,
        db,
        name: master,
        sentinels: hosts.map(({ host, port }) => ({ host, port })),
        sentinelRetryStrategy: again,
        ...(sentinelUser === undefined ? {} : { sentinelUsername: sentinelUser }),
        ...(sentinelPassword === undefined ? {} : { sentinelPassword }),
        ...(tls === undefined ? {} : { enableTLSForSentinelMode: true, sentinelTLS: tls }),
        failoverDetector: true,
        reconnectOnError,
      });
    }
    const [first] = hosts;
    return new Redis({
      ...common,
      db,
      ...(first === undefined ? {} : { host: first.host, port: first.port }),
      reconnectOnError,
    });
  }
}

/** @throws ConnectionError when the user's function fails, which may work the next time */
async function askPassword({ password, target }: Settings): Promise<string | undefined> {
  try {
    return await password?.();
  } catch (cause) {
    throw new ConnectionError(`cannot connect to ${target}: the password could not be got: ${textOf(cause)}`, {
      adapter: adapterName,
      cause,
      retryable: true,
    });
  }
}

/** Of clusters and Sentinels ioredis keeps to itself why none of them could be reached. */
async function cause(error: unknown, { mode, hosts, tls }: Settings): Promise<unknown> {
  const [first] = hosts;
  if (mode === 'standalone' || first === undefined || !/closed|no answer/i.test(textOf(error))) return error;
  const socket = tls === undefined ? connect(first) : connectTls({ ...tls, ...first });
  try {
    const connected = tls === undefined ? 'connect' : 'secureConnect';
    await once(socket, connected, { signal: AbortSignal.timeout(askPatience) });
    return error;
  } catch (why) {
    return why instanceof Error && why.name !== 'AbortError' ? why : error;
  } finally {
    socket.destroy();
  }
}

/** ioredis hangs the command on its errors, and with AUTH that is the password. */
function withoutSecrets(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof ConnectionError) return error;
  // A cluster tells of its nodes' errors in one of its own.
  const last = 'lastNodeError' in error && error.lastNodeError instanceof Error ? error.lastNodeError : error;
  const clean = new Error(last.message);
  return 'code' in last ? Object.assign(clean, { code: last.code }) : clean;
}
