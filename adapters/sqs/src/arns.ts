/** What names in one account and region begin with. */
export interface Arns {
  readonly sns: string;
  readonly sqs: string;
}

/** Of the account and region of any SNS topic. */
export function arnsOf(topicArn: string): Arns {
  const [arn, partition, , region, account] = topicArn.split(':');
  const of = (service: string): string => `${arn}:${partition}:${service}:${region}:${account}:`;
  return { sns: of('sns'), sqs: of('sqs') };
}

/** What regions outside `aws` begin with. */
const partitions = [
  ['cn-', 'aws-cn'],
  ['us-gov-', 'aws-us-gov'],
  ['eusc-', 'aws-eusc'],
  ['us-iso-', 'aws-iso'],
  ['us-isob-', 'aws-iso-b'],
  ['us-isof-', 'aws-iso-f'],
  ['eu-isoe-', 'aws-iso-e'],
] as const;

export function arnsOfAccount(region: string, account: string): Arns {
  const [, partition] = partitions.find(([start]) => region.startsWith(start)) ?? ['', 'aws'];
  return arnsOf(`arn:${partition}:sns:${region}:${account}:`);
}

/** A queue's name, also where its URL stands for it. */
export const queueNameOf = (nameOrUrl: string): string => nameOrUrl.slice(nameOrUrl.lastIndexOf('/') + 1);
