import {
  type AdapterContext,
  backOff,
  type Clock,
  ConnectionError,
  type Logger,
  sleep,
  type Timer,
} from '@waybill/core/adapter';
import { type ChannelModel, connect, credentials, type SocketOptions } from 'amqplib';
import { adapterName, connectFailure, textOf } from './errors.ts';
import type { Settings } from './options.ts';

const reconnectDelay = { initial: 100, max: 5_000 };
/** Milliseconds that the closing handshake may take before the socket is dropped. */
const closePatience = 2_000;

export type Role = 'publish' | 'consume';

/** What the owner of a link hears, in turns: a link is up at first. A blocked one is down, but only for publishing. */
export interface LinkEvents {
  up(): void;
  down(error: ConnectionError): void;
}

/** An open connection. */
interface Line {
  readonly model: ChannelModel;
  /** Ends it at once, and lets no socket linger: amqplib waits for a peer that may not answer any more. */
  readonly cut: AbortController;
}

type LinkState =
  | { readonly name: 'up'; readonly line: Line }
  | { readonly name: 'down'; readonly error: ConnectionError }
  | { readonly name: 'closed' };

/**
 * One connection to the broker, kept open: it reconnects with back-off until it is closed. Publishing and consuming
 * have one each, because the broker stops reading from connections that publish when it is low on memory or disk, and
 * acks must not wait behind that.
 */
export class Link {
  readonly #role: Role;
  readonly #settings: Settings;
  readonly #clientName: string;
  readonly #connectTimeout: number;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #events: LinkEvents;
  readonly #closing = new AbortController();
  #state: LinkState;
  #blocked: string | undefined;
  #changed: (() => void)[] = [];
  #pulse: Timer | undefined;

  private constructor(role: Role, settings: Settings, context: AdapterContext, line: Line, events: LinkEvents) {
    this.#role = role;
    this.#settings = settings;
    this.#clientName = context.clientName;
    this.#connectTimeout = context.connectTimeout;
    this.#clock = context.clock;
    this.#logger = context.logger;
    this.#events = events;
    this.#state = this.#enter(line);
  }

  /** @throws ConnectionError when no host of the list can be connected to; tries each once */
  static async open(role: Role, settings: Settings, context: AdapterContext, events: LinkEvents): Promise<Link> {
    const { clientName, connectTimeout, clock, signal } = context;
    const line = await dial(settings, `${clientName} ${role}`, connectTimeout, clock, signal);
    return new Link(role, settings, context, line, events);
  }

  /** @throws ConnectionError while there is no connection */
  get model(): ChannelModel {
    if (this.#state.name === 'up') return this.#state.line.model;
    if (this.#state.name === 'down') throw this.#state.error;
    throw this.#closedError();
  }

  get isUp(): boolean {
    return this.#state.name === 'up';
  }

  /** Why the broker reads nothing from this connection at the moment, in its words: low on memory or disk. */
  get blocked(): string | undefined {
    return this.#blocked;
  }

  /** Resolves with the model once connected, with `undefined` when `signal` aborts or the link is closed. */
  async whenUp(signal: AbortSignal): Promise<ChannelModel | undefined> {
    while (this.#state.name === 'down' && !signal.aborted) await this.#change(signal);
    return this.#state.name === 'up' && !signal.aborted ? this.#state.line.model : undefined;
  }

  /** Never rejects. */
  async close(): Promise<void> {
    const state = this.#state;
    if (state.name === 'closed') return;
    this.#state = { name: 'closed' };
    this.#closing.abort();
    this.#pulse?.cancel();
    this.#tell();
    if (state.name !== 'up') return;
    const { model, cut } = state.line;
    const patience = new AbortController();
    await Promise.race([model.close().catch(() => {}), sleep(this.#clock, closePatience, patience.signal)]);
    patience.abort();
    cut.abort();
  }

  #enter(line: Line): LinkState {
    const { model } = line;
    let last: unknown;
    model.on('error', (error) => {
      last = error;
    });
    model.on('handler-error', (error: Error, event: string) => {
      this.#logger.error(`rabbitmq: a listener of "${event}" failed`, { error });
    });
    model.on('blocked', (reason: string) => {
      this.#logger.warn(`rabbitmq: ${this.#settings.target} blocks the ${this.#role} connection: ${reason}`);
      this.#blocked = reason;
      this.#events.down(this.#blockedError(reason));
    });
    model.on('unblocked', () => {
      this.#blocked = undefined;
      this.#events.up();
    });
    model.on('close', (error) => this.#lost(line, error ?? last));
    this.#watchOwnPulse(line);
    return { name: 'up', line };
  }

  /**
   * A process that was stopped, or a blocked event loop, sent no heartbeats: the broker has given our messages to
   * others, and we may not have read that yet. So the connection is dropped before anything else is done with it.
   */
  #watchOwnPulse(line: Line): void {
    const { heartbeat } = this.#settings;
    let last = this.#clock.monotonic();
    const beat = (): void => {
      const silent = this.#clock.monotonic() - last;
      last += silent;
      if (silent > 2 * heartbeat) {
        this.#lost(line, new Error(`the process stood still for ${Math.round(silent)} ms`));
        line.cut.abort();
      } else {
        this.#pulse = this.#clock.setTimeout(beat, heartbeat / 2);
      }
    };
    this.#pulse?.cancel();
    this.#pulse = this.#clock.setTimeout(beat, heartbeat / 2);
  }

  #lost(line: Line, cause: unknown): void {
    if (this.#state.name !== 'up' || this.#state.line !== line) return;
    const why = cause === undefined ? 'the connection was closed' : textOf(cause);
    const error = new ConnectionError(`lost the ${this.#role} connection to ${this.#settings.target}: ${why}`, {
      adapter: adapterName,
      cause,
    });
    const wasBlocked = this.#blocked !== undefined;
    this.#pulse?.cancel();
    this.#blocked = undefined;
    this.#state = { name: 'down', error };
    this.#tell();
    if (!wasBlocked) this.#events.down(error);
    void this.#reconnect();
  }

  async #reconnect(): Promise<void> {
    const { signal } = this.#closing;
    for (let attempt = 1; !signal.aborted; attempt++) {
      await sleep(this.#clock, backOff(attempt, reconnectDelay), signal);
      if (signal.aborted) return;
      try {
        const name = `${this.#clientName} ${this.#role}`;
        const line = await dial(this.#settings, name, this.#connectTimeout, this.#clock, signal);
        if (signal.aborted) {
          line.cut.abort();
          return;
        }
        this.#state = this.#enter(line);
        this.#tell();
        this.#events.up();
        return;
      } catch (error) {
        const failure = connectFailure(error, this.#settings.target, this.#settings.vhost);
        // Not even refused credentials end this: they may be on their way to the broker as well.
        if (this.#state.name === 'down') this.#state = { name: 'down', error: failure };
        this.#logger.debug(`rabbitmq: ${failure.message}; tried again`, { attempt });
      }
    }
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#changed.push(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  #tell(): void {
    const changed = this.#changed;
    this.#changed = [];
    for (const done of changed) done();
  }

  #blockedError(reason: string): ConnectionError {
    return new ConnectionError(
      `${this.#settings.target} takes no messages at the moment (${reason}); it goes on by itself when it has room again`,
      { adapter: adapterName },
    );
  }

  #closedError(): ConnectionError {
    return new ConnectionError(`the connection to ${this.#settings.target} is closed`, {
      adapter: adapterName,
      retryable: false,
    });
  }
}

async function dial(
  settings: Settings,
  name: string,
  timeout: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<Line> {
  const { hosts, vhost } = settings;
  const end = clock.monotonic() + timeout;
  let failure: ConnectionError | undefined;
  for (let i = 0; i < hosts.length && !signal.aborted; i++) {
    const { host, port } = hosts[i] as (typeof hosts)[number];
    const share = Math.max(1, (end - clock.monotonic()) / (hosts.length - i));
    const target = hosts.length === 1 ? settings.target : `${host}:${port} of ${settings.target}`;
    try {
      return await dialHost(settings, host, port, name, share, signal, clock);
    } catch (error) {
      failure = connectFailure(error, target, vhost);
      if (!failure.retryable) break;
    }
  }
  throw failure ?? connectFailure(new Error('given up'), settings.target, vhost);
}

async function dialHost(
  settings: Settings,
  host: string,
  port: number,
  name: string,
  timeout: number,
  signal: AbortSignal,
  clock: Clock,
): Promise<Line> {
  const cut = new AbortController();
  const patience = new AbortController();
  const stop = (): void => patience.abort();
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await Promise.race([
      openLine(settings, host, port, name, cut),
      sleep(clock, timeout, patience.signal).then(() => {
        throw new Error(signal.aborted ? 'given up' : `no answer within ${Math.round(timeout)} ms`);
      }),
    ]);
  } catch (error) {
    cut.abort();
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
    patience.abort();
  }
}

async function openLine(
  settings: Settings,
  host: string,
  port: number,
  name: string,
  cut: AbortController,
): Promise<Line> {
  const { user, auth } = settings;
  const socket: SocketOptions & { readonly signal: AbortSignal } = {
    ...settings.tls,
    // Without it every small publish waits for the peer's delayed ack: 42 ms instead of 0.7 ms, measured.
    noDelay: true,
    signal: cut.signal,
    // Ours bounds the whole handshake; amqplib's only each silence in it.
    timeout: 0,
    clientProperties: { connection_name: name },
    credentials: auth === 'external' ? credentials.external() : credentials[auth](user, await settings.password()),
  };
  const url = {
    protocol: settings.tls === undefined ? 'amqp' : 'amqps',
    hostname: host,
    port,
    heartbeat: settings.heartbeat / 1_000,
    // amqplib decodes it once more.
    vhost: encodeURIComponent(settings.vhost),
  };
  const model = await connect(url, socket);
  // From its first moment on, also where nobody waits for it any more: amqplib throws, out of a timer and at every
  // heartbeat again, what nobody listens to.
  model.on('error', () => {});
  model.on('close', () => cut.abort());
  return { model, cut };
}
