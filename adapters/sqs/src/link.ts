import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { SNS } from '@aws-sdk/client-sns';
import { SQS, type SQSClientConfig } from '@aws-sdk/client-sqs';
import { type AdapterContext, backOff, type Clock, sleep, type WaybillError } from '@waybill/core/adapter';
import { connectFailure, failureOf, isClockCorrected, isDenied, requestFailure } from './errors.ts';
import type { Settings } from './options.ts';

/** Connections to a service at once: polls, and what goes on beside them. */
const maxSockets = 512;
/** Between looks at whether a service is back, in milliseconds. */
const lookAgain = { initial: 50, max: 2_000 } as const;

/** Somebody who reads a queue, and cannot while SQS is away. */
export interface LinkListener {
  interrupted(error: WaybillError): void;
  restored(): void;
}

/** How the SDK is told the time of one request. */
export interface RequestOptions {
  readonly requestTimeout: number;
}

type Service = 'sqs' | 'sns';

/**
 * The way to both services. HTTP has no connection that could be lost: the way to a service counts as interrupted when
 * a request gets no answer, and as restored when one does.
 */
export class Link {
  readonly sqs: SQS;
  readonly sns: SNS;
  readonly settings: Settings;
  readonly clock: Clock;
  readonly #options: RequestOptions;
  readonly #context: AdapterContext;
  readonly #listeners = new Set<LinkListener>();
  readonly #closing = new AbortController();
  readonly #finishing = new Set<Promise<unknown>>();
  readonly #away = new Map<Service, WaybillError>();

  private constructor(settings: Settings, context: AdapterContext) {
    this.settings = settings;
    this.clock = context.clock;
    this.#options = { requestTimeout: settings.requestTimeout };
    this.#context = context;
    this.sqs = new SQS(clientConfig(settings, settings.endpoint));
    this.sns = new SNS(clientConfig(settings, settings.snsEndpoint));
  }

  /** @throws ConnectionError that names the cause and the target (LIFE-04) */
  static async open(settings: Settings, context: AdapterContext): Promise<Link> {
    const link = new Link(settings, context);
    try {
      await link.#look('sqs', context.signal).catch(async (error: unknown) => {
        // The client has learned the time from this answer; the next one would not know it.
        if (!isClockCorrected(error)) throw error;
        await link.#look('sqs', context.signal);
      });
      return link;
    } catch (error) {
      link.#destroy();
      throw connectFailure(error, settings.target);
    }
  }

  /** Why SQS gives no answer at the moment. */
  get problem(): WaybillError | undefined {
    return this.#away.get('sqs');
  }

  get closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Aborts when the link is closed. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  listen(listener: LinkListener): void {
    this.#listeners.add(listener);
  }

  unlisten(listener: LinkListener): void {
    this.#listeners.delete(listener);
  }

  /** A request to SQS. @throws what the SDK throws */
  askSqs<T>(ask: (sqs: SQS, options: RequestOptions) => Promise<T>): Promise<T> {
    return this.finish(this.#request('sqs', () => ask(this.sqs, this.#options)));
  }

  /** A request to SNS. @throws what the SDK throws */
  askSns<T>(ask: (sns: SNS, options: RequestOptions) => Promise<T>): Promise<T> {
    return this.finish(this.#request('sns', () => ask(this.sns, this.#options)));
  }

  /** Something that has to end before the sockets are closed: above all a poll that is out, and what it brings. */
  finish<T>(work: Promise<T>): Promise<T> {
    this.#finishing.add(work);
    const done = (): void => void this.#finishing.delete(work);
    work.then(done, done);
    return work;
  }

  /** A look without side effects at whether the service answers. */
  async ping(): Promise<void> {
    try {
      await this.#request('sqs', () => this.#look('sqs'));
    } catch (error) {
      throw requestFailure(error, `${this.settings.target} does not answer`);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    // While SQS is away nothing can be given back either.
    while (this.#finishing.size > 0 && this.problem === undefined) {
      await Promise.race([Promise.allSettled([...this.#finishing]), sleep(this.clock, 1_000)]);
      // What came in may have to go back first.
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#destroy();
  }

  async #request<T>(service: Service, ask: () => Promise<T>): Promise<T> {
    try {
      const answer = await ask();
      this.#answered(service);
      return answer;
    } catch (error) {
      if (failureOf(error).kind === 'away') this.#silent(service, error);
      else this.#answered(service);
      throw error;
    }
  }

  /** Whoever may not list them is answered all the same. */
  async #look(service: Service, abortSignal?: AbortSignal): Promise<void> {
    try {
      const options = { ...this.#options, ...(abortSignal === undefined ? {} : { abortSignal }) };
      if (service === 'sqs') await this.sqs.listQueues({ MaxResults: 1 }, options);
      else await this.sns.listTopics({}, options);
    } catch (error) {
      if (!isDenied(failureOf(error).code)) throw error;
    }
  }

  #silent(service: Service, cause: unknown): void {
    if (this.#away.has(service) || this.closed) return;
    const error = requestFailure(cause, `${this.settings.target} does not answer`);
    this.#away.set(service, error);
    if (this.#away.size === 1) this.#context.events.interrupted(error);
    if (service === 'sqs') for (const listener of [...this.#listeners]) listener.interrupted(error);
    void this.#lookOut(service);
  }

  #answered(service: Service): void {
    if (!this.#away.delete(service) || this.closed) return;
    if (this.#away.size === 0) this.#context.events.restored();
    if (service === 'sqs') for (const listener of [...this.#listeners]) listener.restored();
  }

  async #lookOut(service: Service): Promise<void> {
    for (let tries = 1; this.#away.has(service) && !this.closed; tries++) {
      await this.#request(service, () => this.#look(service)).catch(() => {});
      if (this.#away.has(service)) await sleep(this.clock, backOff(tries, lookAgain), this.closing);
    }
  }

  #destroy(): void {
    this.sqs.destroy();
    this.sns.destroy();
  }
}

/** No retry inside: core repeats what may be repeated, and knows for how long. */
function clientConfig(settings: Settings, endpoint: string | undefined): SQSClientConfig {
  const { region, profile, credentials, requestTimeout, tls } = settings;
  const agent = { keepAlive: true, maxSockets };
  return {
    maxAttempts: 1,
    ...(region === undefined ? {} : { region }),
    ...(profile === undefined ? {} : { profile }),
    ...(credentials === undefined ? {} : { credentials }),
    // An emulator tells queue URLs by names that only it knows.
    ...(endpoint === undefined ? {} : { endpoint, useQueueUrlAsEndpoint: false }),
    requestHandler: {
      connectionTimeout: Math.min(requestTimeout, 5_000),
      requestTimeout,
      throwOnRequestTimeout: true,
      // Polls wait by design.
      socketAcquisitionWarningTimeout: 60_000,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent({ ...agent, ...tls }),
    },
  };
}
