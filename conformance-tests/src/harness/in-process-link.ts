/**
 * A network between a bus and a broker of the same process, at the adapter interface: what a cut cable, a stopped
 * process or a killed one looks like from either side. For brokers whose leases are of kind `delivery`: they notice a
 * lost connection by their leases alone.
 */
import type {
  Adapter,
  AdapterContext,
  Clock,
  Connection,
  DeadLetterScan,
  Delivery,
  Receiver,
  ReceiverEvents,
  SendResult,
  Settlement,
  Source,
  Timer,
} from '@waybill/core/adapter';
import { ConnectionError, systemClock } from '@waybill/core/adapter';
import type { CutMode } from '../harness.ts';

/** How long it takes until a black hole is noticed. */
const NOTICED_AFTER = 2_000;

/** From one cut to the next. */
interface Wire {
  /** Resolves when both ends know that it is gone. */
  readonly gone: Promise<void>;
  readonly cutNow: () => void;
  /** True from the moment of the cut on, before it is noticed. */
  cut: boolean;
  deaf: boolean;
}

interface Listener {
  interrupted(error: ConnectionError): void;
  restored(): void;
}

const never = new Promise<never>(() => {});

export class InProcessLink {
  #wire = newWire();
  #thawed: Promise<void> | undefined;
  #thaw = (): void => {};
  #severed = false;
  readonly #listeners = new Set<Listener>();
  readonly #stopReceiving = new Set<AbortController>();
  readonly #connections = new Set<Connection>();
  readonly #timers = new Set<Timer>();

  /** This adapter, reached over this link. */
  wrap(adapter: Adapter): Adapter {
    return {
      name: adapter.name,
      target: adapter.target,
      connect: (context) => this.#connect(adapter, context),
    };
  }

  cut(mode: CutMode): void {
    const wire = this.#wire;
    if (wire.cut) return;
    wire.cut = true;
    for (const one of this.#stopReceiving) one.abort();
    const notice = (): void => {
      wire.cutNow();
      if (wire === this.#wire) for (const listener of this.#listeners) listener.interrupted(this.#error());
    };
    if (mode === 'reset') notice();
    else setTimeout(notice, NOTICED_AFTER);
  }

  mend(): void {
    if (!this.#wire.cut) return;
    this.#wire.cutNow();
    this.#wire = newWire();
    for (const listener of this.#listeners) listener.restored();
  }

  /** What is asked arrives, what is answered does not. */
  loseReplies(): void {
    this.#wire.deaf = true;
  }

  /** Nothing on this side of the link runs on, until `thaw`. */
  freeze(): void {
    if (this.#thawed !== undefined) return;
    this.#thawed = new Promise((resolve) => {
      this.#thaw = resolve;
    });
  }

  thaw(): void {
    this.#thawed = undefined;
    this.#thaw();
  }

  /** Ends it for ever: nothing on this side gets an answer any more. */
  async sever(): Promise<void> {
    this.#severed = true;
    for (const one of this.#stopReceiving) one.abort();
    for (const timer of this.#timers) timer.cancel();
    await Promise.all([...this.#connections].map((connection) => connection.close()));
  }

  /** The clock of this side: stands with it, though the time goes on. */
  readonly clock: Clock = {
    now: () => systemClock.now(),
    monotonic: () => systemClock.monotonic(),
    setTimeout: (run, ms) => {
      if (this.#severed) return { cancel: () => {} };
      let cancelled = false;
      const fire = async (): Promise<void> => {
        await this.#alive();
        this.#timers.delete(timer);
        if (!cancelled) run();
      };
      const inner = systemClock.setTimeout(() => void fire(), ms);
      const timer = {
        cancel: () => {
          cancelled = true;
          inner.cancel();
          this.#timers.delete(timer);
        },
      };
      this.#timers.add(timer);
      return timer;
    },
  };

  #error(): ConnectionError {
    return new ConnectionError('the network between this bus and the broker is cut');
  }

  async #alive(): Promise<void> {
    while (this.#thawed !== undefined && !this.#severed) await this.#thawed;
    if (this.#severed) await never;
  }

  /** A call to the broker, and its answer, over the link. */
  async #pass<T>(call: () => Promise<T>, whenCut?: (error: ConnectionError) => T): Promise<T> {
    await this.#alive();
    const wire = this.#wire;
    if (wire.cut) {
      await wire.gone;
      if (whenCut !== undefined) return whenCut(this.#error());
      throw this.#error();
    }
    const answer = call().then(
      (value) => () => value,
      (error: unknown) => () => {
        throw error;
      },
    );
    const arrived = await Promise.race([answer, wire.gone]);
    await this.#alive();
    if (arrived === undefined || wire.cut || wire.deaf) {
      await wire.gone;
      throw this.#error();
    }
    return arrived();
  }

  #listen(events: Listener): Listener {
    const listener: Listener = {
      interrupted: (error) => void this.#alive().then(() => events.interrupted(error)),
      restored: () => void this.#alive().then(() => events.restored()),
    };
    this.#listeners.add(listener);
    return listener;
  }

  async #connect(adapter: Adapter, context: AdapterContext): Promise<Connection> {
    const inner = await this.#pass(() =>
      adapter.connect({
        ...context,
        // The broker lives on when this side is stopped or killed.
        clock: systemClock,
        events: {
          interrupted: (error) => void this.#alive().then(() => context.events.interrupted(error)),
          restored: () => void this.#alive().then(() => context.events.restored()),
        },
      }),
    );
    this.#connections.add(inner);
    const listener = this.#listen(context.events);
    return {
      capabilities: inner.capabilities,
      native: inner.native,
      describeTopic: (name) => this.#pass(() => inner.describeTopic(name)),
      provision: (items, mode) => this.#pass(() => inner.provision(items, mode)),
      removeGroup: (group) => this.#pass(() => inner.removeGroup(group)),
      publish: (batch) =>
        this.#pass(
          () => inner.publish(batch),
          (error) => batch.map((): SendResult => notSent(error)),
        ),
      openReceiver: (source, events) => this.#openReceiver(inner, source, events),
      countDeadLetters: (group) => this.#pass(() => inner.countDeadLetters(group)),
      openDeadLetters: async (group) => this.#scan(await this.#pass(() => inner.openDeadLetters(group))),
      lag: (group) => this.#pass(() => inner.lag(group)),
      seek: (group, to) => this.#pass(() => inner.seek(group, to)),
      ping: () => this.#pass(() => inner.ping()),
      close: async () => {
        await this.#alive();
        this.#listeners.delete(listener);
        this.#connections.delete(inner);
        await inner.close();
      },
    };
  }

  async #openReceiver(connection: Connection, source: Source, events: ReceiverEvents): Promise<Receiver> {
    const later =
      <Args extends readonly unknown[]>(tell: (...args: Args) => void) =>
      (...args: Args): void =>
        void this.#alive().then(() => tell(...args));
    const inner = await this.#pass(() =>
      connection.openReceiver(source, {
        assigned: later((lanes: readonly string[]) => events.assigned(lanes)),
        revoking: async (lanes, deadline) => {
          await this.#alive();
          await events.revoking(lanes, deadline);
        },
        lost: later((lanes: readonly string[], error: Parameters<ReceiverEvents['lost']>[1]) =>
          events.lost(lanes, error),
        ),
        interrupted: later((error: Parameters<ReceiverEvents['interrupted']>[0]) => events.interrupted(error)),
        restored: later(() => events.restored()),
        positionLost: later((lane: string, what: string) => events.positionLost(lane, what)),
        failed: later((error: Parameters<ReceiverEvents['failed']>[0]) => events.failed(error)),
      }),
    );
    const listener = this.#listen(events);
    const { extend, receiveAlone } = inner;
    return {
      receive: (max, finish) => this.#pass(() => this.#receive(inner, max, finish)),
      settle: (batch: readonly Settlement[]) => this.#pass(() => inner.settle(batch)),
      ...(extend === undefined
        ? {}
        : { extend: (deliveries: readonly Delivery[]) => this.#pass(() => extend.call(inner, deliveries)) }),
      ...(receiveAlone === undefined ? {} : { receiveAlone: () => this.#pass(() => receiveAlone.call(inner)) }),
      pauseLane: (lane) => inner.pauseLane(lane),
      resumeLane: (lane) => inner.resumeLane(lane),
      close: async () => {
        await this.#alive();
        this.#listeners.delete(listener);
        await inner.close();
      },
    };
  }

  /** A cut ends the receive at the broker too: what it brings after that is left to its lease. */
  async #receive(inner: Receiver, max: number, finish: AbortSignal): Promise<readonly Delivery[]> {
    const stop = new AbortController();
    const onFinish = (): void => stop.abort();
    if (finish.aborted) stop.abort();
    finish.addEventListener('abort', onFinish);
    this.#stopReceiving.add(stop);
    try {
      return await inner.receive(max, stop.signal);
    } finally {
      finish.removeEventListener('abort', onFinish);
      this.#stopReceiving.delete(stop);
    }
  }

  #scan(inner: DeadLetterScan): DeadLetterScan {
    return {
      next: (max) => this.#pass(() => inner.next(max)),
      redrive: (records) => this.#pass(() => inner.redrive(records)),
      purge: (records) => this.#pass(() => inner.purge(records)),
      close: async () => {
        await this.#alive();
        await inner.close();
      },
    };
  }
}

function newWire(): Wire {
  let cutNow = (): void => {};
  const gone = new Promise<void>((resolve) => {
    cutNow = resolve;
  });
  return { gone, cutNow, cut: false, deaf: false };
}

function notSent(error: ConnectionError): SendResult {
  return { status: 'failed', outcome: 'not-sent', retryable: true, error };
}
