import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { brokerImage, brokerImages, chosenImage, isDefaultVersion, selectImages } from '../src/brokers/images.ts';
import { kafkaEnvironment, pubsubCommand, rabbitmqEnvironment, redisCommand } from '../src/brokers/kinds.ts';
import { isGone, thisProcess } from '../src/brokers/owner.ts';

beforeEach(() => {
  for (const name of Object.keys(process.env)) if (name.startsWith('WAYBILL_')) vi.stubEnv(name, undefined);
});
afterEach(() => vi.unstubAllEnvs());

describe('the choice of images', () => {
  const chosen = (only?: string) => selectImages(only).map(({ broker, version }) => `${broker}@${version}`);

  it('is every broker in its first version when nothing is said', () => {
    expect(chosen()).toEqual(['rabbitmq@4.0', 'kafka@4.3', 'redis@8.0', 'sqs@2.4', 'pubsub@0.8']);
  });

  it('has the databases too when only images are made', () => {
    const names = selectImages(undefined, true).map(({ broker }) => broker);
    expect(names).toEqual(['rabbitmq', 'kafka', 'redis', 'sqs', 'pubsub', 'postgres', 'mariadb']);
  });

  it('takes brokers and versions from a list, each once', () => {
    expect(chosen('kafka@4.1, rabbitmq,rabbitmq@4.0')).toEqual(['kafka@4.1', 'rabbitmq@4.0']);
  });

  it('follows the version set for a whole run', () => {
    vi.stubEnv('WAYBILL_RABBITMQ_VERSION', '3.10');
    expect(chosen().slice(0, 2)).toEqual(['rabbitmq@3.10', 'kafka@4.3']);
    expect(brokerImage('rabbitmq', '4.0').version).toBe('4.0');
  });

  it('names what there is when it is asked for something else', () => {
    expect(() => selectImages('rabbitmq@9')).toThrow(
      'no image for rabbitmq@9; there are rabbitmq@4.0, rabbitmq@3.10, kafka',
    );
  });

  it('lets a setting replace the image of one version only', () => {
    vi.stubEnv('WAYBILL_KAFKA_IMAGE', 'example/kafka:1');
    const chosen = brokerImages.filter((image) => chosenImage(image) !== undefined);
    expect(chosen.map(({ broker, version }) => `${broker}@${version}`)).toEqual(['kafka@4.3']);
  });
});

describe('docker-compose.yml', () => {
  const compose = readFileSync(new URL('../../docker-compose.yml', import.meta.url), 'utf8');

  it.each(brokerImages.filter((image) => isDefaultVersion(image) && !image.onDemand && !image.database))(
    'starts the official $broker image unless its setting names another',
    (image) => {
      expect(compose).toContain(`image: \${${image.setting}:-${image.official}}`);
    },
  );

  it('gives the brokers the settings that tests give them', () => {
    const port = 9092;
    const settings = { ...rabbitmqEnvironment, ...kafkaEnvironment({ host: 'localhost', port }) };
    const composed = compose.replaceAll(`\${WAYBILL_KAFKA_PORT:-${port}}`, String(port));
    const lines = [...composed.matchAll(/^ {6}([A-Z_]+): "(.*)"$/gm)].map(([, name, value]) => [name, value]);
    expect(Object.fromEntries(lines)).toEqual(settings);
    const commands = [...composed.matchAll(/^ {4}command: (.*)$/gm)].map(([, list]) => JSON.parse(list ?? ''));
    expect(commands).toEqual([redisCommand, pubsubCommand]);
  });
});

describe('the owner of a container', () => {
  it('is not gone while its process runs, nor when it is on another host', () => {
    expect(isGone(thisProcess())).toBe(false);
    expect(isGone('another-host:1')).toBe(false);
  });

  it('is gone when its process is', () => {
    const longGone = 2 ** 22 + 1; // above the highest process id of Linux
    expect(isGone(thisProcess().replace(/\d+$/, String(longGone)))).toBe(true);
  });
});
