import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, TLSSocket, type TlsOptions } from 'node:tls';
import type { CutMode, NetworkLink } from '../harness.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The proxy listens on this machine, wherever the broker is; the name is the one that test certificates bear. */
const HERE = 'localhost';

export interface ProxyOptions {
  readonly upstream: Address;
  /** Speak TLS with the clients, and plain TCP with the broker. */
  readonly tls?: TlsOptions;
  /** A new one per connection: what the broker's bytes are changed into. Gets the proxy's own address. */
  readonly rewriteReplies?: (proxy: Address) => (chunk: Buffer) => Buffer;
}

/** One connection through the proxy: two sockets, and whether each direction is held up. */
interface Pair {
  readonly client: Socket;
  readonly upstream: Socket | undefined;
  holdRequests: boolean;
  holdReplies: boolean;
}

/** A TCP proxy in front of a broker, that can fail in the ways of a network. */
export class TcpProxy {
  readonly address: Address;
  /** What the clients sent at the beginning of each connection: shows which way of authentication they chose. */
  readonly heard: Buffer[] = [];
  readonly #server: Server;
  readonly #options: ProxyOptions;
  readonly #pairs = new Set<Pair>();
  #state: 'open' | 'deaf' | CutMode = 'open';

  private constructor(server: Server, options: ProxyOptions) {
    this.#server = server;
    this.#options = options;
    this.address = { host: HERE, port: (server.address() as AddressInfo).port };
  }

  static async open(options: ProxyOptions): Promise<TcpProxy> {
    // It is there before the first client can be.
    let proxy: TcpProxy | undefined;
    const accept = (socket: Socket): void => (proxy as TcpProxy).#accept(socket);
    const server = options.tls === undefined ? createServer(accept) : createTlsServer(options.tls, accept);
    // A client that gives up during the handshake is no matter of ours.
    server.on('tlsClientError', () => {});
    server.listen(0);
    await once(server, 'listening');
    proxy = new TcpProxy(server, options);
    return proxy;
  }

  cut(mode: CutMode): void {
    this.#state = mode;
    for (const pair of this.#pairs) {
      if (mode === 'reset') reset(pair);
      else hold(pair, { requests: true, replies: true });
    }
  }

  /** What a black hole held up arrives now, as it does when a real network heals. */
  mend(): void {
    this.#state = 'open';
    for (const pair of this.#pairs) {
      // Nobody was asked for these: a reset lets their clients try again.
      if (pair.upstream === undefined) reset(pair);
      else hold(pair, { requests: false, replies: false });
    }
  }

  loseReplies(): void {
    this.#state = 'deaf';
    for (const pair of this.#pairs) hold(pair, { requests: false, replies: true });
  }

  /** It does not keep the process alive any more. */
  unref(): void {
    this.#server.unref();
  }

  async close(): Promise<void> {
    for (const pair of this.#pairs) reset(pair);
    this.#server.close();
    await once(this.#server, 'close');
  }

  #accept(client: Socket): void {
    if (this.#state === 'reset') {
      client.on('error', () => {});
      resetSocket(client);
      return;
    }
    const { host, port } = this.#options.upstream;
    const upstream = this.#state === 'blackhole' ? undefined : connect({ host, port, noDelay: true });
    const pair: Pair = { client, upstream, holdRequests: false, holdReplies: this.#state === 'deaf' };
    this.#pairs.add(pair);
    client.setNoDelay(true);
    client.on('error', () => reset(pair));
    client.once('close', () => {
      this.#pairs.delete(pair);
      upstream?.destroy();
    });
    if (upstream === undefined) return;
    upstream.on('error', () => reset(pair));
    upstream.once('close', () => client.destroy());
    const rewrite = this.#options.rewriteReplies?.(this.address) ?? ((chunk: Buffer) => chunk);
    const nth = this.heard.push(Buffer.alloc(0)) - 1;
    pump(
      client,
      upstream,
      () => pair.holdRequests,
      (chunk) => {
        const heard = this.heard[nth] ?? Buffer.alloc(0);
        if (heard.length < KEPT) this.heard[nth] = Buffer.concat([heard, chunk.subarray(0, KEPT)]);
        return chunk;
      },
    );
    pump(upstream, client, () => pair.holdReplies, rewrite);
    if (pair.holdReplies) upstream.pause();
  }
}

/** The network of one bus, which connects by `url` and so through the proxy. */
export function linkThrough(proxy: TcpProxy, url: string): NetworkLink {
  return {
    target: url,
    url,
    cut: async (mode) => proxy.cut(mode),
    mend: async () => proxy.mend(),
    loseReplies: async () => proxy.loseReplies(),
    close: () => proxy.close(),
  };
}

/** Bytes kept of the beginning of a connection. */
const KEPT = 4_096;

function pump(from: Socket, to: Socket, held: () => boolean, change: (chunk: Buffer) => Buffer): void {
  from.on('data', (chunk: Buffer) => {
    const changed = change(chunk);
    if (changed.length > 0 && !to.write(changed)) from.pause();
  });
  to.on('drain', () => {
    if (!held()) from.resume();
  });
  from.on('end', () => to.end());
}

function hold(pair: Pair, which: { readonly requests: boolean; readonly replies: boolean }): void {
  pair.holdRequests = which.requests;
  pair.holdReplies = which.replies;
  if (which.requests) pair.client.pause();
  else pair.client.resume();
  if (which.replies) pair.upstream?.pause();
  else pair.upstream?.resume();
}

function reset(pair: Pair): void {
  resetSocket(pair.client);
  if (pair.upstream !== undefined) resetSocket(pair.upstream);
}

function resetSocket(socket: Socket): void {
  // Node can reset plain TCP only.
  if (socket instanceof TLSSocket) socket.destroy();
  else socket.resetAndDestroy();
}
