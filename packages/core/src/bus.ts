import { randomUUID } from 'node:crypto';
import type {
  Capabilities,
  Connection,
  ConnectionEvents,
  GroupRef,
  Lag,
  OutgoingMessage,
  Position,
  ProvisionItem,
  Topology,
} from './adapter.ts';
import { type Clock, sleep } from './clock.ts';
import { type Codec, jsonCodec } from './codec.ts';
import { type Call, throughMiddleware, withDiagnostics, withMiddleware } from './compose.ts';
import { type DeadLetters, deadLettersOf } from './dead-letters.ts';
import { type Duration, duration } from './duration.ts';
import { definitionOf, type EncodedMessage, forwarding } from './encoded.ts';
import {
  ClosedError,
  ConfigError,
  PublishError,
  PublishTimeoutError,
  UnsupportedError,
  WaybillError,
} from './errors.ts';
import { withInbox } from './inbox.ts';
import type { Logger } from './logger.ts';
import type { ReceivedMessage } from './message.ts';
import { checkName } from './names.ts';
import { isRetryable, Patience } from './patience.ts';
import { PublishQueue } from './publisher.ts';
import { checkRetriesInPlace } from './retry.ts';
import { Stream } from './stream.ts';
import { compileStart, compileSubscribeOptions, type JoinOptions } from './subscribe-options.ts';
import { Member, type SubscriptionSetup } from './subscription.ts';
import { type AnyTopic, type Consumer, isConsumer, resolveTopic, type TopicDefinition } from './topic.ts';
import { Topics } from './topics.ts';
import type {
  BatchHandler,
  BatchOptions,
  Bus,
  BusOptions,
  CloseOptions,
  Handler,
  Health,
  InboxHandler,
  InboxOption,
  MessageStream,
  NativeClients,
  ProvisionPlanItem,
  PublishOptions,
  PublishResult,
  Receipt,
  SubscribeOptions,
  Subscription,
} from './types.ts';
import { checkDelay, checkOrder, encodeMessage } from './validate.ts';

export interface BusSetup {
  readonly adapter: string;
  readonly connection: Connection;
  readonly options: BusOptions;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly connectTimeout: number;
  readonly publishTimeout: number;
  readonly maxPendingPublishes: number;
  readonly topology: Topology;
}

type State = 'open' | 'draining' | 'closed';

/** What of a publish's options counts once it is encoded. */
interface CarryOptions {
  readonly delay?: Duration;
  readonly deliverAt?: Date;
  readonly signal?: AbortSignal | undefined;
}

/** The bus over an open connection. */
export class ConnectedBus implements Bus, ConnectionEvents {
  readonly closed: Promise<void>;
  readonly #setup: BusSetup;
  readonly #connection: Connection;
  readonly #codec: Codec;
  readonly #queue: PublishQueue;
  readonly #topics: Topics;
  readonly #patience: Patience;
  readonly #members = new Map<string, Member>();
  readonly #reserved = new Set<string>();
  /** What bare names stand for, so that a name is checked once. */
  readonly #bareTopics = new Map<string, TopicDefinition>();
  #state: State = 'open';
  #closing: Promise<void> | undefined;
  #interruption: WaybillError | undefined;
  /** Publishes that were called and have not ended. */
  #publishing = 0;
  #published: (() => void) | undefined;
  /** Per topic, the end of those that wait before they can be sent. */
  readonly #lines = new Map<string, Promise<void>>();
  /** When the last delayed publish or retry of this bus is due, in wall time. */
  #dueUntil = 0;
  #endClosed: () => void;

  constructor(setup: BusSetup) {
    this.#setup = setup;
    this.#connection = setup.connection;
    this.#patience = new Patience(setup.clock);
    this.#codec = setup.options.codec ?? jsonCodec;
    this.#queue = new PublishQueue({
      adapter: setup.adapter,
      publish: (batch) => setup.connection.publish(batch),
      capabilities: setup.connection.capabilities,
      clock: setup.clock,
      publishTimeout: setup.publishTimeout,
      maxPending: setup.maxPendingPublishes,
    });
    this.#topics = new Topics({
      adapter: setup.adapter,
      connection: setup.connection,
      topology: setup.topology,
      patience: this.#patience,
      timeout: setup.publishTimeout,
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#endClosed = resolve;
  }

  get capabilities(): Capabilities {
    return this.#connection.capabilities;
  }

  async publish<T extends AnyTopic | string>(topic: T, data: unknown, options: PublishOptions = {}): Promise<Receipt> {
    const definition = this.#definition(topic);
    const middleware = this.#setup.options.middleware?.publish;
    if (middleware === undefined || middleware.length === 0) return this.#publish(definition, data, options);
    return throughMiddleware(middleware, definition, data, options, (final) => this.#publish(definition, data, final));
  }

  publishBatch<T extends AnyTopic | string>(
    topic: T,
    items: readonly ({ readonly data: unknown } & PublishOptions)[],
  ): Promise<PublishResult[]> {
    return Promise.all(
      items.map(async ({ data, ...options }): Promise<PublishResult> => {
        try {
          return { ok: true, receipt: await this.publish(topic, data, options) };
        } catch (error) {
          if (WaybillError.is(error)) return { ok: false, error };
          // Thrown by middleware, before or after it called on: whether it was stored is not known here.
          return { ok: false, error: new PublishError(describe(error), { cause: error, outcome: 'unknown' }) };
        }
      }),
    );
  }

  subscribe<T extends AnyTopic | string, Tx>(
    topic: T,
    options: SubscribeOptions & InboxOption<Tx>,
    handler: InboxHandler<T, Tx>,
  ): Promise<Subscription>;
  subscribe<T extends AnyTopic | string>(
    topic: T,
    options: SubscribeOptions,
    handler: Handler<T>,
  ): Promise<Subscription>;
  subscribe(consumer: Consumer): Promise<Subscription>;
  async subscribe(
    topic: AnyTopic | string | Consumer,
    options?: JoinOptions,
    handler?: (message: never, tx: never) => unknown,
  ): Promise<Subscription> {
    if (isConsumer(topic)) return this.#subscribe(topic.topic, topic.options, topic.handler);
    return this.#subscribe(topic, options as JoinOptions, handler);
  }

  async subscribeBatch<T extends AnyTopic | string>(
    topic: T,
    options: SubscribeOptions & BatchOptions,
    handler: BatchHandler<T>,
  ): Promise<Subscription> {
    checkHandler(handler);
    if (options?.batch === undefined) throw new ConfigError('batch', 'is needed: { size, wait? }');
    return this.#join(topic, options, (messages, signal) => handler(messages as never, signal as AbortSignal), false);
  }

  async messages<T extends AnyTopic | string>(topic: T, options: SubscribeOptions): Promise<MessageStream<T>> {
    checkNo('batch', 'subscribeBatch', options);
    checkNo('inbox', 'subscribe', options);
    const stream = new Stream();
    const member = await this.#join(topic, options, ([message]) => stream.handle(message as ReceivedMessage), true);
    return stream.attach(member) as unknown as MessageStream<T>;
  }

  deadLetters(topic: AnyTopic | string, group: string): DeadLetters {
    const definition = this.#definition(topic);
    checkName('group', group);
    return deadLettersOf({
      connection: this.#connection,
      group: () => this.#group(definition, group),
      codec: definition.codec ?? this.#codec,
      clock: this.#setup.clock,
    });
  }

  async lag(topic: AnyTopic | string, group: string): Promise<Lag> {
    return this.#connection.lag(await this.#group(this.#definition(topic), group));
  }

  async seek(topic: AnyTopic | string, group: string, to: Position): Promise<void> {
    this.#checkOpen();
    const { log } = this.capabilities;
    if (!log.supported) throw new UnsupportedError('log', this.#setup.adapter, log.reason);
    checkPosition(to);
    await this.#connection.seek(await this.#group(this.#definition(topic), group), to);
  }

  async provision(plan: readonly (Consumer | ProvisionPlanItem)[]): Promise<void> {
    this.#checkOpen();
    const { topology, adapter } = this.#setup;
    const items: ProvisionItem[] = [];
    const differences: string[] = [];
    for (const one of plan) {
      const definition = this.#definition(one.topic);
      const groups = isConsumer(one) ? [one.options] : one.groups.map((group): SubscribeOptions => ({ group }));
      const named = groups.filter((options) => options.group !== undefined);
      for (const { group } of named) checkName('group', group);
      try {
        items.push({
          topic: await this.#topics.ensure(definition),
          groups: named.map((options) => ({
            name: options.group as string,
            temporary: false,
            startAt: compileStart(options.startNewGroupAt ?? 'latest', adapter, this.capabilities),
            options: options.broker?.[adapter],
          })),
        });
      } catch (error) {
        if (!WaybillError.is(error, 'CONFIG')) throw error;
        differences.push(error.message);
      }
    }
    if (topology !== 'none') {
      differences.push(...(await this.#connection.provision(items, topology)));
    }
    if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter });
  }

  async removeGroup(topic: AnyTopic | string, group: string): Promise<void> {
    const definition = this.#definition(topic);
    const key = memberKey(definition.name, group);
    if (this.#running(key)) {
      throw new ConfigError('group', `"${group}" has a subscription in this bus; close that first`);
    }
    this.#checkOpen();
    checkName('group', group);
    const on = await this.#topics.look(definition);
    if (on !== undefined) await this.#connection.removeGroup({ topic: on, name: group, temporary: false });
    this.#members.delete(key);
  }

  async health(): Promise<Health> {
    const subscriptions = [...this.#members.values()].map((member) => {
      const { topic, group, state, problem } = member;
      return problem === undefined ? { topic, group, state } : { topic, group, state, error: problem };
    });
    let reason = this.#state === 'open' ? this.#interruption?.message : 'the bus is closed';
    if (reason === undefined) reason = await this.#connection.ping().then(() => undefined, describe);
    if (reason !== undefined) return { status: 'down', reason, subscriptions };
    const ailing = subscriptions.find((one) => one.error !== undefined || one.state === 'failed');
    if (ailing === undefined) return { status: 'up', subscriptions };
    return {
      status: 'degraded',
      reason: `topic "${ailing.topic}", group "${ailing.group}": ${ailing.error ?? ailing.state}`,
      subscriptions,
    };
  }

  async idle(): Promise<void> {
    for (;;) {
      await this.#queue.idle();
      if (await this.#quiet()) return;
      await sleep(this.#setup.clock, 20);
    }
  }

  native<K extends keyof NativeClients>(adapter: K): NativeClients[K] {
    if (adapter !== this.#setup.adapter) {
      throw new ConfigError('adapter', `this bus runs on ${this.#setup.adapter}, not on ${String(adapter)}`);
    }
    return this.#connection.native as NativeClients[K];
  }

  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(duration(options.timeout ?? '25s', 'timeout'));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ConnectionEvents

  interrupted(error: WaybillError): void {
    this.#interruption = error;
    this.#queue.interrupted(error);
    this.#setup.logger.warn('connection interrupted, reconnecting', { reason: error.message });
  }

  restored(): void {
    this.#interruption = undefined;
    this.#patience.wake();
    this.#queue.restored();
    this.#setup.logger.info('connection restored');
  }

  async #subscribe(
    topic: AnyTopic | string,
    options: JoinOptions,
    handler: ((message: never, tx: never) => unknown) | undefined,
  ): Promise<Subscription> {
    checkHandler(handler);
    checkNo('batch', 'subscribeBatch', options);
    return this.#join(topic, options, ([message], _, tx) => handler(message as never, tx as never), false);
  }

  async #publish(definition: TopicDefinition, data: unknown, options: PublishOptions): Promise<Receipt> {
    this.#checkNotClosed();
    const { clock, adapter } = this.#setup;
    // The look at the topic comes out of the publish's time, too.
    const since = clock.monotonic();
    const context = { codec: this.#codec, clock, adapter, maxDelay: this.capabilities.maxDelay };
    const known = this.#topics.known(definition);
    // Validated before anything is asked of the broker: what is wrong is wrong at the call (PUB-10).
    const encoded = encodeMessage(definition, known ?? this.#topics.declared(definition), data, options, context);
    return this.#carry(definition, known !== undefined, encoded, options, since);
  }

  /** For `send` of `@waybill/core/outbox`: a message that was encoded before, maybe by another process. */
  async [forwarding](message: EncodedMessage, { signal }: { readonly signal?: AbortSignal }): Promise<Receipt> {
    this.#checkNotClosed();
    const { clock, adapter } = this.#setup;
    const { topic, broker, deliverAt, ...rest } = message;
    const definition = definitionOf(topic);
    const known = this.#topics.known(definition);
    const on = known ?? this.#topics.declared(definition);
    if (deliverAt !== undefined) checkDelay('deliverAt', deliverAt - clock.now(), this.capabilities.maxDelay, adapter);
    const held = deliverAt === undefined ? {} : { deliverAt: new Date(deliverAt) };
    checkOrder(on, message.key, held);
    const outgoing = { ...rest, topic: on, deliverAt, options: broker?.[adapter] };
    return this.#carry(definition, known !== undefined, outgoing, { ...held, signal }, clock.monotonic());
  }

  async #carry(
    definition: TopicDefinition,
    known: boolean,
    encoded: OutgoingMessage | Promise<OutgoingMessage>,
    options: CarryOptions,
    since: number,
  ): Promise<Receipt> {
    this.#publishing++;
    try {
      const line = this.#lines.get(definition.name);
      const ready = known && line === undefined && !(encoded instanceof Promise);
      const message = ready ? encoded : await this.#inLine(definition, encoded, options, since);
      return await this.#send(definition, message, options, since);
    } finally {
      this.#publishing--;
      if (this.#publishing === 0) this.#published?.();
    }
  }

  async #send(
    definition: TopicDefinition,
    message: OutgoingMessage,
    options: CarryOptions,
    since: number,
  ): Promise<Receipt> {
    if (message.deliverAt !== undefined) this.#due(message.deliverAt);
    try {
      return await this.#queue.send(message, { signal: options.signal, since });
    } catch (error) {
      // What was wrong may be that the topic is gone; the next publish looks again.
      if (!options.signal?.aborted && !WaybillError.is(error, 'MESSAGE_TOO_LARGE')) this.#topics.forget(definition);
      throw error;
    }
  }

  /**
   * A publish that has to wait for its schema or for the first look at its topic. Those of one topic leave in the
   * order of the calls, so that a slow one is not overtaken (PUB-08).
   */
  #inLine(
    definition: TopicDefinition,
    encoded: OutgoingMessage | Promise<OutgoingMessage>,
    options: CarryOptions,
    since: number,
  ): Promise<OutgoingMessage> {
    // Bounded, whatever it waits for: a schema that hangs must not hold up those behind it for ever.
    const prepared = this.#inTime(definition, since, this.#prepare(definition, encoded, options, since));
    prepared.catch(() => {});
    const turn = (this.#lines.get(definition.name) ?? Promise.resolve()).then(() => prepared);
    const line: Promise<void> = turn.then(
      () => {},
      () => {},
    );
    this.#lines.set(definition.name, line);
    void line.then(() => {
      if (this.#lines.get(definition.name) === line) this.#lines.delete(definition.name);
    });
    return unlessAborted(turn, definition.name, options.signal);
  }

  /** What the work gives, at the latest when the time of a publish that was called then is up (PUB-06). */
  #inTime<T>(definition: TopicDefinition, since: number, work: Promise<T>): Promise<T> {
    const { clock, publishTimeout, adapter } = this.#setup;
    return new Promise((resolve, reject) => {
      const giveUp = (): void =>
        reject(
          new PublishTimeoutError(
            `topic "${definition.name}": a publish could not be made ready within ${publishTimeout} ms; it was not sent`,
            { adapter, cause: this.#interruption, outcome: 'not-sent' },
          ),
        );
      const timer = clock.setTimeout(giveUp, Math.max(0, since + publishTimeout - clock.monotonic()));
      work.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  async #prepare(
    definition: TopicDefinition,
    encoded: OutgoingMessage | Promise<OutgoingMessage>,
    options: CarryOptions,
    since: number,
  ): Promise<OutgoingMessage> {
    const message = await encoded;
    const topic = await this.#ensureForPublish(definition, since);
    checkOrder(topic, message.key, options);
    return { ...message, topic };
  }

  async #ensureForPublish(definition: TopicDefinition, since: number): Promise<OutgoingMessage['topic']> {
    const { clock, publishTimeout, adapter } = this.#setup;
    const until = since + publishTimeout;
    for (;;) {
      try {
        return await this.#topics.ensure(definition);
      } catch (error) {
        if (!isRetryable(error)) throw error;
        // The look was begun by an earlier publish, whose time is up; ours may not be.
        if (clock.monotonic() < until && this.#state !== 'closed') continue;
        const why = error instanceof Error ? error.message : String(error);
        throw new PublishTimeoutError(
          `topic "${definition.name}": the broker could not be asked within ${publishTimeout} ms: ${why}`,
          { adapter, cause: error, outcome: 'not-sent' },
        );
      }
    }
  }

  /** A group that exists keeps its place, whatever `startNewGroupAt` says. Nothing fails because this cannot be told. */
  async #tellIgnoredStart(item: ProvisionItem): Promise<void> {
    const { logger } = this.#setup;
    const [group] = item.groups;
    const what = `topic "${item.topic.name}", group "${group?.name}"`;
    try {
      const differences = await this.#connection.provision([item], 'verify');
      if (differences.length > 0) return;
      logger.info(`${what}: the group exists and keeps its place: startNewGroupAt is ignored, seek() moves it`);
    } catch (error) {
      logger.debug(`${what}: whether the group exists could not be asked`, { error });
    }
  }

  async #join(topic: AnyTopic | string, options: JoinOptions, call: Call, stream: boolean): Promise<Member> {
    this.#checkOpen();
    const { adapter, clock, logger, topology } = this.#setup;
    const definition = this.#definition(topic);
    if (definition.event !== undefined) {
      throw new ConfigError('topic', `subscribe to "${definition.name}" itself: every event of it comes to its groups`);
    }
    const settings = compileSubscribeOptions(options, {
      adapter,
      capabilities: this.capabilities,
      middleware: this.#setup.options.middleware?.consume ?? [],
      idempotency: this.#setup.options.idempotency,
      logger,
    });
    const temporary = settings.group === undefined;
    const group = settings.group ?? `broadcast-${randomUUID()}`;
    const key = memberKey(definition.name, group);
    if (this.#running(key) || this.#reserved.has(key)) {
      throw new ConfigError(
        'group',
        `topic "${definition.name}", group "${group}" has a subscription in this bus already`,
      );
    }
    this.#reserved.add(key);
    try {
      const on = await this.#topics.ensure(definition);
      const { ordered } = on;
      const several = this.capabilities.groups;
      if (temporary && !several.supported) throw new UnsupportedError('groups', adapter, several.reason);
      const inPlace = temporary || (ordered && !this.capabilities.orderedAttempts.supported);
      if (inPlace) checkRetriesInPlace(settings.retry, this.capabilities.lease.maxHandling, adapter);
      if (topology !== 'none' || temporary) {
        const mode = topology === 'verify' && !temporary ? 'verify' : 'create';
        const groups = [{ name: group, temporary, startAt: settings.startAt, options: settings.brokerOptions }];
        const item = { topic: on, groups };
        if (settings.startAt !== 'latest' && !temporary && mode === 'create') await this.#tellIgnoredStart(item);
        const differences = await this.#patiently(() => this.#connection.provision([item], mode));
        if (differences.length > 0) throw new ConfigError('topology', differences.join('; '), { adapter });
      }
      const place = { adapter, topic: definition.name, group };
      const told = withDiagnostics(call, place, () => clock.monotonic());
      const setup: SubscriptionSetup = {
        ...place,
        definition,
        codec: this.#codec,
        settings,
        ordered,
        inPlace,
        stream,
        capabilities: this.capabilities,
        clock,
        logger,
        handle: withMiddleware(
          settings.inbox === undefined ? told : withInbox(told, settings.inbox.store),
          settings.middleware,
          settings.batch.asked,
        ),
        due: (at) => this.#due(at),
        connection: this.#connection,
        groupRef: { topic: on, name: group, temporary },
        ended: () => {
          // A failed one stays, so that health tells of it.
          if (this.#members.get(key)?.state !== 'failed') this.#members.delete(key);
        },
      };
      const member = await this.#patiently(() => Member.join(setup));
      this.#members.set(key, member);
      if (this.#state !== 'open') {
        await member.close({ timeout: 0 });
        throw new ClosedError('the bus');
      }
      return member;
    } finally {
      this.#reserved.delete(key);
    }
  }

  /** A subscription that begins while the bus reconnects waits for it as long as `connect` would. */
  #patiently<T>(ask: () => Promise<T>): Promise<T> {
    return this.#patience.ask(this.#setup.connectTimeout, ask);
  }

  /** A failed subscription stays for `health()`, and stands in nobody's way. */
  #running(key: string): boolean {
    const member = this.#members.get(key);
    return member !== undefined && member.state !== 'failed';
  }

  async #group(definition: TopicDefinition, name: string): Promise<GroupRef> {
    this.#checkOpen();
    checkName('group', name);
    const topic = await this.#topics.look(definition);
    if (topic !== undefined) return { topic, name, temporary: false };
    throw new ConfigError('topic', `there is no topic "${definition.name}" on the broker`, {
      adapter: this.#setup.adapter,
    });
  }

  async #quiet(): Promise<boolean> {
    const overdue = this.#setup.clock.now() - this.#dueUntil;
    if (overdue < 0) return false;
    const members = [...this.#members.values()].filter((member) => member.state !== 'failed');
    if (members.some((member) => !member.idle)) return false;
    for (const member of members) {
      const { waiting, delayed, inFlight, exact } = await this.lag(member.topic, member.group);
      if (waiting + delayed + inFlight > 0 || (!exact && overdue < arrival)) return false;
    }
    return members.every((member) => member.idle) && this.#queue.pending === 0 && this.#publishing === 0;
  }

  async #close(timeout: number): Promise<void> {
    const { clock } = this.#setup;
    const until = clock.monotonic() + timeout;
    this.#state = 'draining';
    await Promise.all([...this.#members.values()].map((member) => member.close({ timeout })));
    await this.#allPublished(until);
    await this.#queue.flush(Math.max(0, until - clock.monotonic()));
    this.#queue.close();
    this.#state = 'closed';
    this.#patience.end();
    await this.#connection.close();
    this.#endClosed();
  }

  /** Resolves when every publish that was called has ended, at the latest at this monotonic time. */
  async #allPublished(until: number): Promise<void> {
    if (this.#publishing === 0) return;
    const giveUp = new AbortController();
    this.#published = () => giveUp.abort();
    const { clock } = this.#setup;
    await sleep(clock, Math.max(0, until - clock.monotonic()), giveUp.signal);
  }

  #definition(topic: AnyTopic | string): TopicDefinition {
    if (typeof topic !== 'string') return resolveTopic(topic);
    let definition = this.#bareTopics.get(topic);
    if (definition === undefined) {
      definition = resolveTopic(topic);
      this.#bareTopics.set(topic, definition);
    }
    return definition;
  }

  #due(at: number): void {
    if (at > this.#dueUntil) this.#dueUntil = at;
  }

  #checkOpen(): void {
    if (this.#state !== 'open') throw new ClosedError('the bus');
  }

  /** While draining, handlers that finish may still publish. */
  #checkNotClosed(): void {
    if (this.#state === 'closed') throw new ClosedError('the bus');
  }
}

/** How long a message may be on its way when its time has come and the broker cannot tell, in milliseconds. */
const arrival = 1_000;

const memberKey = (topic: string, group: string): string => `${topic}\0${group}`;

function checkHandler(handler: unknown): asserts handler is (...args: never[]) => unknown {
  if (typeof handler !== 'function') throw new ConfigError('handler', 'is not a function');
}

function checkNo(option: 'batch' | 'inbox', belongsTo: string, options: Partial<JoinOptions> | undefined): void {
  if (options?.[option] !== undefined) throw new ConfigError(option, `belongs to ${belongsTo}`);
}

function checkPosition(to: Position): void {
  if (to === 'earliest' || to === 'latest' || (to instanceof Date && !Number.isNaN(to.getTime()))) return;
  if (typeof (to as { position?: unknown } | null)?.position === 'string') return;
  throw new ConfigError('to', "write 'latest', 'earliest', a Date or { position }");
}

/** A wait for schema and topic ends for the caller when he cancels (PUB-07). */
function unlessAborted<T>(work: Promise<T>, topic: string, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const cancel = (): void =>
      reject(
        new PublishError(`a publish to topic "${topic}" was cancelled before it was sent`, {
          outcome: 'not-sent',
          cause: signal.reason,
        }),
      );
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', cancel));
  });
}

const describe = (error: unknown): string => (error instanceof Error ? error.message : String(error));
