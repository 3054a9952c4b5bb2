import { type Clock, type Logger, sleep } from '@waybill/core/adapter';
import { Presence, type PresenceParts } from './presence.ts';
import { shareLanes } from './shares.ts';

/** How often a member looks whether the others are still there, in milliseconds: by so much a dead one's lanes wait. */
const pulse = 1_000;

export interface LaneSharingParts extends Omit<PresenceParts, 'lanes' | 'changed'> {
  readonly lanes: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Reads a lane; resolves when the broker counts us among its consumers. */
  readonly open: (lane: number) => Promise<void>;
  /** Hands a lane over: resolves when we read it no more. */
  readonly release: (lane: number) => Promise<void>;
}

/**
 * Shares the lanes of an ordered group among its members. Each computes the same shares and reads its own; a lane that
 * is another's is let go as soon as that one stands in line for it. What a lane's queue hands out, and to whom, is the
 * broker's to decide: it has one active consumer, so members that disagree for a moment cost time and never order.
 */
export class LaneSharing {
  readonly #parts: LaneSharingParts;
  readonly #lanes = new Map<number, 'opening' | 'open' | 'releasing'>();
  readonly #stopping = new AbortController();
  #presence: Presence | undefined;
  #running: Promise<void> | undefined;
  /** Takes no share: it is about to leave. */
  #retired = false;
  #moving = false;

  constructor(parts: LaneSharingParts) {
    this.#parts = parts;
  }

  /** Resolves when every lane has a consumer, and the others have been told. @throws what the first try ran into */
  async start(): Promise<void> {
    // All of them: whoever reads one already keeps it until the shares say otherwise.
    await Promise.all(Array.from({ length: this.#parts.lanes }, (_, lane) => this.#open(lane)));
    const presence = await this.#join();
    this.#running = this.#keepPresent(presence);
  }

  /** Gives its share to the others, as far as nothing of it is in hand. */
  retire(): void {
    if (this.#retired) return;
    this.#retired = true;
    void this.#presence?.announce('bye');
    this.#settle();
  }

  /** Takes a share again. */
  unretire(): void {
    if (!this.#retired || this.#stopping.signal.aborted) return;
    this.#retired = false;
    void this.#presence?.announce('hello');
    this.#settle();
  }

  /** Ends sharing; the lanes are the caller's to close, before this. Never rejects. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #keepPresent(first: Presence): Promise<void> {
    const { clock, consume, logger } = this.#parts;
    const { signal } = this.#stopping;
    for (let presence: Presence | undefined = first; !signal.aborted; ) {
      if (presence !== undefined) {
        const over = AbortSignal.any([presence.ended, signal]);
        for (;;) {
          await sleep(clock, pulse, over);
          if (over.aborted) break;
          await presence.pulse();
          this.#settle();
        }
        if (signal.aborted) await presence.leave();
        else await presence.close();
        this.#presence = undefined;
      }
      if ((await consume.whenUp(signal)) === undefined) return;
      presence = await this.#join().catch((error: unknown) => {
        logger.debug('rabbitmq: a member cannot find its group, tried again', { error });
        return undefined;
      });
      if (presence === undefined) await sleep(clock, pulse, signal);
    }
  }

  async #join(): Promise<Presence> {
    const presence = new Presence({
      ...this.#parts,
      lanes: () => [...this.#lanes].filter(([, state]) => state === 'open').map(([lane]) => lane),
      changed: () => this.#settle(),
    });
    await presence.join(this.#parts.consume.model);
    this.#presence = presence;
    if (this.#retired) void presence.announce('bye');
    this.#settle();
    return presence;
  }

  /** Brings what we read to what is ours. */
  #settle(): void {
    const presence = this.#presence;
    if (presence === undefined || this.#stopping.signal.aborted) return;
    const members = [...presence.peers.keys()];
    if (!this.#retired) members.push(presence.id);
    if (members.length === 0) return;
    const owners = shareLanes(members, this.#parts.lanes);
    owners.forEach((owner, lane) => {
      const state = this.#lanes.get(lane);
      if (owner === presence.id) {
        if (state === undefined) void this.#open(lane).catch(() => {});
      } else if (state === 'open' && presence.peers.get(owner)?.lanes.has(lane) === true) {
        void this.#release(lane);
      }
    });
  }

  async #open(lane: number): Promise<void> {
    this.#lanes.set(lane, 'opening');
    try {
      await this.#parts.open(lane);
      this.#lanes.set(lane, 'open');
    } catch (error) {
      this.#lanes.delete(lane);
      throw error;
    }
    this.#moved();
  }

  async #release(lane: number): Promise<void> {
    this.#lanes.set(lane, 'releasing');
    // The others see at once that we do not stand in line for it any more.
    this.#moved();
    await this.#parts.release(lane);
    this.#lanes.delete(lane);
    this.#moved();
  }

  /** Says so and acts on it, once for all lanes that move together. */
  #moved(): void {
    if (this.#moving) return;
    this.#moving = true;
    queueMicrotask(() => {
      this.#moving = false;
      void this.#presence?.tellAll();
      this.#settle();
    });
  }
}
