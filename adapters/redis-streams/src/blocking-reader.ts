import type { ConnectionError } from '@waybill/core/adapter';
import { type Command, Link } from './link.ts';
import { block, clusterBlock, type ReceiverParts } from './receiver-parts.ts';
import { asNumber } from './replies.ts';

/**
 * The connection on which a receiver waits for messages: whatever stands behind a read that blocks would wait with it, so
 * it has one of its own.
 */
export class BlockingReader {
  readonly #parts: ReceiverParts;
  #link: Link | undefined;
  #client: number | undefined;
  #reading = false;

  private constructor(parts: ReceiverParts) {
    this.#parts = parts;
  }

  /** @throws ConnectionError */
  static async open(parts: ReceiverParts, changed: (error?: ConnectionError) => void): Promise<BlockingReader> {
    const { settings, context, source } = parts;
    const reader = new BlockingReader(parts);
    reader.#link = await Link.open(`reads:${source.group.name}`, block, settings, context, {
      up: () => {
        reader.#client = undefined;
        changed();
      },
      down: changed,
    });
    return reader;
  }

  get isUp(): boolean {
    return this.#link?.isUp ?? false;
  }

  /** Milliseconds that a read should block at most. */
  get patience(): number {
    return this.#parts.settings.mode === 'cluster' ? clusterBlock : block;
  }

  /** @throws NotSent, NoAnswer, ServerError */
  async read(command: Command): Promise<unknown> {
    const link = this.#link as Link;
    if (this.#client === undefined && !link.isCluster) {
      this.#client = asNumber(await link.call(['CLIENT', 'ID']));
    }
    this.#reading = true;
    try {
      return await link.call(command);
    } finally {
      this.#reading = false;
    }
  }

  /** Lets a read under way come back with nothing. It is never aborted: the server hands messages to it all the same. */
  unblock(): void {
    const { link } = this.#parts;
    // A node of a cluster has clients of its own, so there the read ends by itself.
    if (!this.#reading || this.#client === undefined || link.isCluster || !link.isUp) return;
    link.call(['CLIENT', 'UNBLOCK', this.#client]).catch(() => {});
  }

  async close(): Promise<void> {
    await this.#link?.close();
  }
}
