import {
  type AdapterContext,
  type Capabilities,
  ConfigError,
  type Connection,
  type DeadLetterCount,
  type DeadLetterScan,
  type GroupRef,
  type Lag,
  nameOfGroup,
  type OutgoingMessage,
  type Position,
  type ProvisionItem,
  type Receiver,
  type ReceiverEvents,
  type SendResult,
  type Source,
  sleep,
  type Timer,
  type TopicInfo,
  UnsupportedError,
} from '@waybill/core/adapter';
import type { ChannelModel } from 'amqplib';
import { Admin } from './admin.ts';
import { capabilitiesOf, longestWait } from './capabilities.ts';
import { onScratchChannel } from './channel.ts';
import { ConfirmSender } from './confirm-sender.ts';
import { adapterName, requestFailure } from './errors.ts';
import { Link } from './link.ts';
import { BrokerNames } from './names.ts';
import type { Settings } from './options.ts';
import { Publisher } from './publisher.ts';
import { RabbitReceiver } from './receiver.ts';
import { Topology } from './topology.ts';

/** How often it is looked whether the topics' exchange is still there, in milliseconds. */
const exchangePulse = 5_000;
/**
 * How long a missing exchange is left to those who have groups on it. Their bindings went with it: if a publisher made
 * it again first, messages would be confirmed and reach nobody.
 */
const exchangePatience = 10_000;
/** Milliseconds in which the broker has to answer a ping. */
const pingPatience = 5_000;

/** The client library's own objects; both change with every reconnect, and are `undefined` in between. */
export interface RabbitmqNative {
  readonly publish: ChannelModel | undefined;
  readonly consume: ChannelModel | undefined;
}

/** An open adapter: two links, and what works on them. */
export class RabbitConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: RabbitmqNative;
  readonly #settings: Settings;
  readonly #context: AdapterContext;
  readonly #names: BrokerNames;
  readonly #consume: Link;
  readonly #publish: Link;
  readonly #topology: Topology;
  readonly #publisher: Publisher;
  readonly #copies: ConfirmSender;
  readonly #admin: Admin;
  readonly #receivers = new Set<RabbitReceiver>();
  #exchangeTimer: Timer | undefined;
  #exchangeMissingSince: number | undefined;
  #looking: Promise<void> | undefined;
  #repairingDelays: Promise<void> | undefined;
  #doubt: Promise<void> | undefined;
  #closed = false;

  private constructor(settings: Settings, context: AdapterContext, consume: Link, publish: Link) {
    this.#settings = settings;
    this.#context = context;
    this.#consume = consume;
    this.#publish = publish;
    const { clock, logger, names, namePrefix } = context;
    this.#names = new BrokerNames(namePrefix, names, settings.exchange);
    this.#topology = new Topology(consume, this.#names, settings);
    this.#copies = new ConfirmSender(publish, clock, settings.confirmTimeout);
    this.#publisher = new Publisher({
      sender: new ConfirmSender(publish, clock, settings.confirmTimeout),
      names: this.#names,
      topology: this.#topology,
      clock,
      logger,
      missing: (what) => (what === 'delay' ? this.#repairDelays() : void this.#lookForExchange()),
    });
    this.#admin = new Admin({ link: consume, copies: this.#copies, topology: this.#topology, clock });
    this.capabilities = capabilitiesOf(settings);
    this.native = {
      get publish() {
        return publish.isUp ? publish.model : undefined;
      },
      get consume() {
        return consume.isUp ? consume.model : undefined;
      },
    };
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<RabbitConnection> {
    let connection: RabbitConnection | undefined;
    const consume = await Link.open('consume', settings, context, {
      up: () => {
        if (connection !== undefined) connection.#topology.forget();
      },
      down: () => {
        if (connection !== undefined) connection.#doubtPublishing();
      },
    });
    try {
      const publish = await Link.open('publish', settings, context, {
        up: () => {
          if (connection !== undefined) connection.#publisher.forgetRoutes();
          context.events.restored();
        },
        down: (error) => context.events.interrupted(error),
      });
      connection = new RabbitConnection(settings, context, consume, publish);
      return connection;
    } catch (error) {
      await consume.close();
      throw error;
    }
  }

  describeTopic(name: string): Promise<TopicInfo | undefined> {
    return this.#topology.describe(name);
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    const differences = new Set<string>();
    for (const item of items) {
      const found = mode === 'create' ? this.#topology.create(item) : this.#topology.verify(item);
      for (const difference of await found) differences.add(difference);
    }
    return [...differences];
  }

  removeGroup(group: GroupRef): Promise<void> {
    return this.#topology.remove(group);
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    if (this.#doubt !== undefined) await this.#doubt;
    return this.#publisher.publish(batch);
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    const { clock, logger } = this.#context;
    const receiver = await RabbitReceiver.open({
      source,
      events,
      place: await this.#topology.placeOf(source.group),
      consume: this.#consume,
      publish: this.#publish,
      copies: this.#copies,
      names: this.#names,
      clock,
      logger,
      countsDeliveries: this.capabilities.countsDeliveries.supported,
      longestWait: longestWait(this.#settings.consumerTimeout),
      repair: () => this.#makeAgain(source),
      missing: (what) => (what === 'delay' ? this.#repairDelays() : this.#repairDeadLetters(source.group)),
      closed: (closed) => this.#receivers.delete(closed),
    });
    this.#receivers.add(receiver);
    if (this.#exchangeTimer === undefined) this.#watchExchange();
    return receiver;
  }

  countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    return this.#admin.countDeadLetters(group);
  }

  openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    return this.#admin.openDeadLetters(group);
  }

  lag(group: GroupRef): Promise<Lag> {
    return this.#admin.lag(group);
  }

  async seek(_group: GroupRef, _to: Position): Promise<void> {
    const { log } = this.capabilities;
    throw new UnsupportedError('log', adapterName, log.supported ? '' : log.reason);
  }

  async ping(): Promise<void> {
    const { clock } = this.#context;
    const patience = new AbortController();
    try {
      if (this.#publish.blocked !== undefined) throw new Error(`it takes no messages: ${this.#publish.blocked}`);
      await Promise.race([
        Promise.all([this.#consume, this.#publish].map((link) => onScratchChannel(link, async () => {}))),
        sleep(clock, pingPatience, patience.signal).then(() => {
          throw new Error(`no answer within ${pingPatience} ms`);
        }),
      ]);
    } catch (error) {
      throw requestFailure(error, `${this.#settings.target} does not answer`);
    } finally {
      patience.abort();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#exchangeTimer?.cancel();
    await Promise.all([this.#consume.close(), this.#publish.close()]);
  }

  /** What a receiver's group consists of, once more. @throws ConfigError where that is not ours to do */
  async #makeAgain(source: Source): Promise<void> {
    const { group, options } = source;
    const what = nameOfGroup(group);
    // A broadcast's queue is ours in every case.
    const ours = group.temporary && (await this.#topology.hasTopicsExchange());
    if (this.#context.topology !== 'create' && !ours) {
      throw new ConfigError('topology', `${what}: its queue or exchange was deleted; make it again, then subscribe`, {
        adapter: adapterName,
      });
    }
    this.#topology.forget();
    const { name, temporary } = group;
    const groups = [{ name, temporary, startAt: 'latest' as const, options }];
    const differences = await this.#topology.create({ topic: group.topic, groups });
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter: adapterName });
    this.#context.logger.warn(`rabbitmq: ${what}: its queue or exchange was deleted, and was made again`);
  }

  /**
   * What ends one link mostly ends both, and the other's end is already in the socket: whoever wrote to it before
   * looking could not say any more that nothing was sent.
   */
  #doubtPublishing(): void {
    const looked = new Promise<void>((resolve) => setImmediate(() => setImmediate(resolve)));
    this.#doubt = looked;
    void looked.then(() => {
      if (this.#doubt === looked) this.#doubt = undefined;
    });
  }

  #watchExchange(): void {
    if (this.#closed) return;
    this.#exchangeTimer = this.#context.clock.setTimeout(() => {
      void this.#lookForExchange().finally(() => this.#watchExchange());
    }, exchangePulse);
  }

  /** Each message of a batch may ask for it. */
  #lookForExchange(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  /** A deleted exchange takes the groups' bindings along, and nobody is told. */
  async #look(): Promise<void> {
    if (!this.#consume.isUp) return;
    const { clock, topology, logger } = this.#context;
    try {
      if (await this.#topology.hasTopicsExchange()) {
        this.#exchangeMissingSince = undefined;
        return;
      }
      const now = clock.monotonic();
      this.#exchangeMissingSince ??= now;
      if (this.#receivers.size > 0) {
        await Promise.all([...this.#receivers].map((receiver) => receiver.repair()));
      } else if (topology === 'create' && now - this.#exchangeMissingSince >= exchangePatience) {
        await this.#topology.createTopicsExchange();
        logger.warn(`rabbitmq: exchange "${this.#names.topics}" was deleted, and was made again`);
      }
    } catch (error) {
      logger.debug('rabbitmq: the exchange of the topics cannot be looked for, tried again', { error });
    }
  }

  #repairDelays(): void {
    if (this.#context.topology !== 'create') return;
    this.#repairingDelays ??= this.#topology
      .repairDelayLevels()
      .catch((error) => this.#context.logger.warn('rabbitmq: the delay levels cannot be made again', { error }))
      .finally(() => {
        this.#repairingDelays = undefined;
      });
  }

  #repairDeadLetters(group: GroupRef): void {
    const { topology, logger } = this.#context;
    const what = `the dead-letter queue of ${nameOfGroup(group)} is missing`;
    if (topology !== 'create') {
      logger.error(`rabbitmq: ${what}; make it again: its messages stay unsettled until then`);
      return;
    }
    this.#topology.createDeadLetters(group).then(
      () => logger.warn(`rabbitmq: ${what}, and was made again`),
      (error) => logger.warn(`rabbitmq: ${what}, and cannot be made again`, { error }),
    );
  }
}
