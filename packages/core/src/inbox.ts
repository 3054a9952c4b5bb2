import type { Call } from './compose.ts';
import { LeaseLostError, WaybillError } from './errors.ts';
import type { Fence, Inbox } from './idempotency.ts';
import type { ReceivedMessage, Refusal } from './message.ts';

/** Until the work begins: an attempt that runs out of time has not been the handler's. */
const notBegun: Refusal = { away: new Error('it does not answer') };
/** While the handler runs, for middleware that does not wait for it. */
const notEnded: Refusal = { failed: new Error('the handler had not ended when its middleware returned') };
/** An attempt whose time ends before the answer comes may have been committed. */
const notConfirmed: Refusal = { away: new Error('the commit was not confirmed') };

/**
 * Runs the handler in the inbox's transaction, inside of the middleware: none of that holds a transaction open, and it
 * sees the failure of a commit as the handler's. Why nothing was committed is noted on the message.
 */
export function withInbox(call: Call, inbox: Inbox<unknown>): Call {
  return async (messages, signal) => {
    const message = messages[0] as ReceivedMessage;
    const { claim } = message;
    if (claim === undefined) throw new Error('an attempt in an inbox has no claim');
    let begun = false;
    let cut: AbortSignal | undefined;
    let failure: { readonly error: unknown } | undefined;

    const away = (error: unknown): never => {
      message.refusal = { away: error };
      throw error;
    };
    const failed = (error: unknown): never => {
      message.refusal = { failed: error };
      throw error;
    };
    const work = async (tx: unknown, fence: Fence): Promise<boolean> => {
      // Given up on while it waited for the transaction: somebody else may have the message.
      if (claim.signal?.aborted) return false;
      begun = true;
      cut = fence.signal;
      message.refusal = notEnded;
      whenPassedOn(fence, message);
      try {
        await call(messages, signal, tx);
      } catch (error) {
        failure = { error };
        return false;
      }
      if (claim.signal?.aborted || (message.verdict !== undefined && message.verdict.verb !== 'ack')) return false;
      message.refusal = notConfirmed;
      return true;
    };

    message.refusal = notBegun;
    const outcome = await inbox.run(claim, work).catch((error: unknown): never => {
      // Neither a begin nor a connection that is lost is the handler's fault.
      return !begun || cut?.aborted || WaybillError.is(error, 'CONNECTION') ? away(error) : failed(error);
    });
    if (outcome === 'ran') {
      message.refusal = undefined;
    } else if (outcome === 'duplicate') {
      message.refusal = outcome;
    } else if (outcome === 'busy') {
      message.refusal = outcome;
      throw new LeaseLostError(`message ${message.id} is being handled by another member`);
    } else if (failure !== undefined) {
      return cut?.aborted ? away(failure.error) : failed(failure.error);
    } else if (message.verdict === undefined || message.verdict.verb === 'ack') {
      // Rolled back although nobody said so: the attempt was given up on before its handler returned.
      return away(claim.signal?.reason ?? new LeaseLostError(`the transaction of ${message.id} was rolled back`));
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
