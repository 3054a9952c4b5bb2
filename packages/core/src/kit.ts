/** `@waybill/core/adapter`: everything that the author of an adapter imports. */
export type * from './adapter.ts';
export { Alarm } from './alarm.ts';
export { type Clock, sleep, systemClock, type Timer } from './clock.ts';
export { type Duration, duration } from './duration.ts';
export * from './errors.ts';
export { Fifo } from './fifo.ts';
export { handlingWithin, waitBefore } from './handling.ts';
export { Heap } from './heap.ts';
export { type Host, hostsOf, parseHosts, showHost } from './hosts.ts';
export { consoleLogger, type Logger, silent } from './logger.ts';
export { checkName, nameMaker, nameOfGroup, splitName } from './names.ts';
export { backOff } from './retry.ts';
export { type CompiledSelection, compileSelection, type Selection } from './selection.ts';
export { readParamFile, tlsOf, tlsParams } from './tls.ts';
export { type BrokerUrl, checkOptions, hidePassword, param, parseBrokerUrl, readParams } from './url.ts';
export * from './wire.ts';
