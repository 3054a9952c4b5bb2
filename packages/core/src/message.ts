import type { Delivery } from './adapter.ts';
import { type Duration, duration } from './duration.ts';
import { AlreadySettledError, LeaseLostError, type WaybillError } from './errors.ts';
import type { Claim } from './idempotency.ts';
import type { Message } from './types.ts';

/** What is to become of a message, once somebody has decided. */
export type Verdict =
  | { readonly verb: 'ack' }
  | { readonly verb: 'retry'; readonly after: number | undefined; readonly error: unknown }
  | { readonly verb: 'reject'; readonly error: unknown };

/**
 * Why nothing is committed in an inbox, though nobody decided so: it has been handled, it is being handled, the
 * database could not be asked or has not answered, or the attempt failed. What is not committed is not acked, whatever
 * middleware makes of it.
 */
export type Refusal = 'duplicate' | 'busy' | { readonly away: unknown } | { readonly failed: unknown };

/** What a message asks of the delivery it stands for. */
export interface MessageOwner {
  /** Carries a decision out as soon as it may be; `settled` is called with what came of it. */
  decided(verdict: Verdict, settled: (result: 'applied' | 'lost') => void): void;
  extended(by: number): void;
  /** Somebody has taken it from a stream: its time begins. */
  begun(): void;
  /** The longest wait that `retry({ after })` may ask for; throws beyond it. */
  checkDelay(after: number): void;
}

/** One attempt's view of a delivery. */
export class ReceivedMessage<T = unknown> implements Message<T> {
  readonly topic: string;
  readonly group: string;
  readonly data: T;
  readonly attempt: number;
  readonly id: string;
  readonly contentType: string;
  /** The first decision; it wins (ACK-06). */
  verdict: Verdict | undefined;
  /** Under an inbox: what the attempt claims. */
  claim: Claim | undefined;
  /** Under an inbox, once its handler has begun or been refused. */
  refusal: Refusal | undefined;
  /** Called once, when nothing more can be decided: it is decided, or not ours any more. For streams. */
  whenDecided: (() => void) | undefined;
  readonly #delivery: Delivery;
  readonly #owner: MessageOwner;
  readonly #publishedAt: number;
  #over = false;
  #controller: AbortController | undefined;
  #aborted: WaybillError | undefined;

  constructor(
    owner: MessageOwner,
    delivery: Delivery,
    place: { readonly topic: string; readonly group: string },
    attempt: number,
    id: string,
    contentType: string,
    data: T,
    publishedAt: number,
  ) {
    this.#owner = owner;
    this.#delivery = delivery;
    this.topic = place.topic;
    this.group = place.group;
    this.attempt = attempt;
    this.id = id;
    this.contentType = contentType;
    this.data = data;
    this.#publishedAt = publishedAt;
  }

  get type(): string | undefined {
    return this.#delivery.type;
  }
  get key(): string | undefined {
    return this.#delivery.key;
  }
  get body(): Uint8Array {
    return this.#delivery.body;
  }
  get headers(): Readonly<Record<string, string | undefined>> {
    return this.#delivery.headers;
  }
  get publishedAt(): Date {
    return new Date(this.#publishedAt);
  }
  get position(): string | undefined {
    return this.#delivery.position;
  }
  get native(): unknown {
    return this.#delivery.native;
  }

  /** Made when somebody asks: most handlers never do. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted);
    }
    return this.#controller.signal;
  }

  ack(): Promise<void> {
    return this.#decide({ verb: 'ack' });
  }

  retry(options: { after?: Duration } = {}): Promise<void> {
    const after = options.after === undefined ? undefined : duration(options.after, 'after');
    if (after !== undefined) this.#owner.checkDelay(after);
    return this.#decide({ verb: 'retry', after, error: undefined });
  }

  reject(reason?: string): Promise<void> {
    return this.#decide({ verb: 'reject', error: reason === undefined ? undefined : new Error(reason) });
  }

  extend(by: Duration): void {
    if (!this.#over) this.#owner.extended(duration(by, 'by'));
  }

  /** Core's: whether the message is still this attempt's, and undecided. */
  get live(): boolean {
    return this.#aborted === undefined && this.verdict === undefined && !this.#over;
  }

  /** Core's: a stream has handed it out. */
  begun(): void {
    this.#owner.begun();
  }

  /** Core's: the message is not this attempt's any more, or its time is up. */
  abort(reason: WaybillError): void {
    if (this.#aborted !== undefined) return;
    this.#aborted = reason;
    this.#controller?.abort(reason);
    this.whenDecided?.();
  }

  /** Core's: the attempt has ended; nothing can be decided by it any more. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.whenDecided?.();
  }

  #decide(verdict: Verdict): Promise<void> {
    if (this.#aborted !== undefined && this.verdict === undefined) return refused(this.#aborted);
    if (this.verdict !== undefined || this.#over) {
      const how = this.verdict === undefined ? 'by the end of its attempt' : `by ${this.verdict.verb}()`;
      return refused(
        new AlreadySettledError(
          `message ${this.id} of topic "${this.topic}", group "${this.group}" was settled ${how}`,
        ),
      );
    }
    this.verdict = verdict;
    this.whenDecided?.();
    const settled = new Promise<void>((resolve, reject) => {
      this.#owner.decided(verdict, (result) => {
        if (result === 'applied') resolve();
        else reject(this.#aborted ?? lostWhileSettling(this));
      });
    });
    // Whoever does not await the outcome leaves a lost message to its redelivery; that must not end the process.
    settled.catch(() => {});
    return settled;
  }
}

/** Nobody has to await it: a refusal that nobody hears must not end the process. */
function refused(error: WaybillError): Promise<never> {
  const rejected = Promise.reject(error);
  rejected.catch(() => {});
  return rejected;
}

function lostWhileSettling(message: ReceivedMessage): LeaseLostError {
  return new LeaseLostError(
    `message ${message.id} of topic "${message.topic}", group "${message.group}" was lost before ${
      message.verdict?.verb ?? 'it'
    } reached the broker; it is delivered again`,
  );
}
