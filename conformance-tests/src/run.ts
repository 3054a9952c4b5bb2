import { randomUUID } from 'node:crypto';
import { inspect } from 'node:util';
import { type Bus, connect, type Logger, WaybillError } from '@waybill/core';
import { type Bench, openBench } from './bench.ts';
import type { ContractId } from './contract.ts';
import { eventually } from './eventually.ts';
import type { NetworkLink } from './harness.ts';
import { TooLate } from './helpers.ts';
import { IdleWatch } from './idle-watch.ts';
import type { Member } from './member.ts';
import { startMemberInProcess } from './member-in-process.ts';
import { type MemberProcess, startMemberProcess } from './member-process.ts';
import type { MemberProgram } from './member-program.ts';
import { type ProgramArgs, type Programs, programs } from './members/programs.ts';
import { Recorder } from './recorder.ts';
import { type Behaviour, behaviours, type Flag, type LogLine, type Scenario, TAKE_OVER_MARGIN } from './scenario.ts';
import './sections.ts';

/** How one facet of one promise went. */
export interface Outcome {
  readonly adapter: string;
  readonly id: ContractId;
  readonly facet: string;
  readonly status: 'passed' | 'failed' | 'unsupported';
  /** Why it is unsupported, or what failed. */
  readonly reason?: string;
  readonly error?: unknown;
}

/** Runs the tests of these ids against an adapter, one after the other, without a test runner. */
export async function runContract(
  adapter: Bench['adapter'],
  options: { readonly ids?: readonly ContractId[] } = {},
): Promise<readonly Outcome[]> {
  const bench = await openBench(adapter);
  const outcomes: Outcome[] = [];
  try {
    for (const behaviour of selectBehaviours(options.ids)) {
      const { id, facet } = behaviour;
      const about = { adapter: adapter.name, id, facet };
      try {
        const reason = await runBehaviour(bench, behaviour);
        outcomes.push(
          reason === undefined ? { ...about, status: 'passed' } : { ...about, status: 'unsupported', reason },
        );
      } catch (error) {
        outcomes.push({ ...about, status: 'failed', reason: String(error), error });
      }
    }
  } finally {
    await bench.broker.dispose();
  }
  return outcomes;
}

export function selectBehaviours(ids?: readonly ContractId[]): readonly Behaviour[] {
  return behaviours().filter(({ id }) => ids === undefined || ids.includes(id));
}

/** Cleaning up after a test comes out of its time too. */
const CLEAN_UP = 30_000;

/** Milliseconds until a test is given up by whoever runs it. */
export function timeoutOf(behaviour: Behaviour, lease: number): number {
  return (behaviour.options.timing ? MEASUREMENTS : 1) * (timeLimit(behaviour, lease) + CLEAN_UP);
}

/** Milliseconds until one run of it is given up. */
function timeLimit(behaviour: Behaviour, lease: number): number {
  return behaviour.options.timeout?.(lease) ?? 60_000 + 4 * lease;
}

/** How often something is measured at most. */
const MEASUREMENTS = 3;

/**
 * Runs one test. Resolves with the reason where the broker cannot keep the promise. What comes too late is measured
 * again if the machine was not idle meanwhile, because the bounds on lateness are for one that is; the last measurement
 * counts in any case.
 *
 * @throws what the test threw, with everything that was seen
 */
export async function runBehaviour(bench: Bench, behaviour: Behaviour): Promise<string | undefined> {
  const { id, facet, options } = behaviour;
  for (let left = options.timing ? MEASUREMENTS : 1; ; ) {
    try {
      return await runOnce(bench, behaviour);
    } catch (error) {
      if (!(error instanceof TooLate) || error.machineWasIdle || --left === 0) throw error;
      console.info(`${id} ${facet}: measured again, because the machine was not idle; ${error.message.split('\n', 1)}`);
    }
  }
}

async function runOnce(bench: Bench, behaviour: Behaviour): Promise<string | undefined> {
  const stage = new Stage(bench);
  const timeout = timeLimit(behaviour, bench.adapter.lease);
  const stop = new AbortController();
  let watch: IdleWatch | undefined;
  let timer: NodeJS.Timeout | undefined;
  const given = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the test was given up after ${timeout} ms`)), timeout);
  });
  try {
    const run = async (): Promise<void> => {
      if (behaviour.options.timing) {
        watch = await IdleWatch.start(await stage.connect(), stage.topicName('watch'), stop.signal);
      }
      await behaviour.run(stage);
    };
    await Promise.race([run(), given]);
    return stage.reasons.length === 0 ? undefined : [...new Set(stage.reasons)].join('; ');
  } catch (error) {
    const told = refusedGroup(error, bench);
    if (told !== undefined) return told;
    if (error instanceof TooLate) error.machineWasIdle = watch?.wasIdle(error.from, error.came) !== false;
    throw withReport(error, stage.report());
  } finally {
    clearTimeout(timer);
    stop.abort();
    await stage.clear();
  }
}

/**
 * Most tests take a second group for granted, so it need not be asked for: a test that was refused one, on a broker that
 * says that it has none, has nothing to prove. An UnsupportedError about anything else fails the test.
 */
function refusedGroup(error: unknown, { capabilities: { groups } }: Bench): string | undefined {
  if (groups.supported) return undefined;
  // Of a member's process only what it printed is known.
  return /UnsupportedError: [^\n]+ does not support groups: /.test(`${error}`) ? `groups: ${groups.reason}` : undefined;
}

function withReport(error: unknown, report: string): Error {
  const failure = error instanceof Error ? error : new Error(inspect(error));
  if (report !== '') {
    const { stack, message } = failure;
    failure.message = `${message}\n\n${report}`;
    if (stack !== undefined) failure.stack = stack.replace(message, () => failure.message);
  }
  return failure;
}

const CLOSE_WITHIN = 10_000;
const SHOWN_LINES = 80;

class Stage implements Scenario {
  readonly #bench: Bench;
  readonly #buses: Bus[] = [];
  readonly #members: { readonly name: string; readonly member: Member & Partial<MemberProcess> }[] = [];
  readonly #links: NetworkLink[] = [];
  readonly #cleaners: (() => unknown)[] = [];
  /** Whether the test has ended, or was given up and still runs: what it begins then nobody would end. */
  #over = false;
  readonly logs: LogLine[] = [];
  /** Why what was asked for is not supported. */
  readonly reasons: string[] = [];

  constructor(bench: Bench) {
    this.#bench = bench;
  }

  get adapter(): Scenario['adapter'] {
    return this.#bench.adapter;
  }
  get broker(): Scenario['broker'] {
    return this.#bench.broker;
  }
  get foreign(): Scenario['foreign'] {
    return this.#bench.broker.foreign;
  }
  get capabilities(): Scenario['capabilities'] {
    return this.#bench.capabilities;
  }
  get lease(): number {
    return this.#bench.adapter.lease;
  }
  get takeOver(): number {
    return this.lease + TAKE_OVER_MARGIN;
  }

  async connect({ to, ...options }: Parameters<Scenario['connect']>[0] = {}): Promise<Bus> {
    this.#checkOver();
    const target = to === undefined ? this.#target() : isLink(to) ? to.target : to;
    const { factory } = this.adapter;
    const adapters = factory === undefined ? [] : [factory];
    const bus = await connect(target, { logger: this.#logger(), adapters, ...options });
    this.#buses.push(bus);
    if (this.#over) await bus.close({ timeout: 0 });
    return bus;
  }

  #target(): Exclude<Parameters<typeof connect>[0], never> {
    return this.broker.target?.() ?? this.broker.url;
  }

  #logger(): Logger {
    const note =
      (level: LogLine['level']) =>
      (text: string, details?: object): void =>
        void this.logs.push({ level, text, details });
    return { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
  }

  topicName(hint = 'topic'): string {
    return `${hint}.${randomUUID().replaceAll('-', '').slice(0, 12)}`;
  }

  async member<Name extends keyof Programs>(name: Name, args: ProgramArgs<Name>, link?: NetworkLink): Promise<Member> {
    this.#checkOver();
    const member = this.broker.inProcess
      ? startMemberInProcess(programs[name] as MemberProgram<ProgramArgs<Name>>, args, this.#adapter(link))
      : startMemberProcess({
          program: name,
          args,
          url: link?.url ?? this.broker.url,
          module: this.adapter.module,
        });
    this.#members.push({ name, member });
    return member;
  }

  #adapter(link: NetworkLink | undefined): Exclude<NetworkLink['target'], string> {
    const target = link?.target ?? this.#target();
    if (typeof target === 'string')
      throw new Error('the harness of a broker in this process must have adapters as its targets');
    return target;
  }

  async network(): Promise<NetworkLink> {
    this.#checkOver();
    const link = await this.broker.openLink();
    this.#links.push(link);
    if (this.#over) await link.close();
    return link;
  }

  recorder<T>(work?: ConstructorParameters<typeof Recorder<T>>[0]): Recorder<T> {
    return new Recorder<T>(work);
  }

  eventually: Scenario['eventually'] = eventually;

  supports(capability: Flag): boolean {
    return this.capabilities[capability].supported;
  }

  async unsupported(capability: Flag, run?: () => Promise<unknown>): Promise<void> {
    const support = this.capabilities[capability];
    if (support.supported) throw new Error(`${this.adapter.name} says that it supports ${capability}`);
    if (support.reason.trim() === '')
      throw new Error(`${this.adapter.name} gives no reason why ${capability} is missing`);
    if (run !== undefined) await assertUnsupported(run, capability, this.adapter.name, support.reason);
    this.reasons.push(`${capability}: ${support.reason}`);
  }

  afterwards(clean: () => unknown): void {
    this.#cleaners.unshift(clean);
  }

  /** What happened besides, for a failed test. */
  report(): string {
    const lines = this.logs.map(({ level, text, details }) =>
      details === undefined
        ? `${level} ${text}`
        : `${level} ${text} ${inspect(details, { breakLength: Number.POSITIVE_INFINITY })}`,
    );
    const parts = lines.length === 0 ? [] : [`The buses logged:\n${lines.slice(-SHOWN_LINES).join('\n')}`];
    for (const { name, member } of this.#members) {
      const told = member.events
        .slice(-SHOWN_LINES)
        .map((event) => inspect(event, { breakLength: Number.POSITIVE_INFINITY }));
      parts.push(`Member ${name} told:\n${told.join('\n')}`);
      const printed = member.printed?.() ?? '';
      if (printed !== '') parts.push(`Member ${name} printed:\n${printed.slice(-4_000)}`);
    }
    return parts.join('\n\n');
  }

  #checkOver(): void {
    if (this.#over) throw new Error('the test is over');
  }

  async clear(): Promise<void> {
    this.#over = true;
    // First, because a cleaner may have to wait.
    await Promise.all(this.#members.map(({ member }) => member.kill().catch(() => {})));
    for (const clean of this.#cleaners) await (async () => clean())().catch(() => {});
    const closed = Promise.all(this.#buses.map((bus) => bus.close({ timeout: 1_000 }).catch(() => {})));
    // A bus that does not close is for LIFE-02 to report; here it must not stop the suite.
    await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, CLOSE_WITHIN).unref())]);
    await Promise.all(this.#links.map((link) => link.close().catch(() => {})));
  }
}

function isLink(to: object | string): to is NetworkLink {
  return typeof to === 'object' && 'loseReplies' in to;
}

async function assertUnsupported(
  run: () => Promise<unknown>,
  capability: string,
  adapter: string,
  reason: string,
): Promise<void> {
  let thrown: unknown;
  try {
    await run();
  } catch (error) {
    thrown = error;
  }
  if (!WaybillError.is(thrown, 'UNSUPPORTED')) {
    throw new Error(
      `an UnsupportedError for ${capability} was due; seen: ${thrown === undefined ? 'no error' : inspect(thrown)}`,
    );
  }
  const told = thrown as WaybillError & { capability?: unknown };
  const wrong = [
    ...(told.capability === capability ? [] : [`its capability is ${told.capability} instead of ${capability}`]),
    ...(told.adapter === adapter ? [] : [`its adapter is ${told.adapter} instead of ${adapter}`]),
    ...(told.message.includes(reason) ? [] : [`its text "${told.message}" does not give the reason "${reason}"`]),
  ];
  if (wrong.length > 0) throw new Error(`an UnsupportedError came, but ${wrong.join(', ')}`);
}
