import {
  type AdapterContext,
  backOff,
  type Capabilities,
  ClosedError,
  ConfigError,
  type Connection,
  checkOptions,
  type DeadLetterCount,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  type OutgoingMessage,
  type Position,
  type ProvisionItem,
  type Receiver,
  type ReceiverEvents,
  type SendResult,
  type Source,
  sleep,
  type TopicInfo,
} from '@waybill/core/adapter';
import { type AdminOptions, countDeadLetters, DeadLetterReader, moveGroup, readLag, removeGroup } from './admin.ts';
import { capabilities } from './capabilities.ts';
import { DelayLevels } from './delay.ts';
import { type Driver, KafkaFailure } from './driver.ts';
import { kafkajsDriver } from './driver-kafkajs.ts';
import { adapter, connectionError, sendFailure } from './errors.ts';
import type { Settings } from './options.ts';
import { Publisher, type Send } from './publisher.ts';
import { KafkaReceiver } from './receiver.ts';
import { messageRecord } from './records.ts';
import { type KafkaNames, kafkaNames, Topology } from './topology.ts';

/** @throws ConnectionError (LIFE-04) */
export async function connectKafka(settings: Settings, context: AdapterContext): Promise<Connection> {
  const { clientName, connectTimeout, clock, logger, signal } = context;
  const driver = kafkajsDriver({
    brokers: settings.brokers,
    ssl: settings.ssl,
    sasl: settings.sasl,
    clientId: clientName,
    // Connecting and logging in may take as long each.
    connectTimeout: Math.ceil(connectTimeout / 2),
    requestTimeout: settings.requestTimeout,
    compression: settings.compression,
    clock,
    logger,
  });
  const stop = (): void => void driver.close();
  signal.addEventListener('abort', stop, { once: true });
  try {
    await driver.connect();
    if (signal.aborted) throw new KafkaFailure('CLOSED', 'the attempt was given up', { sent: false });
    return new KafkaConnection(driver, settings, context);
  } catch (error) {
    await driver.close();
    throw connectionError(error, settings.target);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

class KafkaConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly #driver: Driver;
  readonly #settings: Settings;
  readonly #context: AdapterContext;
  readonly #names: KafkaNames;
  readonly #topology: Topology;
  readonly #publisher: Publisher;
  readonly #delays: DelayLevels;
  readonly #admin: AdminOptions;
  readonly #receivers = new Set<KafkaReceiver>();
  readonly #closing = new AbortController();
  #looking = false;

  constructor(driver: Driver, settings: Settings, context: AdapterContext) {
    const { clock, logger, namePrefix, names } = context;
    this.#driver = driver;
    this.#settings = settings;
    this.#context = context;
    this.capabilities = capabilities(settings);
    this.#names = kafkaNames(namePrefix, names);
    this.#topology = new Topology({ driver, names: this.#names, settings, clock, logger });
    this.#publisher = new Publisher({
      driver,
      patience: settings.requestTimeout,
      clock,
      unreachable: () => void this.#lookAround(),
    });
    this.#delays = new DelayLevels({
      driver,
      publisher: this.#publisher,
      names: this.#names,
      restore: () => this.#makeAgain('delay levels', []),
      requestTimeout: settings.requestTimeout,
      clock,
      logger,
    });
    this.#admin = { driver, publisher: this.#publisher, names: this.#names, target: settings.target, clock };
  }

  get native(): unknown {
    return this.#driver.native;
  }

  async describeTopic(name: string): Promise<TopicInfo | undefined> {
    const partitions = await this.#topology.describe(name);
    return partitions === undefined ? undefined : { ordered: undefined, lanes: partitions.length };
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    for (const { groups } of items) {
      for (const { name, options } of groups) checkOptions(options ?? {}, [], `group "${name}" broker.kafka`);
    }
    const differences = await this.#topology.provision(items, mode);
    if (this.#topology.hasLevels) this.#delays.start();
    return differences;
  }

  removeGroup(group: GroupRef): Promise<void> {
    // A broadcast reads without group: nothing was made for it.
    if (!group.temporary) return removeGroup(this.#admin, group);
    this.#topology.unpin(group);
    return Promise.resolve();
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const now = this.#context.clock.now();
    if (batch.some((message) => isLater(message, now))) await this.#makeLevels();
    const results: SendResult[] = new Array(batch.length);
    const sends: Send[] = [];
    const places: number[] = [];
    // Making a name is dear beside all else that is done for a message.
    const topics = new Map<string, string>();
    for (const [index, message] of batch.entries()) {
      const fault = optionFault(message);
      if (fault !== undefined) {
        results[index] = { status: 'failed', outcome: 'not-sent', retryable: false, error: fault };
        continue;
      }
      const { name } = message.topic;
      const topic = topics.get(name) ?? this.#names.topic(name);
      topics.set(name, topic);
      places.push(index);
      sends.push(this.#send(message, topic, now));
    }
    const missing = new Map<string, OutgoingMessage>();
    for (const [at, sent] of (await this.#publisher.send(sends)).entries()) {
      const index = places[at] as number;
      const message = batch[index] as OutgoingMessage;
      if (sent instanceof KafkaFailure) {
        const { name } = message.topic;
        if (sent.code === 'UNKNOWN_TOPIC_OR_PARTITION') missing.set(name, message);
        results[index] = sendFailure(sent, name, message.body.byteLength, this.capabilities.maxMessageBytes);
      } else if (sent.offset < 0 || isLater(message, now)) {
        // A delayed message gets its place when its time has come.
        results[index] = { status: 'stored' };
      } else {
        results[index] = { status: 'stored', position: `${sent.partition}:${sent.offset}` };
      }
    }
    if (missing.size > 0) await this.#remake([...missing.values()]);
    return results;
  }

  /** Where they cannot be made, the sends say why. */
  async #makeLevels(): Promise<void> {
    const { topology, logger } = this.#context;
    if (this.#topology.hasLevels || topology !== 'create') return;
    await this.#topology.provision([], 'create').catch((error: unknown) => {
      logger.debug(`kafka: the delay levels are not made: ${String(error)}`);
    });
  }

  /** Topics that are gone under a publisher; core sends their messages again. */
  async #remake(messages: readonly OutgoingMessage[]): Promise<void> {
    const what = `topics ${messages.map(({ topic }) => `"${topic.name}"`).join(', ')}`;
    const items = messages.map(({ topic }) => ({ topic, groups: [] }));
    await this.#makeAgain(what, items).catch((error: unknown) => {
      this.#context.logger.debug(`kafka: ${String(error)}`);
    });
  }

  #send(message: OutgoingMessage, topic: string, now: number): Send {
    const record = messageRecord(message);
    if (!isLater(message, now)) return { topic, record, ordered: message.topic.ordered };
    this.#delays.start();
    return this.#delays.send(record, { topic, partition: undefined }, message.deliverAt ?? now);
  }

  /** LIFE-07: something was deleted under us. */
  async #makeAgain(what: string, items: readonly ProvisionItem[]): Promise<void> {
    const { topology, logger } = this.#context;
    if (topology !== 'create') {
      throw new ConfigError(
        'topology',
        `${what} do not exist on the broker, and with topology '${topology}' they are not made; make them, or use topology 'create'`,
        { adapter },
      );
    }
    logger.warn(`kafka: ${what} are gone and made again`);
    this.#topology.recheck();
    await this.#topology.provision(items, 'create');
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    const { clock, logger } = this.#context;
    const { group } = source;
    const { topic, name } = group;
    if (this.#closing.signal.aborted) throw new ClosedError('the bus');
    const { min, max } = this.capabilities.lease;
    if (!group.temporary && (source.lease < min || source.lease > max)) {
      throw new ConfigError('lease', `${source.lease} ms is not between ${min} and ${max} ms, which Kafka allows`);
    }
    this.#delays.start();
    const kafkaTopic = this.#names.topic(topic.name);
    const startAt = group.temporary
      ? (this.#topology.pinned(group) ?? (await this.#topology.resolve(kafkaTopic, 'latest')))
      : undefined;
    const receiver = await KafkaReceiver.open({
      source,
      events,
      driver: this.#driver,
      publisher: this.#publisher,
      delays: this.#delays,
      topic: kafkaTopic,
      group: this.#names.group(topic.name, name),
      retry: this.#names.retry(topic.name, name),
      deadLetter: this.#names.deadLetter(topic.name, name),
      ownsRetry: this.#context.names.retry === undefined,
      startAt:
        startAt && new Map([...startAt].map(([partition, offset]) => [`${kafkaTopic}:${partition}`, offset] as const)),
      forgotten: () => this.#topology.forgotten(group),
      restore: () => this.#restore(group),
      target: this.#settings.target,
      requestTimeout: this.#settings.requestTimeout,
      clock,
      logger,
      ended: (ended) => this.#receivers.delete(ended),
    });
    this.#receivers.add(receiver);
    return receiver;
  }

  #restore({ topic, name, temporary }: GroupRef): Promise<void> {
    const groups = [{ name, temporary, startAt: 'earliest', options: undefined }] as const;
    return this.#makeAgain(`topic "${topic.name}" or what belongs to its group "${name}"`, [{ topic, groups }]);
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    return { value: await countDeadLetters(this.#admin, group), exact: true };
  }

  openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    return DeadLetterReader.open(this.#admin, group);
  }

  lag(group: GroupRef): Promise<Lag> {
    const mine = this.#members(group);
    const inFlight = mine.reduce((sum, receiver) => sum + receiver.inHand, 0);
    return readLag(this.#admin, group, inFlight, mine.length);
  }

  async seek(group: GroupRef, to: Position): Promise<void> {
    const offsets = await this.#topology.resolve(this.#names.topic(group.topic.name), to);
    await moveGroup(this.#admin, group, offsets);
  }

  #members(group: GroupRef): KafkaReceiver[] {
    return [...this.#receivers].filter(({ source }) => {
      return source.group.name === group.name && source.group.topic.name === group.topic.name;
    });
  }

  async ping(): Promise<void> {
    try {
      await this.#driver.connect();
    } catch (error) {
      throw connectionError(error, this.#settings.target);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#receivers].map((receiver) => receiver.close()));
    await this.#delays.close();
    this.#publisher.close();
    await this.#driver.close();
  }

  /** A broker could not be reached: looks whether any can, with back-off until one answers. */
  async #lookAround(): Promise<void> {
    const { clock, events } = this.#context;
    const { signal } = this.#closing;
    if (this.#looking) return;
    this.#looking = true;
    let down = false;
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        await this.#driver.connect();
        break;
      } catch (error) {
        if (!down) events.interrupted(connectionError(error, this.#settings.target));
        down = true;
      }
      await sleep(clock, backOff(failures, { initial: 100, max: 2_000 }), signal);
    }
    this.#looking = false;
    if (down && !signal.aborted) events.restored();
  }
}

const isLater = ({ deliverAt }: OutgoingMessage, now: number): boolean => deliverAt !== undefined && deliverAt > now;

/** A publish has no options for this adapter; what is meant for it and not known is refused (CFG-01). */
function optionFault({ topic, options }: OutgoingMessage): ConfigError | undefined {
  const [unknown] = Object.keys(options ?? {});
  if (unknown === undefined) return undefined;
  return new ConfigError(
    `broker.kafka.${unknown}`,
    `unknown option of a publish to topic "${topic.name}"; Kafka has none`,
  );
}
