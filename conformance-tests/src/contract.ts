/** The promises of the contract, in the order of `contract.md`: what the suite proves and the parity table lists. */

export const promises = [
  promise('GUAR-01', 'guarantees', 'delivers at least once, and twice only for a stated cause'),
  promise('GUAR-02', 'guarantees', 'drops the late settle of a member that has lost the message'),

  promise('PUB-01', 'publishing', 'resolves a publish only when the message is stored for every group'),
  promise('PUB-02', 'publishing', 'carries body, type, headers, key, id and time unchanged'),
  promise('PUB-03', 'publishing', 'takes a body up to the limit and refuses one over it'),
  promise('PUB-04', 'publishing', 'settles thousands of publishes in flight, each for itself'),
  promise('PUB-05', 'publishing', 'gives a result per message of a batch, in order'),
  promise('PUB-06', 'publishing', 'waits for the reconnect up to the time-out, in bounded memory'),
  promise('PUB-07', 'publishing', 'cancels a publish that has not been handed over'),
  promise('PUB-08', 'publishing', 'stores the messages of a key in the order of the calls'),
  promise('PUB-09', 'publishing', 'publishes to a topic without groups'),
  promise('PUB-10', 'publishing', 'rejects invalid input at the call, naming the field'),

  promise('SUB-01', 'subscribing', 'gives every group every message, and each to one member'),
  promise('SUB-02', 'subscribing', 'resolves a subscribe when the group exists'),
  promise('SUB-03', 'subscribing', 'keeps the place of a group whose members are away'),
  promise('SUB-04', 'subscribing', 'bounds handlers and the buffer ahead of them'),
  promise('SUB-05', 'subscribing', 'runs as many handlers at once as asked'),
  promise('SUB-06', 'subscribing', 'shares the work with members that come and go'),
  promise('SUB-07', 'subscribing', 'broadcasts to every subscription and cleans up after it'),
  promise('SUB-08', 'subscribing', 'pauses and resumes without loss'),
  promise('SUB-09', 'subscribing', 'works beside foreign producers and consumers'),
  promise('SUB-10', 'subscribing', 'sets invalid bodies and unknown types aside'),
  promise('SUB-11', 'subscribing', 'keeps topics and groups of any legal name apart'),
  promise('SUB-12', 'subscribing', 'removes a group with all that was made for it'),

  promise('ACK-01', 'settling', 'acks by returning, for good'),
  promise('ACK-02', 'settling', 'hands the messages of a dead member to another, but none that was acked'),
  promise('ACK-03', 'settling', 'keeps a message for a handler that runs longer than the lease'),
  promise('ACK-04', 'settling', 'aborts the signal of a lost message'),
  promise('ACK-05', 'settling', 'takes acks in any order'),
  promise('ACK-06', 'settling', 'lets explicit settling win, once'),
  promise('ACK-07', 'settling', 'keeps acks apart across a reconnect'),
  promise('ACK-08', 'settling', 'settles the messages of a batch one by one'),
  promise('ACK-09', 'settling', 'fails an attempt that takes too long'),

  promise('RETRY-01', 'retry', "retries after the policy's delay, up to its attempts"),
  promise('RETRY-02', 'retry', 'keeps the attempt number over a restart'),
  promise('RETRY-03', 'retry', 'retries for the group that failed alone'),
  promise('RETRY-04', 'retry', 'lets others flow while many wait for their retry'),
  promise('RETRY-05', 'retry', 'honours delays up to the maximum, and refuses longer ones'),
  promise('RETRY-06', 'retry', 'lets the handler choose the delay or the dead letters'),
  promise('RETRY-07', 'retry', 'sets a message that kills its process aside'),
  promise('RETRY-08', 'retry', 'uses up no attempt for giving back'),
  promise('RETRY-09', 'retry', 'leaves the message with the broker when a retry cannot be scheduled'),

  promise('DLQ-01', 'dead-letters', 'keeps a dead letter whole, as an entry of its own'),
  promise('DLQ-02', 'dead-letters', 'acks only after the dead letter is written'),
  promise('DLQ-03', 'dead-letters', 'counts, shows, redrives and purges dead letters'),
  promise('DLQ-04', 'dead-letters', 'redrives to the own group alone, from attempt 1'),
  promise('DLQ-05', 'dead-letters', "keeps groups' dead letters apart, without expiry"),
  promise('DLQ-06', 'dead-letters', "sets a message at the broker's own size limit aside"),

  promise('ORD-01', 'order', 'handles the messages of a key one at a time, in order'),
  promise('ORD-02', 'order', 'holds back only the key of a failing message'),
  promise('ORD-03', 'order', 'keeps the order through crashes and joins'),
  promise('ORD-04', 'order', 'rejects what cannot be ordered, and orders what is foreign'),
  promise('ORD-05', 'order', 'reports a declaration that disagrees with the broker'),

  promise('DELAY-01', 'delay-expiry', 'delivers a delayed message in time, restarts included'),
  promise('DELAY-02', 'delay-expiry', 'lets a short delay pass a long one'),
  promise('DELAY-03', 'delay-expiry', 'does not hand out what has expired'),

  promise('IDEM-01', 'idempotency', 'handles an id once per topic and group'),
  promise('IDEM-02', 'idempotency', 'marks only after success'),
  promise('IDEM-03', 'idempotency', 'marks per topic and group'),
  promise('IDEM-04', 'idempotency', 'lets one of two members with one id run'),
  promise('IDEM-05', 'idempotency', 'commits effects and mark together'),
  promise('IDEM-06', 'idempotency', 'handles nothing unprotected while the store is away'),
  promise('IDEM-07', 'idempotency', 'knows a foreign message by its place'),

  promise('LIFE-01', 'life-cycle', 'closes after draining, leaving nothing open'),
  promise('LIFE-02', 'life-cycle', 'closes in time whatever the handlers do'),
  promise('LIFE-03', 'life-cycle', 'goes on by itself after an outage'),
  promise('LIFE-04', 'life-cycle', 'says why it cannot connect'),
  promise('LIFE-05', 'life-cycle', 'refuses use after close'),
  promise('LIFE-06', 'life-cycle', 'tells its health'),
  promise('LIFE-07', 'life-cycle', 'restores or reports a topology that disappears'),

  promise('POS-01', 'position-retention', 'tells the lag of a group'),
  promise('POS-02', 'position-retention', 'starts and moves groups where the broker keeps a log'),
  promise('RET-01', 'position-retention', 'sets retention on purpose'),
  promise('RET-02', 'position-retention', 'reports a lost position'),

  promise('RPC-01', 'request-reply', 'brings replies to their requests', 'comes with request and reply'),
  promise('RPC-02', 'request-reply', 'drops replies that nobody waits for', 'comes with request and reply'),

  promise('CFG-01', 'configuration', 'opens from a URL alone and rejects what it does not know'),
  promise('CFG-02', 'configuration', 'creates, verifies or trusts the topology'),
  promise('CFG-03', 'configuration', 'offers TLS and every authentication of the client library'),
  promise('CFG-04', 'configuration', 'takes every name from one mapping that can be replaced'),
] as const;

export type Section =
  | 'guarantees'
  | 'publishing'
  | 'subscribing'
  | 'settling'
  | 'retry'
  | 'dead-letters'
  | 'order'
  | 'delay-expiry'
  | 'idempotency'
  | 'life-cycle'
  | 'position-retention'
  | 'request-reply'
  | 'configuration';

export interface ContractPromise<Id extends string = string> {
  readonly id: Id;
  readonly section: Section;
  /** What is promised, in one line. */
  readonly title: string;
  /** Why no test of it exists yet. */
  readonly pending: string | undefined;
}

export type ContractId = (typeof promises)[number]['id'];

function promise<const Id extends string>(
  id: Id,
  section: Section,
  title: string,
  pending?: string,
): ContractPromise<Id> {
  return { id, section, title, pending };
}

/** The ids that begin with one of the prefixes: `RETRY`, `PUB-0`, `ACK-02`; all of them without a prefix. */
export function selectIds(prefixes: readonly string[] = []): readonly ContractId[] {
  const ids = promises.map(({ id }) => id);
  return prefixes.length === 0 ? ids : ids.filter((id) => prefixes.some((prefix) => id.startsWith(prefix)));
}
