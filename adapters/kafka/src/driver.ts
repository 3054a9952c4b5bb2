/**
 * What this adapter asks of a Kafka client library: requests, and nothing that decides. Group membership, fetching,
 * committing and batching are written once above it, so that they act the same with every library.
 *
 * Rules for an implementation:
 * - Every promise settles within the driver's own time-outs, also when the brokers are gone.
 * - Whatever fails is a `KafkaFailure`. What the broker refuses of one topic or partition of a request is a value in
 *   the answer and not a rejection, because the others of the request have succeeded.
 * - Nothing is retried, except that a broker is looked for again where a request has not been written yet, and that a
 *   broker which says that it is still starting is waited for.
 * - A broker answers the requests of one connection in their order, so what may wait at the broker (fetch, join) has a
 *   connection of its own.
 */

/** Why a request did not succeed. `code` is Kafka's own name for it, or one of the driver's. */
export class KafkaFailure extends Error {
  readonly code: string;
  /** Whether the broker may have seen the request. */
  readonly sent: boolean;

  constructor(code: FailureCode | (string & {}), message: string, options: { sent: boolean; cause?: unknown }) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'KafkaFailure';
    this.code = code;
    this.sent = options.sent;
  }
}

export type FailureCode =
  /** The connection could not be made, or was lost. */
  | 'CONNECTION'
  /** No answer in time. */
  | 'TIMEOUT'
  /** The broker refused the credentials. */
  | 'AUTHENTICATION'
  /** TLS against a listener without it, an unknown certificate and the like. */
  | 'TLS'
  /** The driver has been closed. */
  | 'CLOSED'
  /** Something that the library cannot read or write, such as a compression it has no codec for. */
  | 'UNREADABLE';

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

export interface PartitionInfo {
  readonly partition: number;
  /** Id of the broker that leads it; `undefined` while there is none. */
  readonly leader: number | undefined;
}

export interface NewTopic {
  readonly topic: string;
  readonly partitions: number;
  /** -1: the broker's default. */
  readonly replicationFactor: number;
  readonly config: Readonly<Record<string, string>>;
}

export type Headers = Readonly<Record<string, Buffer | string | readonly (Buffer | string)[] | undefined>>;

/** Headers to be filled; they inherit nothing, because a header may be named `constructor` or `__proto__`. */
export const newHeaders = <Value>(): Record<string, Value> => new Bare() as Record<string, Value>;

// An object that is made without prototype is much slower to fill.
class Bare {}
Object.setPrototypeOf(Bare.prototype, null);
Reflect.deleteProperty(Bare.prototype, 'constructor');

/** A record to be written. */
export interface OutgoingRecord {
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: Headers;
  /** Milliseconds since the epoch. */
  readonly timestamp: number;
}

/** A record as it was read. */
export interface FetchedRecord {
  readonly offset: number;
  readonly timestamp: number;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: Headers;
}

export interface Producer {
  readonly id: string;
  readonly epoch: number;
}

/** Records for one partition, stored together or not at all. */
export interface RecordBatch extends TopicPartition {
  readonly records: readonly OutgoingRecord[];
  /** Sequence number of the first record: the broker drops a batch that it has already. */
  readonly sequence: number;
}

/** The end of a log (`latest`), its beginning, or the first record at or after a time. */
export type OffsetAt = 'earliest' | 'latest' | number;

export interface FetchAsk extends TopicPartition {
  readonly offset: number;
  /** A first batch larger than this comes all the same. */
  readonly maxBytes: number;
}

export interface FetchAnswer {
  readonly records: readonly FetchedRecord[];
  /** Where to read on: past what was filtered out as well. */
  readonly next: number;
  /** First offset that cannot be read yet. */
  readonly end: number;
}

export interface Committed {
  readonly offset: number;
  readonly metadata: string;
}

export interface CommitEntry extends TopicPartition, Committed {}

export interface MemberRef {
  readonly id: string;
  readonly generation: number;
}

export interface GroupDescription {
  /** Kafka's name of the state: `Empty`, `Dead`, `Stable`, … */
  readonly state: string;
  readonly members: readonly string[];
}

export interface JoinAnswer extends MemberRef {
  readonly leader: string;
  /** Filled for the leader alone. */
  readonly members: readonly { readonly id: string; readonly metadata: Buffer }[];
}

/** One member's own connection to the coordinator of its group. */
export interface GroupLink {
  /** Waits at the broker until the others have joined; `named` is told the id that a new member gets. */
  join(member: string, protocol: string, metadata: Buffer, named: (id: string) => void): Promise<JoinAnswer>;
  sync(member: MemberRef, assignments: readonly { id: string; assignment: Buffer }[]): Promise<Buffer>;
  heartbeat(member: MemberRef): Promise<void>;
  /** Not held up by a join that waits. */
  leave(member: string): Promise<void>;
  /** Looks for the coordinator again before the next request. */
  moved(): void;
  /** Drops the connection at once, with what waits on it. */
  close(): void;
}

/** A reader's own connections. */
export interface FetchLink {
  /** Partitions that one broker leads, answered in the order of the asks. */
  fetch(broker: number, asks: readonly FetchAsk[], wait: number): Promise<readonly (FetchAnswer | KafkaFailure)[]>;
  /** Drops the connections at once, with what waits on them. */
  close(): void;
}

export interface Driver {
  /** The library's own client object, for the user. */
  readonly native: unknown;

  /** Reaches one broker and logs in. @throws KafkaFailure */
  connect(): Promise<void>;
  /** Topics with their partitions, read anew; a missing one is `UNKNOWN_TOPIC_OR_PARTITION`. Creates none. */
  describeTopics(names: readonly string[]): Promise<Map<string, readonly PartitionInfo[] | KafkaFailure>>;
  /** The partitions of a topic, from memory for some minutes unless `forget` was called. @throws KafkaFailure */
  partitions(topic: string): Promise<readonly PartitionInfo[]>;
  forget(topic: string): void;
  createTopics(topics: readonly NewTopic[]): Promise<Map<string, KafkaFailure | undefined>>;
  deleteTopics(names: readonly string[]): Promise<Map<string, KafkaFailure | undefined>>;
  topicConfig(
    names: readonly string[],
    keys: readonly string[],
  ): Promise<Map<string, ReadonlyMap<string, string> | KafkaFailure>>;
  /** `undefined`: no record at or after that time. */
  offsets(
    asks: readonly (TopicPartition & { readonly at: OffsetAt })[],
  ): Promise<readonly (number | undefined | KafkaFailure)[]>;

  /** Gives the space of everything before an offset back to the broker. */
  deleteRecords(before: readonly (TopicPartition & { readonly offset: number })[]): Promise<void>;

  newProducer(): Promise<Producer>;
  /**
   * Writes batches to partitions that this broker leads, at most one a partition; answers with the offset of each
   * batch's first record.
   */
  produce(
    broker: number,
    producer: Producer,
    batches: readonly RecordBatch[],
  ): Promise<readonly (number | KafkaFailure)[]>;

  /** What a group has committed; `undefined` where it has nothing. */
  committed(
    group: string,
    partitions: readonly TopicPartition[],
  ): Promise<readonly (Committed | undefined | KafkaFailure)[]>;
  /** Without a member only for a group that has none. The offsets never expire. */
  commit(
    group: string,
    member: MemberRef | undefined,
    entries: readonly CommitEntry[],
  ): Promise<readonly (KafkaFailure | undefined)[]>;
  describeGroup(group: string): Promise<GroupDescription>;
  deleteGroup(group: string): Promise<KafkaFailure | undefined>;

  openFetch(): FetchLink;
  openGroup(group: string, timeouts: { readonly session: number; readonly rebalance: number }): GroupLink;
  /** Drops every connection. */
  close(): Promise<void>;
}
