import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { OutgoingMessage, SendResult } from '../src/adapter.ts';
import type { PublishEvent } from '../src/diagnostics.ts';
import { ConnectionError, PublishError, UnsupportedError, type WaybillError } from '../src/errors.ts';
import { PublishQueue, type PublishQueueOptions } from '../src/publisher.ts';
import { FakeClock, settled } from './fake-clock.ts';

const reset = new ConnectionError('the connection was reset', { adapter: 'scripted' });
const stored = (position?: string): SendResult =>
  position === undefined ? { status: 'stored' } : { status: 'stored', position };
const failed = (outcome: 'not-sent' | 'unknown', retryable = true, error: WaybillError = reset): SendResult => ({
  status: 'failed',
  outcome,
  retryable,
  error,
});

let made = 0;
function message(more: { key?: string; ordered?: boolean; body?: Uint8Array; id?: string } = {}): OutgoingMessage {
  return {
    topic: { name: 'orders', ordered: more.ordered ?? false, lanes: undefined, options: undefined },
    id: more.id ?? `m${++made}`,
    key: more.key,
    type: undefined,
    contentType: 'application/json',
    body: more.body ?? new Uint8Array(10),
    headers: {},
    publishedAt: 0,
    deliverAt: undefined,
    expiresAt: undefined,
    options: undefined,
  };
}
const keyed = (key: string, id: string): OutgoingMessage => message({ key, ordered: true, id });

/** A send as the adapter sees it, which ends when the test says so. */
interface Send {
  readonly ids: string[];
  end(...results: SendResult[]): Promise<void>;
  /** All of it, in the same way. */
  endAll(result: SendResult): Promise<void>;
  fail(error: unknown): Promise<void>;
}

interface Limits {
  maxMessages?: number;
  maxBytes?: number;
  maxInFlight?: number;
}

function queueOf(limits: Limits = {}, more: Partial<PublishQueueOptions> = {}) {
  const clock = new FakeClock();
  const sends: Send[] = [];
  const queue = new PublishQueue({
    adapter: 'scripted',
    clock,
    publishTimeout: 30_000,
    maxPending: 10_000,
    random: () => 1,
    capabilities: {
      maxMessageBytes: 1_000,
      publish: { maxMessages: 100, maxBytes: 100_000, maxInFlight: 2, ...limits },
    },
    publish: (batch) =>
      new Promise((resolve, reject) => {
        sends.push({
          ids: batch.map(({ id }) => id),
          end(...results) {
            resolve(results);
            return settled();
          },
          endAll(result) {
            resolve(batch.map(() => result));
            return settled();
          },
          fail(error) {
            reject(error);
            return settled();
          },
        });
      }),
    ...more,
  });
  const sent = (at: number): Send => {
    const send = sends[at];
    if (send === undefined) throw new Error(`there were only ${sends.length} sends`);
    return send;
  };
  return { queue, clock, sends, sent, last: () => sent(sends.length - 1) };
}

/** What has become of a promise so far. */
function watch<T>(promise: Promise<T>): { value?: T; error?: WaybillError & { outcome?: string }; done: boolean } {
  const seen: ReturnType<typeof watch<T>> = { done: false };
  promise.then(
    (value) => Object.assign(seen, { value, done: true }),
    (error) => Object.assign(seen, { error, done: true }),
  );
  return seen;
}

describe('load forms the batches', () => {
  test('what is published in one turn goes together, at once', async () => {
    const { queue, sends, sent, clock } = queueOf();
    const results = [1, 2, 3].map((n) => watch(queue.send(message({ id: `a${n}` }))));
    await settled();
    expect(sends).toHaveLength(1);
    expect(sent(0).ids).toEqual(['a1', 'a2', 'a3']);
    expect(clock.monotonic()).toBe(0);
    await sent(0).end(stored('5'), stored(), stored('7'));
    expect(results.map(({ value }) => value)).toEqual([
      { id: 'a1', position: '5' },
      { id: 'a2' },
      { id: 'a3', position: '7' },
    ]);
  });

  test('what comes while all sends are under way goes with the next', async () => {
    const { queue, sends, sent } = queueOf({ maxInFlight: 1 });
    queue.send(message({ id: 'a' }));
    await settled();
    for (const id of ['b', 'c', 'd']) queue.send(message({ id }));
    await settled();
    expect(sends).toHaveLength(1);
    await sent(0).endAll(stored());
    expect(sent(1).ids).toEqual(['b', 'c', 'd']);
  });

  test('a batch keeps to its messages and bytes; a message that is larger goes alone', async () => {
    const { queue, sends } = queueOf({ maxInFlight: 10, maxMessages: 3, maxBytes: 500 });
    const sizes = [10, 10, 10, 10, 300, 300, 900, 10];
    sizes.forEach((size, n) => {
      queue.send(message({ id: `${n}`, body: new Uint8Array(size) }));
    });
    await settled();
    expect(sends.map(({ ids }) => ids)).toEqual([['0', '1', '2'], ['3', '4'], ['5'], ['6'], ['7']]);
  });

  test('each message has its own result, in the order of the batch (PUB-04)', async () => {
    const { queue, sent } = queueOf();
    const refusal = new PublishError('the queue is full', { outcome: 'not-sent', adapter: 'scripted' });
    const results = ['a', 'b', 'c'].map((id) => watch(queue.send(message({ id }))));
    await settled();
    await sent(0).end(stored(), failed('not-sent', false, refusal), stored());
    expect(results[0]?.value).toEqual({ id: 'a' });
    expect(results[1]?.error).toBe(refusal);
    expect(results[2]?.value).toEqual({ id: 'c' });
  });

  test('a body over the limit is refused before anything is sent (PUB-03)', async () => {
    const { queue, sent } = queueOf();
    const large = watch(queue.send(message({ body: new Uint8Array(1_001) })));
    const fits = watch(queue.send(message({ id: 'fits', body: new Uint8Array(1_000) })));
    await settled();
    expect(large.error).toMatchObject({ code: 'MESSAGE_TOO_LARGE', size: 1_001, limit: 1_000, adapter: 'scripted' });
    expect(sent(0).ids).toEqual(['fits']);
    await sent(0).end(stored());
    expect(fits.value).toEqual({ id: 'fits' });
  });
});

describe('failures', () => {
  test('that may pass are sent again, with back-off', async () => {
    const { queue, sends, last, clock } = queueOf();
    const result = watch(queue.send(message({ id: 'a' })));
    await settled();
    for (const wait of [50, 100, 200]) {
      const count = sends.length;
      await last().end(failed('not-sent'));
      await clock.advance(wait - 1);
      expect(sends).toHaveLength(count);
      await clock.advance(1);
      expect(sends).toHaveLength(count + 1);
    }
    await last().end(stored());
    expect(result.value).toEqual({ id: 'a' });
    expect(clock.timers).toBe(0);
  });

  test('of a few do not hold up the others', async () => {
    const { queue, sent, sends, clock } = queueOf();
    const [first, second] = ['a', 'b'].map((id) => watch(queue.send(message({ id }))));
    await settled();
    await sent(0).end(failed('unknown'), stored());
    expect([first?.done, second?.done]).toEqual([false, true]);
    const third = watch(queue.send(message({ id: 'c' })));
    await settled();
    await sent(1).end(stored());
    expect(third.done).toBe(true);
    await clock.advance(50);
    expect(sends[2]?.ids).toEqual(['a']);
    await sent(2).end(stored());
    expect(first?.value).toEqual({ id: 'a' });
  });

  test.each([
    ['rejects', (send: Send) => send.fail(reset)],
    ['rejects with something odd', (send: Send) => send.fail('odd')],
    ['forgets a result', (send: Send) => send.end()],
  ])('an adapter that %s has an unknown outcome, and is asked again', async (_, end) => {
    const { queue, sent, clock } = queueOf();
    const result = watch(queue.send(message({ id: 'a' })));
    await settled();
    await end(sent(0));
    await clock.advance(50);
    expect(sent(1).ids).toEqual(['a']);
    await clock.advance(30_000);
    expect(result.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
  });

  test('the time that went by before it came here counts', async () => {
    const { queue, clock } = queueOf();
    const since = clock.monotonic();
    await clock.advance(20_000);
    const result = watch(queue.send(message(), { since }));
    await clock.advance(9_000);
    expect(result.done).toBe(false);
    await clock.advance(1_000);
    expect(result.error).toMatchObject({ code: 'PUBLISH_TIMEOUT' });
  });

  test('an adapter that throws does not hang anything', async () => {
    const { queue, clock } = queueOf(
      {},
      {
        publish: () => {
          throw new Error('a bug');
        },
      },
    );
    const result = watch(queue.send(message()));
    await clock.advance(30_000);
    expect(result.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
    expect(result.error?.cause).toMatchObject({ code: 'PUBLISH', cause: { message: 'a bug' } });
  });

  test('for good say what the adapter said, and never less than is known of the outcome', async () => {
    const { queue, sent, clock } = queueOf({ maxInFlight: 10 });
    const unsupported = new UnsupportedError('x', 'scripted', 'y');
    const refusal = new PublishError('no', { outcome: 'not-sent' });
    const fatal = new ConnectionError('access refused', { retryable: false, adapter: 'scripted' });
    const results = ['a', 'b', 'c', 'd'].map((id) => watch(queue.send(message({ id }))));
    await settled();
    await sent(0).end(
      failed('not-sent', false, unsupported),
      failed('unknown', true),
      failed('not-sent', false, fatal),
      failed('unknown', false, refusal),
    );
    await clock.advance(50);
    await sent(1).end(failed('not-sent', false, refusal));
    expect(results[0]?.error).toBe(unsupported);
    // It may be stored from the first send.
    expect(results[1]?.error).toMatchObject({ code: 'PUBLISH', outcome: 'unknown', cause: refusal });
    expect(results[2]?.error).toMatchObject({
      code: 'PUBLISH',
      outcome: 'not-sent',
      cause: fatal,
      adapter: 'scripted',
    });
    expect(results[3]?.error).toMatchObject({ code: 'PUBLISH', outcome: 'unknown', cause: refusal });
  });

  test('of a connection that will not come back are not repeated', async () => {
    const { queue, sent } = queueOf();
    const result = watch(queue.send(message()));
    await settled();
    await sent(0).fail(new ConnectionError('access refused', { retryable: false }));
    expect(result.error).toMatchObject({ code: 'PUBLISH', outcome: 'unknown' });
  });
});

describe('while the connection is away (PUB-06)', () => {
  test('nothing is sent, and what waits goes at once when it is back', async () => {
    const { queue, sends, sent, clock } = queueOf();
    queue.interrupted(reset);
    const result = watch(queue.send(message({ id: 'a' })));
    await clock.advance(10_000);
    expect(sends).toHaveLength(0);
    queue.restored();
    await settled();
    expect(sent(0).ids).toEqual(['a']);
    await sent(0).end(stored());
    expect(result.value).toEqual({ id: 'a' });
  });

  test('what failed does not wait for its back-off any longer', async () => {
    const { queue, sends, sent, clock } = queueOf();
    for (const id of ['a', 'b']) queue.send(message({ id }));
    await settled();
    await sent(0).endAll(failed('unknown'));
    queue.interrupted(reset);
    await clock.advance(5_000);
    expect(sends).toHaveLength(1);
    queue.restored();
    await settled();
    expect(sent(1).ids).toEqual(['a', 'b']);
  });

  test('what fails meanwhile waits for the return alone', async () => {
    const { queue, sends, sent, clock } = queueOf();
    queue.send(message({ id: 'a' }));
    await settled();
    queue.interrupted(reset);
    await sent(0).end(failed('unknown'));
    await clock.advance(20_000);
    expect(sends).toHaveLength(1);
    queue.restored();
    await settled();
    expect(sent(1).ids).toEqual(['a']);
  });

  test('a publish that was never sent says so when its time is up', async () => {
    const { queue, clock } = queueOf();
    queue.interrupted(reset);
    const result = watch(queue.send(message({ id: 'a' })));
    await clock.advance(29_999);
    expect(result.done).toBe(false);
    await clock.advance(1);
    expect(result.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'not-sent', cause: reset });
    expect(result.error?.message).toBe(
      'message a for topic "orders" was not confirmed within 30000 ms; the broker does not have it',
    );
    expect(clock.timers).toBe(0);
  });

  test('one whose send never ended has an unknown outcome, and does not hold up the next', async () => {
    const { queue, sends, sent, clock } = queueOf({ maxInFlight: 1 });
    const hanging = ['a', 'b'].map((id) => watch(queue.send(message({ id }))));
    await clock.advance(10_000);
    const next = watch(queue.send(message({ id: 'c' })));
    await clock.advance(20_000);
    for (const { error } of hanging) expect(error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
    expect(sends).toHaveLength(2);
    // The late answer to the first send is nobody's any more.
    await sent(0).endAll(stored());
    await sent(1).end(stored('9'));
    expect(next.value).toEqual({ id: 'c', position: '9' });
    expect(queue.pending).toBe(0);
  });

  test('one that had waited for its topic runs out of its own time, before those that came ahead of it', async () => {
    const { queue, clock } = queueOf();
    queue.interrupted(reset);
    const called = clock.monotonic();
    await clock.advance(10_000);
    const ahead = watch(queue.send(message()));
    const early = watch(queue.send(message(), { since: called }));
    await clock.advance(20_000);
    expect([early.error?.code, ahead.error?.code]).toEqual(['PUBLISH_TIMEOUT', undefined]);
    await clock.advance(10_000);
    expect(ahead.error?.code).toBe('PUBLISH_TIMEOUT');
    expect(clock.timers).toBe(0);
  });

  test('memory stays bounded: nothing is kept of what has run out of time', async () => {
    const { queue, clock, sent, last } = queueOf({ maxMessages: 10_000 }, { publishTimeout: 1_000 });
    const hot = Array.from({ length: 40 }, (_, n) => n);
    queue.interrupted(reset);
    for (const round of hot) {
      for (let n = 0; n < 100; n++) {
        queue.send(message({ id: `u${round}-${n}` })).catch(() => {});
        queue.send(keyed(`k${round}-${n}`, `o${round}-${n}`)).catch(() => {});
      }
      queue.send(keyed('hot', `h${round}`)).catch(() => {});
      await clock.advance(400);
    }
    const left = queue.pending;
    expect(left).toBeLessThan(700);
    queue.restored();
    await settled();
    const first = sent(0).ids.length;
    await last().endAll(stored());
    expect(first + (last() === sent(0) ? 0 : last().ids.length)).toBeGreaterThanOrEqual(left);
    expect(queue.pending).toBe(0);
  });
});

describe('room (maxPendingPublishes)', () => {
  test('what is above it waits, in order', async () => {
    const { queue, sends, sent } = queueOf({ maxInFlight: 10, maxMessages: 10 }, { maxPending: 2 });
    const results = ['a', 'b', 'c', 'd', 'e'].map((id) => watch(queue.send(message({ id }))));
    await settled();
    expect(sends.map(({ ids }) => ids)).toEqual([['a', 'b']]);
    expect(queue.pending).toBe(5);
    await sent(0).end(stored(), stored());
    expect(sent(1).ids).toEqual(['c', 'd']);
    await sent(1).end(stored(), failed('not-sent', false));
    expect(sent(2).ids).toEqual(['e']);
    await sent(2).end(stored());
    expect(results.map(({ error }) => error === undefined)).toEqual([true, true, true, false, true]);
  });

  test('the time of those that wait for it runs too, and they can be cancelled', async () => {
    const { queue, clock, sent } = queueOf({ maxInFlight: 1 }, { maxPending: 1 });
    const first = watch(queue.send(message({ id: 'a' })));
    const cancel = new AbortController();
    const cancelled = watch(queue.send(message({ id: 'b' }), { signal: cancel.signal }));
    await clock.advance(10_000);
    const late = watch(queue.send(message({ id: 'c' })));
    cancel.abort();
    await settled();
    expect(cancelled.error).toMatchObject({ code: 'PUBLISH', outcome: 'not-sent' });
    await clock.advance(20_000);
    expect(first.error).toMatchObject({ outcome: 'unknown' });
    expect(sent(1).ids).toEqual(['c']);
    await clock.advance(10_000);
    expect(late.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
  });
});

describe('a signal (PUB-07)', () => {
  test('that has aborted refuses at once', async () => {
    const { queue, sends } = queueOf();
    const result = watch(queue.send(message({ id: 'a' }), { signal: AbortSignal.abort('enough') }));
    await settled();
    expect(result.error).toMatchObject({ code: 'PUBLISH', outcome: 'not-sent', cause: 'enough' });
    expect(sends).toHaveLength(0);
  });

  test('cancels what waits, which is then never sent', async () => {
    const { queue, sends, sent } = queueOf({ maxInFlight: 1 });
    const cancel = new AbortController();
    queue.send(message({ id: 'a' }));
    await settled();
    const plain = watch(queue.send(message({ id: 'b' }), { signal: cancel.signal }));
    const ordered = watch(queue.send(keyed('k', 'c'), { signal: cancel.signal }));
    const other = watch(queue.send(message({ id: 'd' })));
    cancel.abort();
    await sent(0).end(stored());
    expect(plain.error).toMatchObject({ outcome: 'not-sent' });
    expect(ordered.error).toMatchObject({ outcome: 'not-sent' });
    expect(sends.map(({ ids }) => ids)).toEqual([['a'], ['d']]);
    await sent(1).end(stored());
    expect(other.value).toEqual({ id: 'd' });
    expect(queue.pending).toBe(0);
  });

  test('comes too late for what is under way', async () => {
    const { queue, sent } = queueOf();
    const cancel = new AbortController();
    const result = watch(queue.send(message({ id: 'a' }), { signal: cancel.signal }));
    await settled();
    cancel.abort();
    await settled();
    expect(result.done).toBe(false);
    await sent(0).end(stored());
    expect(result.value).toEqual({ id: 'a' });
  });

  test('ends what the broker certainly does not have, and not what it may have', async () => {
    const { queue, sent, sends, clock } = queueOf();
    const cancel = new AbortController();
    const [without, maybe] = ['a', 'b'].map((id) => watch(queue.send(message({ id }), { signal: cancel.signal })));
    await settled();
    cancel.abort();
    await sent(0).end(failed('not-sent'), failed('unknown'));
    expect(without?.error).toMatchObject({ code: 'PUBLISH', outcome: 'not-sent' });
    await clock.advance(50);
    expect(sends[1]?.ids).toEqual(['b']);
    await sent(1).end(stored());
    expect(maybe?.value).toEqual({ id: 'b' });
  });
});

describe('on an ordered topic (PUB-08)', () => {
  test('one send of a key is under way at a time, beside those of others', async () => {
    const { queue, sends, sent } = queueOf({ maxInFlight: 5 });
    queue.send(keyed('k', 'k1'));
    await settled();
    for (const id of ['k2', 'k3']) queue.send(keyed('k', id));
    queue.send(keyed('l', 'l1'));
    queue.send(message({ id: 'u' }));
    await settled();
    expect(sends.map(({ ids }) => ids)).toEqual([['k1'], ['l1', 'u']]);
    queue.send(keyed('k', 'k4'));
    await settled();
    expect(sends).toHaveLength(2);
    await sent(0).end(stored());
    expect(sent(2).ids).toEqual(['k2', 'k3', 'k4']);
  });

  test('keys are those of their topic', async () => {
    const { queue, sends } = queueOf({ maxInFlight: 5 });
    queue.send(keyed('k', 'a'));
    await settled();
    queue.send({ ...keyed('k', 'b'), topic: { name: 'other', ordered: true, lanes: undefined, options: undefined } });
    await settled();
    expect(sends.map(({ ids }) => ids)).toEqual([['a'], ['b']]);
  });

  test('what is sent again goes before the later ones of its key; other keys go on', async () => {
    const { queue, sent, clock, sends } = queueOf({ maxInFlight: 5 });
    for (const id of ['k1', 'k2', 'k3']) queue.send(keyed('k', id));
    queue.send(keyed('l', 'l1'));
    await settled();
    await sent(0).end(stored(), failed('unknown'), failed('not-sent'), stored());
    for (const id of ['k4', 'l2']) queue.send(keyed(id[0] as string, id));
    await settled();
    expect(sends[1]?.ids).toEqual(['l2']);
    await clock.advance(50);
    expect(sends[2]?.ids).toEqual(['k2', 'k3', 'k4']);
  });

  test('a message that a later one has passed is rejected, never sent behind it', async () => {
    const { queue, sent, clock, sends } = queueOf();
    const [first, second, third] = ['k1', 'k2', 'k3'].map((id) => watch(queue.send(keyed('k', id))));
    await settled();
    await sent(0).end(failed('not-sent'), stored(), failed('not-sent'));
    expect(first?.error).toMatchObject({ code: 'PUBLISH', outcome: 'not-sent', cause: reset });
    expect(first?.error?.message).toContain('a later message of its key was stored');
    expect(second?.value).toEqual({ id: 'k2' });
    await clock.advance(50);
    expect(sends[1]?.ids).toEqual(['k3']);
    await sent(1).end(stored());
    expect(third?.done).toBe(true);
  });

  test('nor is one that a later one may have passed', async () => {
    const { queue, sent, clock, sends } = queueOf();
    const [first] = ['k1', 'k2'].map((id) => watch(queue.send(keyed('k', id))));
    await settled();
    await sent(0).end(failed('not-sent'), failed('unknown'));
    expect(first?.error).toMatchObject({ outcome: 'not-sent' });
    await clock.advance(50);
    expect(sends[1]?.ids).toEqual(['k2']);
  });

  test('one that fails for good is rejected alone', async () => {
    const { queue, sent } = queueOf();
    const results = ['k1', 'k2'].map((id) => watch(queue.send(keyed('k', id))));
    await settled();
    await sent(0).end(failed('not-sent', false), stored());
    expect(results.map(({ error }) => error?.code)).toEqual(['PUBLISH', undefined]);
  });

  test('a key goes on when a send of it never ends', async () => {
    const { queue, sends, clock, sent } = queueOf({ maxInFlight: 5 });
    const hanging = watch(queue.send(keyed('k', 'k1')));
    await clock.advance(1_000);
    const next = watch(queue.send(keyed('k', 'k2')));
    await clock.advance(29_000);
    expect(hanging.error).toMatchObject({ outcome: 'unknown' });
    expect(sends[1]?.ids).toEqual(['k2']);
    await sent(1).end(stored());
    expect(next.done).toBe(true);
  });

  test('whatever fails, what is stored of a key is in order, and nothing is lost in silence', async () => {
    const outcome = fc.constantFrom('stored', 'not-sent', 'unknown-stored', 'unknown-lost', 'refused', 'rejected');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 40 }),
        fc.infiniteStream(outcome),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 3 }),
        async (keys, outcomes, maxMessages, maxInFlight) => {
          const log: { key: string; n: number }[] = [];
          const clock = new FakeClock();
          const publish = async (batch: readonly OutgoingMessage[]): Promise<SendResult[]> => {
            await new Promise<void>((resolve) => clock.setTimeout(resolve, 10));
            const next = (): string => outcomes.next().value as string;
            // As the interface says: in the order of the batch, so what is lost for a key takes its followers along.
            if (next() === 'rejected') throw reset;
            const lost = new Set<string | undefined>();
            return batch.map(({ key, id }) => {
              const what = lost.has(key) ? 'unknown-lost' : next();
              if (what === 'unknown-lost' || what === 'rejected') {
                lost.add(key);
                return failed('unknown');
              }
              if (what === 'stored' || what === 'unknown-stored') log.push({ key: key as string, n: Number(id) });
              if (what === 'not-sent') return failed('not-sent');
              if (what === 'refused') return failed('not-sent', false);
              return what === 'stored' ? stored() : failed('unknown');
            });
          };
          const { queue } = queueOf({ maxMessages, maxInFlight }, { publish, clock });
          const results = keys.map((key, n) => watch(queue.send(keyed(key, String(n)))));
          while (queue.pending > 0) await clock.advance(1_000);
          for (const key of ['a', 'b', 'c']) {
            const first = [...new Set(log.filter((one) => one.key === key).map(({ n }) => n))];
            expect(first).toEqual([...first].sort((a, b) => a - b));
          }
          results.forEach(({ value, error }, n) => {
            const inLog = log.some((one) => one.n === n);
            if (value !== undefined) expect(inLog).toBe(true);
            else if (error?.outcome === 'not-sent') expect(inLog).toBe(false);
            else expect(error?.outcome).toBe('unknown');
          });
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('the end', () => {
  test('flush waits for what is pending, as long as it may', async () => {
    const { queue, sent, clock } = queueOf();
    await queue.flush(1_000);
    queue.send(message());
    const flushed = watch(queue.flush(1_000));
    await clock.advance(500);
    expect(flushed.done).toBe(false);
    await sent(0).end(stored());
    await clock.advance(0);
    expect(flushed.done).toBe(true);
    expect(clock.timers).toBe(0);
    queue.send(message()).catch(() => {});
    const cut = watch(queue.flush(1_000));
    await clock.advance(1_000);
    expect(cut.done).toBe(true);
    expect(queue.pending).toBe(1);
    queue.close();
  });

  test('close rejects what is left with its outcome, and everything afterwards', async () => {
    const { queue, sends, clock } = queueOf({ maxInFlight: 1 }, { maxPending: 2 });
    const [under, waiting, outside] = ['a', 'b', 'c'].map((id, n) => {
      const result = watch(queue.send(n === 1 ? keyed('k', id) : message({ id })));
      return result;
    });
    await settled();
    const later = watch(queue.send(message({ id: 'd' })));
    queue.close();
    await settled();
    expect(under?.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
    expect(waiting?.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'unknown' });
    expect(outside?.error).toMatchObject({ code: 'PUBLISH_TIMEOUT', outcome: 'not-sent' });
    expect(later.error).toMatchObject({ outcome: 'not-sent' });
    expect(watch(queue.send(message())).done).toBe(false);
    await expect(queue.send(message())).rejects.toMatchObject({ code: 'CLOSED' });
    await queue.idle();
    expect(sends).toHaveLength(1);
    expect(clock.timers).toBe(0);
  });

  test('idle resolves when nothing is pending', async () => {
    const { queue, sent } = queueOf();
    await queue.idle();
    queue.send(message());
    const idle = watch(queue.idle());
    await settled();
    expect(idle.done).toBe(false);
    await sent(0).end(stored());
    expect(idle.done).toBe(true);
  });
});

test('one timer serves any number of publishes', async () => {
  const { queue, clock, last, sends } = queueOf({ maxMessages: 1_000 });
  const results = Array.from({ length: 1_000 }, () => watch(queue.send(message())));
  expect(clock.timers).toBe(1);
  await settled();
  while (sends.length < 1) await settled();
  await last().endAll(stored());
  expect(results.every(({ done }) => done)).toBe(true);
  expect(clock.timers).toBe(0);
});

test('the diagnostics channel hears of each publish once', async () => {
  const events: PublishEvent[] = [];
  const listen = (event: unknown): void => void events.push(event as PublishEvent);
  subscribe('waybill:publish', listen);
  try {
    const { queue, sent, clock } = queueOf();
    queue.send(message({ id: 'a' }));
    queue.send(message({ id: 'b' })).catch(() => {});
    await clock.advance(7);
    await sent(0).end(failed('not-sent'), failed('not-sent', false));
    await clock.advance(50);
    await sent(1).end(stored());
    expect(events).toEqual([
      expect.objectContaining({ id: 'b', sends: 1, duration: 7, error: expect.objectContaining({ code: 'PUBLISH' }) }),
      expect.objectContaining({ adapter: 'scripted', topic: 'orders', id: 'a', sends: 2, duration: 57, bytes: 10 }),
    ]);
    expect(events[1]).not.toHaveProperty('error');
  } finally {
    unsubscribe('waybill:publish', listen);
  }
});
