import type { Call } from './compose.ts';
import { LeaseLostError, WaybillError } from './errors.ts';
import type { Fence, Inbox } from './idempotency.ts';
import type { ReceivedMessage } from './message.ts';

/**
 * Runs the handler in the inbox's transaction, inside of the middleware: none of that holds a transaction open, and it
 * sees the failure of a commit as the handler's. What keeps the handler from running, or its transaction from the
 * commit without its fault, is noted on the message.
 */
export function withInbox(call: Call, inbox: Inbox<unknown>): Call {
  return async (messages, signal) => {
    const message = messages[0] as ReceivedMessage;
    const { claim } = message;
    if (claim === undefined) throw new Error('an attempt in an inbox has no claim');
    const refuse = (error: unknown): never => {
      message.refusal = { error };
      throw error;
    };
    let begun = false;
    let cut: AbortSignal | undefined;
    let failure: { readonly error: unknown } | undefined;
    // Until the work begins: an attempt that runs out of time has not been the handler's.
    message.refusal = { error: new Error('it does not answer') };
    const outcome = await inbox
      .run(claim, async (tx, fence) => {
        // Given up on while it waited for the transaction: somebody else may have the message.
        if (claim.signal?.aborted) return false;
        begun = true;
        cut = fence.signal;
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
      .catch((error: unknown): never => {
        if (!begun || WaybillError.is(error, 'CONNECTION')) return refuse(error);
        throw error;
      });
    if (failure !== undefined && cut?.aborted) return refuse(failure.error);
    if (failure !== undefined) throw failure.error;
    if (outcome === 'busy') {
      message.refusal = outcome;
      throw new LeaseLostError(`message ${message.id} is being handled by another member`);
    }
    if (outcome === 'duplicate') message.refusal = outcome;
    // Rolled back although nobody said so: the attempt was given up on before its handler returned.
    else if (outcome === 'failed' && (message.verdict === undefined || message.verdict.verb === 'ack')) {
      return refuse(
        claim.signal?.reason ?? new LeaseLostError(`the transaction of message ${message.id} was rolled back`),
      );
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
