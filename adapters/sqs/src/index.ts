import type { Adapter, AdapterContext, AdapterFactory } from '@waybill/core/adapter';
import { SqsConnection } from './connection.ts';
import { adapterName } from './errors.ts';
import { optionsFromUrl, resolveOptions, type SqsOptions } from './options.ts';

export type { SqsNative } from './connection.ts';
export type { SqsCredentials, SqsOptions } from './options.ts';

/** Makes adapters for SQS and SNS: `connect(sqs({ region: 'eu-west-1' }))`, or by URL. */
export interface SqsFactory extends AdapterFactory {
  /** @throws ConfigError that names a wrong or unknown option (CFG-01) */
  (options?: SqsOptions): Adapter;
}

/**
 * Amazon SQS and SNS.
 *
 * URL: `sqs://region?…`, or `sqs://access-key:secret@region?…`, with the parameters `endpoint`, `snsEndpoint`,
 * `profile`, `account`, `fanOut`, `pollWait`, `maxPolls`, `requestTimeout`, `kmsKeyId` and `kmsReuse` of `SqsOptions`,
 * and for TLS `caFile`, `certFile`, `keyFile` and `passphrase`. `sqs:` alone takes all from where the AWS SDK finds it.
 *
 * On AWS: a topic is an SNS topic, a group is an SQS queue subscribed to it with raw delivery, so programs without
 * Waybill publish there and subscribe what they like. An ordered topic is a FIFO topic with FIFO queues, its keys are
 * message groups. A retry is a copy to the group's own queue; delayed publishes wait in one queue for all topics, and
 * members bring them to their topics. Dead letters are a queue per group.
 *
 * Delivery: at least once. A publish is confirmed when SNS has stored it. A lease is a visibility time-out, renewed in
 * batches; SQS bears twelve hours in all.
 *
 * Not supported: `seek`, and groups that start elsewhere than at the end, because queues keep no log; attempts on
 * ordered topics do not outlive a crash; `peek` hides dead letters from others while it reads. With `fanOut: 'queue'`
 * a topic is one queue without SNS, and has one group and no broadcasts.
 */
export const sqs: SqsFactory = Object.assign(makeAdapter, {
  schemes: ['sqs'],
  fromUrl: (url: string): Adapter => makeAdapter(optionsFromUrl(url)),
});
// A function's own name cannot be assigned, only defined.
Object.defineProperty(sqs, 'name', { value: adapterName });

function makeAdapter(options: SqsOptions = {}): Adapter {
  const settings = resolveOptions(options);
  return {
    name: adapterName,
    target: settings.target,
    connect: (context: AdapterContext) => SqsConnection.open(settings, context),
  };
}
