import { type CallOptions, grpc } from 'google-gax';
import { status } from './errors.ts';
import type { Link } from './link.ts';
import type { ReceivedMessage } from './message.ts';

/** Why there is no answer: nothing came at all, or not all of it in time. */
export const noAnswer = 'the broker did not answer a pull';
export const cutAnswer = "the broker's answer to a pull did not get here in time";

/**
 * Pulls once. The broker is told to answer within `wait` milliseconds, if need be with nothing, and has `patience` to
 * bring the answer here: with gRPC's one deadline for both, an answer that is on its way when this process is busy for
 * a moment would be thrown away, and its messages hidden until their deadline.
 *
 * Rejects with the code DEADLINE_EXCEEDED where the service answers so instead of with nothing; with the text of
 * `noAnswer` when it does not answer at all, and of `cutAnswer` when it had begun to.
 */
export async function pull(
  link: Link,
  request: { readonly subscription: string; readonly maxMessages: number },
  wait: number,
  patience: number,
  seat?: number,
): Promise<readonly ReceivedMessage[]> {
  const [response] = await link.puller(seat).pull(request, splitDeadline(link, wait, patience));
  return response.receivedMessages ?? [];
}

function splitDeadline(link: Link, wait: number, patience: number): CallOptions {
  const interceptor: grpc.Interceptor = ({ deadline: _, ...options }, nextCall) => {
    const call = new grpc.InterceptingCall(nextCall(options), {
      start(metadata, _listener, next) {
        metadata.set('grpc-timeout', `${wait}m`);
        const timer = link.clock.setTimeout(() => call.cancelWithStatus(status.deadlineExceeded, noAnswer), patience);
        let begun = false;
        next(metadata, {
          onReceiveMetadata(head, tell) {
            begun = true;
            tell(head);
          },
          onReceiveStatus(ended, tell) {
            timer.cancel();
            const cut = begun && ended.code === status.deadlineExceeded && ended.details !== noAnswer;
            tell(cut ? { ...ended, details: cutAnswer } : ended);
          },
        });
      },
    });
    return call;
  };
  return { ...link.once(patience), otherArgs: { options: { interceptors: [interceptor] } } };
}
