import { readFile } from 'node:fs/promises';
import { v1 } from '@google-cloud/pubsub';
import {
  type AdapterContext,
  backOff,
  type Clock,
  ConnectionError,
  sleep,
  type WaybillError,
} from '@waybill/core/adapter';
import { type CallOptions, type ClientOptions, GoogleAuth, googleAuthLibrary, grpc } from 'google-gax';
import { adapterName, connectFailure, status, statusOf, textOf } from './errors.ts';
import type { ServiceAccount, Settings } from './options.ts';

/** Google's own generated clients; both are replaced when a connection is given up. */
export interface Clients {
  readonly publisher: v1.PublisherClient;
  readonly subscriber: v1.SubscriberClient;
  /** For pulls alone, which wait. */
  readonly pullers: v1.SubscriberClient[];
}

/**
 * Receivers whose pulls share a connection: the service takes a hundred calls at once on each, and a receiver makes up
 * to four. What is above that waits in line, for as long as others wait for messages.
 */
const receiversPerPuller = 24;

/** Whoever wants to know when the broker is away. */
export interface LinkWatcher {
  down(error: WaybillError): void;
  up(): void;
}

const pingDelay = { initial: 50, max: 2_000 };
/** Milliseconds in which a ping has to be answered. */
const pingPatience = 3_000;

/** gRPC's own time-outs are made for clients that can wait minutes. */
const channelOptions = {
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
  // A silent connection is found out, and stays open through proxies that cut idle ones.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // By default a large message comes in pieces of 64 KiB, each of which waits for this process: too long for a pull.
  'grpc-node.flow_control_window': 16 * 1_024 * 1_024,
  // Every client has a connection of its own.
  'grpc.use_local_subchannel_pool': 1,
};

/**
 * The way to the broker. gRPC connects by itself, per call and without telling; so this watches how calls end, asks
 * the broker when one ends badly, and says when it is away and when it is back.
 */
export class Link {
  readonly settings: Settings;
  readonly clock: Clock;
  readonly #context: AdapterContext;
  readonly #watchers = new Set<LinkWatcher>();
  readonly #closing = new AbortController();
  readonly #auth: GoogleAuth;
  #clients: Clients;
  /** Clients whose connection was given up, with what is still under way on them. */
  readonly #old = new Set<Clients>();
  /** Taken places among the pullers. */
  readonly #seats = new Set<number>();
  #problem: ConnectionError | undefined;
  #doubting = false;

  private constructor(settings: Settings, context: AdapterContext) {
    this.settings = settings;
    this.clock = context.clock;
    this.#context = context;
    this.#auth = authOf(settings);
    this.#clients = makeClients(settings, this.#auth, 1);
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<Link> {
    const link = new Link(await withKey(settings), context);
    const stopped = new AbortController();
    try {
      await Promise.race([
        ready(link.#clients).then(() => link.#ping(context.connectTimeout)),
        sleep(context.clock, context.connectTimeout, AbortSignal.any([stopped.signal, context.signal])).then(() => {
          throw new ConnectionError(`cannot connect to ${settings.target}: there was no answer in time`, {
            adapter: adapterName,
          });
        }),
      ]);
      return link;
    } catch (error) {
      await link.close();
      throw connectFailure(error, settings.target);
    } finally {
      stopped.abort();
    }
  }

  get publisher(): v1.PublisherClient {
    return this.#clients.publisher;
  }

  get subscriber(): v1.SubscriberClient {
    return this.#clients.subscriber;
  }

  /** @param seat from `takeSeat`; without one for a pull now and then */
  puller(seat = 0): v1.SubscriberClient {
    const { pullers } = this.#clients;
    return pullers[Math.floor(seat / receiversPerPuller)] ?? (pullers[0] as v1.SubscriberClient);
  }

  /** A place for a receiver's pulls, until `leaveSeat`. */
  async takeSeat(): Promise<number> {
    let seat = 0;
    while (this.#seats.has(seat)) seat++;
    this.#seats.add(seat);
    const { pullers } = this.#clients;
    const at = Math.floor(seat / receiversPerPuller);
    pullers[at] ??= new v1.SubscriberClient(optionsOf(this.settings, this.#auth));
    const puller = pullers[at];
    try {
      await puller.initialize();
      return seat;
    } catch (error) {
      this.#seats.delete(seat);
      // It remembers that it failed: the next one here gets another.
      if (pullers.at(-1) === puller) pullers.pop();
      throw connectFailure(error, this.settings.target);
    }
  }

  leaveSeat(seat: number): void {
    this.#seats.delete(seat);
  }

  /** Why the broker cannot be reached; `undefined` while it can. */
  get problem(): ConnectionError | undefined {
    return this.#problem;
  }

  watch(watcher: LinkWatcher): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** The options of a call that is tried once and has so many milliseconds; by default as the settings say. */
  once(ms = this.settings.requestTimeout): CallOptions {
    return { timeout: ms, retry: null };
  }

  /** Runs a request; whoever gets its error decides about it, the link only learns from it. */
  async call<T>(request: (link: Link) => Promise<readonly [T, ...unknown[]]>): Promise<T> {
    if (this.#problem !== undefined) throw this.#problem;
    try {
      const [response] = await request(this);
      return response;
    } catch (error) {
      this.learn(error);
      throw error;
    }
  }

  /** A call that ended in this way makes the connection doubtful. */
  learn(error: unknown): void {
    const code = statusOf(error);
    if (code === status.unavailable || code === status.deadlineExceeded) void this.#doubt();
  }

  /** Rejects with why the broker does not answer. */
  async ping(): Promise<void> {
    if (this.#problem !== undefined) throw this.#problem;
    try {
      await this.#ping(pingPatience);
    } catch (error) {
      throw connectFailure(error, this.settings.target);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#watchers.clear();
    const all = [this.#clients, ...this.#old];
    this.#old.clear();
    await Promise.all(all.map(closeClients));
  }

  /** Any answer will do, also that there is no such topic or that we may not ask. */
  async #ping(ms: number): Promise<void> {
    const { project } = this.settings;
    const { publisher, subscriber, pullers } = this.#clients;
    const options = this.once(ms);
    const subscription = `projects/${project}/subscriptions/waybill-ping`;
    const asked = [
      publisher.getTopic({ topic: `projects/${project}/topics/waybill-ping` }, options),
      subscriber.getSubscription({ subscription }, options),
      ...pullers.map((puller) => puller.getSubscription({ subscription }, options)),
    ];
    for (const result of await Promise.allSettled(asked)) {
      if (result.status === 'fulfilled') continue;
      const { reason } = result;
      const code = statusOf(reason);
      // Quotas of looks are others than those of messages.
      if (code !== status.notFound && code !== status.permissionDenied && code !== status.resourceExhausted)
        throw reason;
      if (/project not found|project.*(?:deleted|disabled)|has not been used in project/i.test(textOf(reason)))
        throw reason;
    }
  }

  async #doubt(): Promise<void> {
    if (this.#doubting || this.#closing.signal.aborted) return;
    this.#doubting = true;
    let failures = 0;
    for (;;) {
      try {
        await this.#ping(pingPatience);
        break;
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        failures++;
        if (this.#problem === undefined) this.#goDown(error);
        // Nothing comes back: whatever this connection still is, another is tried beside it.
        if (statusOf(error) === status.deadlineExceeded) await this.#renew();
        await sleep(this.clock, backOff(failures, pingDelay), this.#closing.signal);
        if (this.#closing.signal.aborted) return;
      }
    }
    this.#doubting = false;
    if (this.#problem === undefined) return;
    this.#problem = undefined;
    this.#context.events.restored();
    for (const watcher of this.#watchers) watcher.up();
  }

  #goDown(cause: unknown): void {
    const problem = new ConnectionError(`${this.settings.target} cannot be reached: ${textOf(cause)}`, {
      adapter: adapterName,
      cause,
    });
    this.#problem = problem;
    this.#context.events.interrupted(problem);
    for (const watcher of this.#watchers) watcher.down(problem);
  }

  async #renew(): Promise<void> {
    const old = this.#clients;
    const made = makeClients(this.settings, this.#auth, old.pullers.length);
    try {
      await ready(made);
    } catch {
      // Credentials cannot be had at the moment: the old ones have theirs.
      return closeClients(made);
    }
    if (this.#closing.signal.aborted) return closeClients(made);
    this.#clients = made;
    this.#old.add(old);
    // Closing ends what is under way at once; it may end by itself first.
    void sleep(this.clock, this.settings.requestTimeout, this.#closing.signal).then(() => {
      return this.#old.delete(old) ? closeClients(old) : undefined;
    });
  }
}

/** The key file is read once: a wrong one is found before anything is tried. */
async function withKey(settings: Settings): Promise<Settings> {
  const { keyFile, target } = settings;
  if (keyFile === undefined) return settings;
  try {
    const credentials = JSON.parse(await readFile(keyFile, 'utf8')) as ServiceAccount;
    if (typeof credentials?.private_key === 'string' && typeof credentials.client_email === 'string') {
      return { ...settings, credentials };
    }
  } catch (error) {
    // The text of a parser's error could hold a part of the key.
    const why = error instanceof SyntaxError ? 'is not JSON' : `cannot be read: ${textOf(error)}`;
    throw keyFault(`cannot connect to ${target}: the key file "${keyFile}" ${why}`);
  }
  throw keyFault(`cannot connect to ${target}: the key file "${keyFile}" is not the key of a service account`);
}

const keyFault = (text: string): ConnectionError =>
  new ConnectionError(text, { adapter: adapterName, retryable: false });

function makeClients(settings: Settings, auth: GoogleAuth, pullers: number): Clients {
  const options = optionsOf(settings, auth);
  return {
    publisher: new v1.PublisherClient(options),
    subscriber: new v1.SubscriberClient(options),
    pullers: Array.from({ length: pullers }, () => new v1.SubscriberClient(options)),
  };
}

function optionsOf(settings: Settings, auth: GoogleAuth): ClientOptions {
  return {
    projectId: settings.project,
    ...channelOptions,
    auth,
    ...(settings.endpoint && { servicePath: settings.endpoint.host, port: settings.endpoint.port }),
    ...(settings.service ? {} : { sslCreds: credentialsOf(settings, auth) }),
  };
}

/**
 * Waits until clients have what they need, such as credentials. A call on one that cannot get it would end the process:
 * besides rejecting, the library leaves a rejection that nobody can catch.
 */
async function ready({ publisher, subscriber, pullers }: Clients): Promise<void> {
  await Promise.all([publisher, subscriber, ...pullers].map((client) => client.initialize()));
}

function authOf({ service, credentials, project }: Settings): GoogleAuth {
  const scopes = ['https://www.googleapis.com/auth/pubsub'];
  const key = credentials && { email: credentials.client_email, key: credentials.private_key, scopes };
  const auth = new GoogleAuth({
    projectId: project,
    scopes,
    ...(key === undefined ? {} : { authClient: new googleAuthLibrary.JWT(key) }),
    // Else the library asks Google's metadata server which universe it is in, and warns where there is none.
    ...(service ? {} : { clientOptions: { universeDomain: 'googleapis.com' } }),
  });
  // A key signs for itself, as in Google's own clients; else each token is asked for first.
  auth.useJWTAccessWithScope = true;
  if (auth.cachedCredential instanceof googleAuthLibrary.JWT) auth.cachedCredential.useJWTAccessWithScope = true;
  return auth;
}

/** Of an endpoint: none for an emulator, the usual ones over TLS. */
function credentialsOf(settings: Settings, auth: GoogleAuth): grpc.ChannelCredentials {
  if (!settings.tls) return grpc.credentials.createInsecure();
  const channel = grpc.credentials.createSsl(settings.ca);
  if (settings.credentials === undefined) return channel;
  const call = grpc.credentials.createFromMetadataGenerator(({ service_url: url }, done) => {
    auth.getRequestHeaders(url).then(
      (headers) => {
        const metadata = new grpc.Metadata();
        headers.forEach((value, name) => {
          metadata.set(name, value);
        });
        done(null, metadata);
      },
      (error: Error) => done(error),
    );
  });
  return grpc.credentials.combineChannelCredentials(channel, call);
}

async function closeClients({ publisher, subscriber, pullers }: Clients): Promise<void> {
  await Promise.allSettled([publisher, subscriber, ...pullers].map((client) => client.close()));
}
