import { silent, systemClock } from '@waybill/core/adapter';
import { expect, test } from 'vitest';
import { Committer } from '../src/commits.ts';
import { type Driver, KafkaFailure } from '../src/driver.ts';
import { PartitionLog } from '../src/partition-log.ts';

test('who asks after a commit was given up on waits for an answer of their own', async () => {
  const joining = new KafkaFailure('REBALANCE_IN_PROGRESS', 'the group is being rebalanced', { sent: true });
  let answer: KafkaFailure | undefined = joining;
  const driver: Pick<Driver, 'commit'> = { commit: async () => [answer] };
  const committer = new Committer({
    driver: driver as Driver,
    group: 'g',
    member: () => ({ id: 'm', generation: 1 }),
    fenced: () => {},
    patience: 100,
    clock: systemClock,
    logger: silent,
  });
  const log = new PartitionLog({ topic: 't', partition: 0 }, 't/0', 0, '');
  expect(await committer.commit(log)).toBe(joining);
  const again = committer.commit(log);
  answer = undefined;
  expect(await again).toBe('applied');
});
