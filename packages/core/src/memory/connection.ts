import type {
  AdapterContext,
  Capabilities,
  Connection,
  DeadLetterCount,
  DeadLetterScan,
  GroupRef,
  Lag,
  OutgoingMessage,
  Position,
  ProvisionItem,
  Receiver,
  ReceiverEvents,
  SendResult,
  Source,
  TopicInfo,
} from '../adapter.ts';
import { countDeadLetters, lag, MemoryDeadLetterScan, seek } from './admin.ts';
import type { Broker } from './broker/broker.ts';
import { broadcastCleanup, type Link } from './broker/link.ts';
import type { MemoryBroker } from './client.ts';
import { refuseOptions } from './errors.ts';
import { notSent, publish } from './publisher.ts';
import { MemoryReceiver } from './receiver.ts';
import { Topology } from './topology.ts';

export interface ConnectionOptions {
  readonly broker: Broker;
  readonly native: MemoryBroker;
  readonly maxMessageBytes: number;
}

export class MemoryConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: MemoryBroker;
  readonly #link: Link;
  readonly #topology: Topology;
  readonly #makeTopics: boolean;
  readonly #receivers = new Set<MemoryReceiver>();

  /** @throws ConnectionError, ConfigError; see `Broker.connect` */
  constructor(context: AdapterContext, options: ConnectionOptions) {
    this.capabilities = capabilitiesOf(options);
    this.native = options.native;
    this.#link = options.broker.connect(context.clientName, context.clock, {
      cut: (error) => {
        context.events.interrupted(error);
        for (const receiver of this.#receivers) receiver.cut(error);
      },
      mended: () => {
        context.events.restored();
        for (const receiver of this.#receivers) receiver.mended();
      },
    });
    this.#topology = new Topology(this.#link, context);
    this.#makeTopics = context.topology === 'create';
  }

  async describeTopic(name: string): Promise<TopicInfo | undefined> {
    this.#link.check();
    return this.#topology.describe(name);
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    this.#link.check();
    return this.#topology.provision(items, mode);
  }

  async removeGroup(group: GroupRef): Promise<void> {
    this.#link.check();
    this.#topology.removeGroup(group);
  }

  async publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const { problem } = this.#link;
    if (problem !== undefined) return notSent(batch, problem);
    const { maxMessageBytes } = this.capabilities;
    return publish(this.#topology, batch, { maxMessageBytes, makeTopics: this.#makeTopics });
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    this.#link.check();
    refuseOptions(source.options);
    const receiver = new MemoryReceiver({
      topology: this.#topology,
      source,
      events,
      makeGroups: this.#makeTopics || source.group.temporary,
      closed: (one) => this.#receivers.delete(one),
    });
    this.#receivers.add(receiver);
    return receiver;
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    this.#link.check();
    return { value: countDeadLetters(this.#topology, group), exact: true };
  }

  async openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    this.#link.check();
    return new MemoryDeadLetterScan(this.#topology, group);
  }

  async lag(group: GroupRef): Promise<Lag> {
    this.#link.check();
    return lag(this.#topology, group);
  }

  async seek(group: GroupRef, to: Position): Promise<void> {
    this.#link.check();
    seek(this.#topology, group, to);
  }

  async ping(): Promise<void> {
    this.#link.check();
  }

  async close(): Promise<void> {
    for (const receiver of [...this.#receivers]) await receiver.close();
    this.#link.close();
  }
}

function capabilitiesOf({ broker, maxMessageBytes }: ConnectionOptions): Capabilities {
  const { messages, bytes } = broker.retention;
  return {
    lease: { kind: 'delivery', min: 1_000, max: 3_600_000, maxHandling: Number.POSITIVE_INFINITY },
    maxMessageBytes,
    maxDelay: Number.POSITIVE_INFINITY,
    // A send ends within its tick, so one at a time is never in the way and makes the largest batches.
    publish: { maxMessages: 1_000, maxBytes: 64 * 1_024 * 1_024, maxInFlight: 1 },
    log: { supported: true },
    groups: { supported: true },
    orderedAttempts: { supported: true },
    countsDeliveries: { supported: true },
    cleanJoin: { supported: true },
    knowsOrder: { supported: true },
    tellsLostPosition: { supported: true },
    openPeek: { supported: true },
    broadcastCleanup,
    retention: `Groups, retries, delays and dead letters live as long as the process. A topic keeps what any group has still to read, and beyond it up to ${messages} messages and ${bytes} bytes.`,
  };
}
