/**
 * Commits beside the work: one request under way, and what comes meanwhile goes with the next, so that a settle waits
 * for one or two round trips however many others there are. A commit is repeated until the broker has it or the
 * partition is not ours any more.
 */
import { backOff, type Clock, type Logger, sleep } from '@waybill/core/adapter';
import { type Driver, KafkaFailure, type MemberRef } from './driver.ts';
import { asFailure, isPassing } from './errors.ts';
import type { PartitionLog } from './partition-log.ts';

export interface CommitterOptions {
  readonly driver: Driver;
  readonly group: string;
  /** Who we are, `undefined` between two memberships. */
  readonly member: () => MemberRef | undefined;
  /** The broker knows this member no more. */
  readonly fenced: () => void;
  /** Milliseconds after which whoever waits is told that the outcome is unknown; the commit itself goes on. */
  readonly patience: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** `lost`: the partition is not ours any more. A failure: not confirmed, but it may be in the end. */
export type CommitResult = 'applied' | 'lost' | KafkaFailure;

interface Waiting {
  readonly done: Promise<CommitResult>;
  readonly settle: (result: CommitResult) => void;
  readonly since: number;
}

/** Between two memberships. */
const notNow = new KafkaFailure('REBALANCE_IN_PROGRESS', 'the member is joining its group again', { sent: false });

const backOffs = { initial: 20, max: 1_000 };

export class Committer {
  readonly #options: CommitterOptions;
  #waiting = new Map<PartitionLog, Waiting>();
  #running = false;
  #closed = false;

  constructor(options: CommitterOptions) {
    this.#options = options;
  }

  /** Resolves when a commit of this log's present position is confirmed. */
  commit(log: PartitionLog): Promise<CommitResult> {
    if (!log.alive) return Promise.resolve('lost');
    let waiting = this.#waiting.get(log);
    if (waiting === undefined) {
      waiting = this.#fromNow();
      this.#waiting.set(log, waiting);
    }
    if (!this.#running) void this.#run();
    return waiting.done;
  }

  #fromNow(): Waiting {
    const { promise: done, resolve: settle } = Promise.withResolvers<CommitResult>();
    return { done, settle, since: this.#options.clock.monotonic() };
  }

  /** Whoever still waits is told that the outcome is unknown. */
  close(): void {
    this.#closed = true;
    const closed = new KafkaFailure('CLOSED', 'the reader was closed before its commit was confirmed', { sent: true });
    for (const { settle } of this.#waiting.values()) settle(closed);
    this.#waiting.clear();
  }

  async #run(): Promise<void> {
    this.#running = true;
    let failures = 0;
    // What is settled in this turn of the event loop goes with the first commit.
    await Promise.resolve();
    while (this.#waiting.size > 0 && !this.#closed) {
      const round = this.#waiting;
      this.#waiting = new Map();
      if (await this.#round(round)) {
        failures = 0;
      } else {
        await sleep(this.#options.clock, backOff(++failures, backOffs));
      }
    }
    this.#running = false;
  }

  /** One commit of all that is pending; false when something has to be tried again. */
  async #round(round: ReadonlyMap<PartitionLog, Waiting>): Promise<boolean> {
    const { driver, group, member, fenced } = this.#options;
    const logs: PartitionLog[] = [];
    for (const [log, { settle }] of round) {
      if (log.alive) logs.push(log);
      else settle('lost');
    }
    const me = member();
    if (logs.length === 0) return true;
    const told = logs.map(({ changes, tracker }) => ({ changes, position: tracker.position }));
    let results: readonly (KafkaFailure | undefined)[];
    try {
      results =
        me === undefined
          ? logs.map(() => notNow)
          : await driver.commit(
              group,
              me,
              logs.map(({ topic, partition, tracker }) => {
                return { topic, partition, offset: tracker.position, metadata: tracker.metadata() };
              }),
            );
    } catch (error) {
      const failure = asFailure(error);
      results = logs.map(() => failure);
    }
    let complete = true;
    for (const [index, log] of logs.entries()) {
      const failure = results[index];
      const waiting = round.get(log);
      if (waiting === undefined) continue;
      if (failure === undefined) {
        log.committed = told[index]?.changes ?? log.committed;
        log.committedTo = told[index]?.position ?? log.committedTo;
        waiting.settle('applied');
      } else if (!log.alive) {
        waiting.settle('lost');
      } else if (isPassing(failure)) {
        if (failure.code === 'UNKNOWN_MEMBER_ID') fenced();
        this.#again(log, waiting, failure);
        complete = false;
      } else {
        this.#options.logger.error(
          `kafka: group "${group}" cannot commit partition ${log.partition} of "${log.topic}": ${failure.message}`,
        );
        waiting.settle(failure);
      }
    }
    return complete;
  }

  #again(log: PartitionLog, waiting: Waiting, why: KafkaFailure): void {
    const { clock, patience } = this.#options;
    if (clock.monotonic() - waiting.since > patience) {
      waiting.settle(why);
      // Still to be committed: whoever asks for it now waits for an answer of their own.
      if (!this.#waiting.has(log)) this.#waiting.set(log, this.#fromNow());
      return;
    }
    const newer = this.#waiting.get(log);
    if (newer === undefined) {
      this.#waiting.set(log, waiting);
      return;
    }
    const { settle } = newer;
    this.#waiting.set(log, {
      done: newer.done,
      since: waiting.since,
      settle: (result) => {
        waiting.settle(result);
        settle(result);
      },
    });
  }
}
