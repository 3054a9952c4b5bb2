import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface Link {
  readonly client: Socket;
  readonly server: Socket;
}

/** Stands between a client and a server, and does to what they say what networks do. */
export class Wire implements AsyncDisposable {
  readonly url: string;
  /** Each passes on what was said, unless it is replaced. */
  asked: (chunk: Buffer, link: Link) => void = (chunk, { server }) => void server.write(chunk);
  answered: (chunk: Buffer, link: Link) => void = (chunk, { client }) => void client.write(chunk);
  readonly links: Link[] = [];
  readonly #close: () => void;

  private constructor(url: string, close: () => void) {
    this.url = url;
    this.#close = close;
  }

  static async to(target: string): Promise<Wire> {
    const { hostname, port } = new URL(target);
    const listener = createServer((client) => {
      const link = { client, server: connect(Number(port), hostname) };
      wire.links.push(link);
      for (const socket of [link.client, link.server]) {
        socket.setNoDelay(true);
        socket.on('error', () => {});
      }
      link.client.on('data', (chunk) => wire.asked(chunk as Buffer, link));
      link.server.on('data', (chunk) => wire.answered(chunk as Buffer, link));
      link.client.on('close', () => link.server.destroy());
      link.server.on('close', () => link.client.destroy());
    });
    await new Promise<void>((resolve) => void listener.listen(0, '127.0.0.1', resolve));
    const own = { hostname: '127.0.0.1', port: String((listener.address() as AddressInfo).port) };
    const wire: Wire = new Wire(Object.assign(new URL(target), own).href, () => listener.close());
    return wire;
  }

  cut(): void {
    for (const { client } of this.links.splice(0)) client.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#close();
  }
}
