import type { Adapter, AdapterContext, AdapterFactory } from '@waybill/core/adapter';
import { RabbitConnection } from './connection.ts';
import { adapterName } from './errors.ts';
import { optionsFromUrl, type RabbitmqOptions, resolveOptions } from './options.ts';

export type { RabbitmqNative } from './connection.ts';
export type { RabbitmqOptions } from './options.ts';

/** Makes adapters for RabbitMQ: `connect(rabbitmq({ hosts: 'mq1,mq2' }))`, or by URL. */
export interface RabbitmqFactory extends AdapterFactory {
  /** @throws ConfigError that names a wrong or unknown option (CFG-01) */
  (options?: RabbitmqOptions): Adapter;
}

/**
 * RabbitMQ 3.10 and later, over AMQP 0-9-1.
 *
 * URL: `amqp(s)://user:password@host:port,host2/vhost?…` with the parameters `heartbeat`, `queueType`, `exchange`,
 * `maxMessageBytes`, `consumerTimeout`, `confirmTimeout` and `auth` of `RabbitmqOptions`; with `amqps`, `caFile`,
 * `certFile`, `keyFile`, `passphrase` and `servername`.
 *
 * On the broker: a topic is a routing key on one topic exchange (`waybill.v1.topics`), a group is a queue bound to it,
 * so programs without Waybill publish there and bind queues of their own. An ordered topic has a queue per lane with a
 * single active consumer; members share the lanes. Retries and delayed publishes wait in queues with a fixed
 * time-to-live, without any client. Dead letters are a queue per group.
 *
 * Delivery: at least once. A publish is confirmed when a quorum of the queue's nodes has it on disk. A lease is that of
 * the connection: members that die are noticed at once, those that fall silent within three heartbeats.
 *
 * Not supported: `seek`, and groups that start elsewhere than at the end, because queues keep no log; attempts on
 * ordered topics do not outlive a crash; `peek` hides dead letters from others while it reads. With `classic` queues,
 * a message that kills its process is not noticed.
 */
export const rabbitmq: RabbitmqFactory = Object.assign(makeAdapter, {
  schemes: ['amqp', 'amqps'],
  fromUrl: (url: string): Adapter => makeAdapter(optionsFromUrl(url)),
});
// A function's own name cannot be assigned, only defined.
Object.defineProperty(rabbitmq, 'name', { value: adapterName });

function makeAdapter(options: RabbitmqOptions = {}): Adapter {
  const settings = resolveOptions(options);
  return {
    name: adapterName,
    target: settings.target,
    connect: (context: AdapterContext) => RabbitConnection.open(settings, context),
  };
}
