import { Fifo } from './fifo.ts';
import type { ReceivedMessage } from './message.ts';
import type { CloseOptions, MessageStream, Subscription, SubscriptionState, SubscriptionStats } from './types.ts';

/**
 * Messages by `for await`. To the pipeline it is a handler that takes as long as it takes somebody to settle the
 * message; so `concurrency` bounds how many are out at once.
 */
export class Stream<M> implements MessageStream<never>, Subscription {
  readonly #arrived = new Fifo<ReceivedMessage>();
  readonly #wanted = new Fifo<PromiseWithResolvers<IteratorResult<M>>>();
  #subscription: Subscription | undefined;
  #over = false;

  /** The handler to subscribe with. */
  readonly handle = (message: ReceivedMessage): Promise<void> =>
    new Promise((resolve) => {
      if (!message.live) {
        resolve();
        return;
      }
      message.whenDecided = resolve;
      const wanted = this.#wanted.shift();
      if (wanted === undefined) this.#arrived.push(message);
      else wanted.resolve(handedOut<M>(message));
    });

  attach(subscription: Subscription): this {
    this.#subscription = subscription;
    const end = (): void => {
      this.#over = true;
      for (const wanted of this.#wanted.takeWhere(() => true)) wanted.resolve({ done: true, value: undefined });
    };
    subscription.closed.then(end, (error: unknown) => {
      // A subscription that ended by itself is a failure of the loop, not its end.
      this.#wanted.shift()?.reject(error);
      end();
    });
    return this;
  }

  get #member(): Subscription {
    if (this.#subscription === undefined) throw new Error('a stream is used before it is subscribed');
    return this.#subscription;
  }

  get topic(): string {
    return this.#member.topic;
  }
  get group(): string {
    return this.#member.group;
  }
  get state(): SubscriptionState {
    return this.#member.state;
  }
  get closed(): Promise<void> {
    return this.#member.closed;
  }
  pause(): Promise<void> {
    return this.#member.pause();
  }
  resume(): Promise<void> {
    return this.#member.resume();
  }
  stats(): SubscriptionStats {
    return this.#member.stats();
  }
  close(options?: CloseOptions): Promise<void> {
    this.#over = true;
    return this.#member.close(options);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  [Symbol.asyncIterator](): AsyncIterator<never> {
    return {
      next: () => this.#next() as Promise<IteratorResult<never>>,
      return: async () => {
        await this.close();
        return { done: true, value: undefined };
      },
    };
  }

  async #next(): Promise<IteratorResult<M>> {
    while (!this.#over) {
      const message = this.#arrived.shift();
      if (message === undefined) {
        const wanted = Promise.withResolvers<IteratorResult<M>>();
        this.#wanted.push(wanted);
        return wanted.promise;
      }
      // One that was lost while it lay here is somebody else's now.
      if (message.live) return handedOut<M>(message);
    }
    if (this.state === 'failed') await this.closed;
    return { done: true, value: undefined };
  }
}

function handedOut<M>(message: ReceivedMessage): IteratorResult<M> {
  message.begun();
  return { done: false, value: message as unknown as M };
}
