import type { DatabaseSync } from 'node:sqlite';
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
} from '@waybill/core/adapter';
import { countDeadLetters, lag, SqliteDeadLetterScan, seek } from './admin.ts';
import { capabilitiesOf } from './capabilities.ts';
import { refuseOptions } from './errors.ts';
import type { Settings } from './options.ts';
import { publish } from './publisher.ts';
import { SqliteReceiver } from './receiver.ts';
import { Store } from './store.ts';
import { Topology } from './topology.ts';
import { Upkeep } from './upkeep.ts';

/** `bus.native('sqlite')`. */
export interface SqliteNative {
  /**
   * The open file. To be read at will; what is written here is in nobody's transaction but its own. Another one after
   * the file was replaced, so ask each time.
   */
  readonly database: DatabaseSync;
}

export class SqliteConnection implements Connection {
  readonly capabilities: Capabilities;
  readonly native: SqliteNative;
  readonly #store: Store;
  readonly #topology: Topology;
  readonly #upkeep: Upkeep;
  readonly #makeTopics: boolean;
  readonly #receivers = new Set<SqliteReceiver>();
  readonly #temporary = new Set<SqliteReceiver>();

  /** @throws ConnectionError that says why the file cannot be used */
  constructor(settings: Settings, context: AdapterContext) {
    this.capabilities = capabilitiesOf(settings);
    const store = new Store(settings, context);
    this.#store = store;
    this.native = {
      get database() {
        return store.database.handle;
      },
    };
    this.#topology = new Topology(settings.target, { ...context, clock: store.clock });
    this.#makeTopics = context.topology === 'create';
    store.listen({
      interrupted: (error) => context.events.interrupted(error),
      restored: () => context.events.restored(),
      changed() {},
    });
    this.#upkeep = new Upkeep(store, () => [...this.#temporary].map(({ group }) => group.id), context.logger);
  }

  async describeTopic(name: string): Promise<TopicInfo | undefined> {
    return this.#store.read((database) => this.#topology.describe(database, name));
  }

  async provision(items: readonly ProvisionItem[], mode: 'create' | 'verify'): Promise<readonly string[]> {
    if (mode === 'verify') return this.#store.read((database) => this.#topology.provision(database, items, mode));
    return await this.#store.write((database) => this.#topology.provision(database, items, mode));
  }

  async removeGroup(group: GroupRef): Promise<void> {
    await this.#store.write((database) => {
      const found = this.#topology.findGroup(database, group);
      if (found === undefined) return;
      // Its rows are swept a few at a time; nobody sees them any more.
      database.run('DELETE FROM groups WHERE id = ?', found.id);
      database.touched.add(found.topic);
    });
  }

  publish(batch: readonly OutgoingMessage[]): Promise<readonly SendResult[]> {
    const { maxMessageBytes } = this.capabilities;
    return publish(this.#store, this.#topology, batch, { maxMessageBytes, makeTopics: this.#makeTopics });
  }

  async openReceiver(source: Source, events: ReceiverEvents): Promise<Receiver> {
    refuseOptions(source.options);
    const { temporary } = source.group;
    const receiver = this.#store.read(
      (database) =>
        new SqliteReceiver(
          {
            store: this.#store,
            topology: this.#topology,
            source,
            events,
            makeGroups: this.#makeTopics || temporary,
            closed: (one) => {
              this.#receivers.delete(one);
              this.#temporary.delete(one);
            },
          },
          database,
        ),
    );
    this.#receivers.add(receiver);
    if (temporary) this.#temporary.add(receiver);
    return receiver;
  }

  async countDeadLetters(group: GroupRef): Promise<DeadLetterCount> {
    const value = this.#store.read((database) => countDeadLetters(database, this.#topology, group));
    return { value, exact: true };
  }

  async openDeadLetters(group: GroupRef): Promise<DeadLetterScan> {
    return new SqliteDeadLetterScan(this.#store, this.#topology, group);
  }

  async lag(group: GroupRef): Promise<Lag> {
    return this.#store.read((database) => lag(database, this.#topology, group, this.#store.clock.now()));
  }

  async seek(group: GroupRef, to: Position): Promise<void> {
    await this.#store.write((database) => seek(database, this.#topology, group, to, this.#store.clock.now()));
  }

  async ping(): Promise<void> {
    this.#store.read((database) => database.version());
  }

  async close(): Promise<void> {
    for (const receiver of [...this.#receivers]) await receiver.close();
    await this.#upkeep.close();
    await this.#store.close();
  }
}
