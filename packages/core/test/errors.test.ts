import { describe, expect, test } from 'vitest';
import * as errors from '../src/errors.ts';
import { WaybillError } from '../src/errors.ts';

const samples = [
  [new errors.ConnectionError('x'), 'CONNECTION'],
  [new errors.ConnectTimeoutError('x'), 'CONNECT_TIMEOUT'],
  [new errors.PublishError('x', { outcome: 'unknown' }), 'PUBLISH'],
  [new errors.PublishTimeoutError('x', { outcome: 'not-sent' }), 'PUBLISH_TIMEOUT'],
  [new errors.MessageTooLargeError('orders', 11, 10), 'MESSAGE_TOO_LARGE'],
  [new errors.InvalidMessageError('key', 'x'), 'INVALID_MESSAGE'],
  [new errors.UnsupportedError('log', 'rabbitmq', 'queues forget'), 'UNSUPPORTED'],
  [new errors.ConfigError('lease', 'x'), 'CONFIG'],
  [new errors.LeaseLostError('x'), 'LEASE_LOST'],
  [new errors.HandlerTimeoutError('x'), 'HANDLER_TIMEOUT'],
  [new errors.AlreadySettledError('x'), 'ALREADY_SETTLED'],
  [new errors.ClosedError('the bus'), 'CLOSED'],
  [new errors.RemoteError('x'), 'REMOTE'],
  [new errors.PermanentError('x'), 'PERMANENT'],
  [new errors.RetryError(), 'RETRY'],
] as const;

describe.each(samples)('%s', (error, code) => {
  test(`is known by its code ${code}, and its class by its name`, () => {
    expect(error.code).toBe(code);
    expect(error.name).toBe(error.constructor.name);
    expect(WaybillError.is(error)).toBe(true);
    expect(WaybillError.is(error, code)).toBe(true);
    expect(WaybillError.is(error, code === 'CLOSED' ? 'CONFIG' : 'CLOSED')).toBe(false);
    expect('adapter' in error).toBe(code === 'UNSUPPORTED');
  });
});

test('every class has a sample here', () => {
  const classes = Object.values(errors).filter((one) => one !== WaybillError);
  expect(samples.map(([error]) => error.constructor)).toEqual(expect.arrayContaining(classes));
});

test('an error of another copy of the package is known by its brand', () => {
  const foreign = Object.assign(new Error('x'), { code: 'CONFIG', [Symbol.for('waybill.error')]: true });
  expect(WaybillError.is(foreign, 'CONFIG')).toBe(true);
  expect(WaybillError.is(foreign, 'CLOSED')).toBe(false);
});

test.each([undefined, null, 'CONFIG', {}, new Error('x'), { code: 'CONFIG' }])('%s is not ours', (other) => {
  expect(WaybillError.is(other)).toBe(false);
});

test('a cause is kept, and only where one was given', () => {
  const cause = new Error('reset');
  expect(new errors.ConnectionError('x', { cause }).cause).toBe(cause);
  expect('cause' in new errors.ConnectionError('x')).toBe(false);
});

test('errors say what to do next', () => {
  expect(new errors.UnsupportedError('log', 'rabbitmq', 'queues forget', "start at 'latest'").message).toBe(
    "rabbitmq does not support log: queues forget; start at 'latest'",
  );
  expect(new errors.MessageTooLargeError('orders', 11, 10).message).toContain('11 bytes for topic "orders"');
  expect(new errors.RetryError({ after: '5s' }).after).toBe(5_000);
  expect(() => new errors.RetryError({ after: 'soon' as never })).toThrow(errors.ConfigError);
});
