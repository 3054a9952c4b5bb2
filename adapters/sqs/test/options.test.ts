import { ConfigError } from '@waybill/core/adapter';
import { describe, expect, test } from 'vitest';
import { sqs } from '../src/index.ts';
import { optionsFromUrl, resolveOptions } from '../src/options.ts';

const settingsOf = (url: string): ReturnType<typeof resolveOptions> => resolveOptions(optionsFromUrl(url));

function fieldOf(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error.field;
    throw error;
  }
  return undefined;
}

describe('a URL', () => {
  test('alone is enough', () => {
    expect(settingsOf('sqs:')).toMatchObject({
      region: undefined,
      credentials: undefined,
      fanOut: 'topic',
      pollWait: 5,
    });
    expect(settingsOf('sqs://eu-west-1')).toMatchObject({ region: 'eu-west-1', target: 'sqs://eu-west-1' });
  });

  test('says everything that has a text', () => {
    const settings = settingsOf(
      'sqs://key:se%2Fcret@eu-west-1?endpoint=https://localhost:4566/&snsEndpoint=https://sns.local&profile=p&account=123456789012&fanOut=queue&pollWait=20s&maxPolls=3&requestTimeout=2s&kmsKeyId=alias/a&kmsReuse=1h',
    );
    expect(settings).toMatchObject({
      region: 'eu-west-1',
      endpoint: 'https://localhost:4566',
      snsEndpoint: 'https://sns.local',
      credentials: { accessKeyId: 'key', secretAccessKey: 'se/cret' },
      profile: 'p',
      account: '123456789012',
      fanOut: 'queue',
      pollWait: 20,
      maxPolls: 3,
      requestTimeout: 2_000,
      kmsKeyId: 'alias/a',
      kmsReuse: 3_600,
      target: 'sqs://eu-west-1 at https://localhost:4566',
    });
  });

  test('needs no credentials for an emulator, which is what plain http is', () => {
    expect(settingsOf('sqs://eu-west-1?endpoint=http://localhost:4566').credentials).toBeDefined();
    expect(settingsOf('sqs://eu-west-1?endpoint=https://vpce.example').credentials).toBeUndefined();
  });

  test('is refused by what is wrong with it (CFG-01)', () => {
    const wrong = {
      'sqs://a,b': 'url.host',
      'sqs://eu-west-1:80': 'url.host',
      'sqs://eu-west-1/path': 'url.path',
      'sqs://key@eu-west-1': 'url.user',
      'sqs://eu-west-1?nonsense=1': 'url.nonsense',
      'sqs://eu-west-1?fanOut=both': 'url.fanOut',
      'sqs://eu-west-1?endpoint=localhost:4566': 'sqs.endpoint',
      'sqs://eu-west-1?endpoint=http://me:secret@localhost': 'sqs.endpoint',
      'sqs://eu-west-1?pollWait=30s': 'sqs.pollWait',
      'sqs://eu-west-1?pollWait=1500ms': 'sqs.pollWait',
      'sqs://eu-west-1?maxPolls=0': 'sqs.maxPolls',
      'sqs://eu-west-1?account=1': 'sqs.account',
      'sqs://eu-west-1?caFile=/nowhere': 'url.caFile',
    };
    for (const [url, field] of Object.entries(wrong))
      expect(
        fieldOf(() => sqs.fromUrl(url)),
        url,
      ).toBe(field);
  });

  test('shows no secret', () => {
    const adapter = sqs.fromUrl('sqs://key:secret@eu-west-1?endpoint=https://localhost');
    expect(adapter.target).not.toContain('secret');
    expect(adapter.name).toBe('sqs');
  });
});

test('an unknown option is named', () => {
  expect(fieldOf(() => sqs({ nonsense: 1 } as never))).toBe('sqs.nonsense');
});
