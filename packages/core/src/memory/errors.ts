import { ConfigError, ConnectionError } from '../errors.ts';

const adapter = 'memory';

export function cutOff(target: string): ConnectionError {
  return new ConnectionError(`${target} cannot be reached: it was cut off by disconnect(); reconnect() mends it`, {
    adapter,
    retryable: true,
  });
}

export function noTopic(target: string, topic: string): ConfigError {
  return new ConfigError(
    'topic',
    `there is no topic "${topic}" on ${target}; make it with provision(), or connect with topology 'create'`,
    { adapter },
  );
}

export function noGroup(target: string, topic: string, group: string): ConfigError {
  return new ConfigError(
    'group',
    `topic "${topic}" on ${target} has no group "${group}"; subscribe with it first, or make it with provision()`,
    { adapter },
  );
}

export function noPosition(topic: string, position: string, first: number, end: number): ConfigError {
  return new ConfigError(
    'position',
    `"${position}" is not a position of topic "${topic}"; it keeps ${first} to ${end} at the moment, the last for what comes next`,
    { adapter },
  );
}

type Options = Readonly<Record<string, unknown>> | undefined;

/** Of a topic, a subscription or a publish: this broker has no options of its own there, so any is a mistake (CFG-01). */
export function unknownOption(options: Options): ConfigError | undefined {
  const name = options === undefined ? undefined : Object.keys(options)[0];
  return name === undefined
    ? undefined
    : new ConfigError(`broker.memory.${name}`, 'unknown option; the memory broker has none here', { adapter });
}

/** @throws ConfigError that names the first option */
export function refuseOptions(options: Options): void {
  const mistake = unknownOption(options);
  if (mistake !== undefined) throw mistake;
}
