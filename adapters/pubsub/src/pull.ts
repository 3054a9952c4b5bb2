import { type CallOptions, grpc } from 'google-gax';
import { status } from './errors.ts';
import type { Link } from './link.ts';
import type { ReceivedMessage } from './message.ts';

/** What the broker was given to answer with, and did not. */
export const noAnswer = 'the broker did not answer a pull';

/**
 * Pulls once. The broker is told to answer within `wait` milliseconds, if need be with nothing, and has `patience` to
 * bring the answer here: with gRPC's one deadline for both, an answer that is on its way when this process is busy for
 * a moment would be thrown away, and its messages hidden until their deadline.
 *
 * Rejects with the code DEADLINE_EXCEEDED where the service answers so instead of with nothing, and also, with the text
 * of `noAnswer`, when it does not answer at all.
 */
export async function pull(
  link: Link,
  request: { readonly subscription: string; readonly maxMessages: number },
  wait: number,
  patience: number,
): Promise<readonly ReceivedMessage[]> {
  const [response] = await link.puller.pull(request, splitDeadline(link, wait, patience));
  return response.receivedMessages ?? [];
}

function splitDeadline(link: Link, wait: number, patience: number): CallOptions {
  const interceptor: grpc.Interceptor = ({ deadline: _, ...options }, nextCall) => {
    const call = new grpc.InterceptingCall(nextCall(options), {
      start(metadata, _listener, next) {
        metadata.set('grpc-timeout', `${wait}m`);
        const timer = link.clock.setTimeout(() => call.cancelWithStatus(status.deadlineExceeded, noAnswer), patience);
        next(metadata, {
          onReceiveStatus(ended, tell) {
            timer.cancel();
            tell(ended);
          },
        });
      },
    });
    return call;
  };
  return { ...link.once(patience), otherArgs: { options: { interceptors: [interceptor] } } };
}
