import type { Call } from './compose.ts';
import { ConnectionError, LeaseLostError } from './errors.ts';
import type { Fence, Inbox } from './idempotency.ts';
import type { ReceivedMessage } from './message.ts';

/**
 * Runs the handler in the inbox's transaction, inside of the middleware: none of that holds a transaction open, and it
 * sees the failure of a commit as the handler's. What keeps the handler from running is noted on the message.
 */
export function withInbox(call: Call, inbox: Inbox<unknown>): Call {
  return async (messages, signal) => {
    const message = messages[0] as ReceivedMessage;
    const { claim } = message;
    if (claim === undefined) throw new Error('an attempt in an inbox has no claim');
    // Until the work begins: an attempt that runs out of time has not been the handler's.
    message.refusal = { error: new Error('it does not answer') };
    let failure: { readonly error: unknown } | undefined;
    const outcome = await inbox
      .run(claim, async (tx, fence) => {
        // Given up on while it waited for the transaction: somebody else may have the message.
        if (claim.signal?.aborted) return false;
        message.refusal = undefined;
        whenPassedOn(fence, message);
        try {
          await call(messages, signal, tx);
          return !claim.signal?.aborted && (message.verdict === undefined || message.verdict.verb === 'ack');
        } catch (error) {
          failure = { error };
          return false;
        }
      })
      .catch((error: unknown) => {
        if (message.refusal !== undefined || error instanceof ConnectionError) message.refusal = { error };
        throw error;
      });
    if (failure !== undefined) throw failure.error;
    if (outcome === 'duplicate') message.refusal = outcome;
    else if (outcome === 'busy') {
      message.refusal = outcome;
      throw new LeaseLostError(`message ${message.id} is being handled by another member`);
    }
  };
}

/** A claim that has passed to somebody else ends what its holder may do with the message. */
export function whenPassedOn({ signal }: Fence, message: ReceivedMessage): void {
  const { topic, group, id } = message;
  signal?.addEventListener(
    'abort',
    () => message.abort(new LeaseLostError(`topic "${topic}", group "${group}": the claim on message ${id} was lost`)),
    { once: true },
  );
}
