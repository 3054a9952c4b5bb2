export { type ContractId, type ContractPromise, promises, type Section, selectIds } from './contract.ts';
export { type InProcessOptions, inProcessBroker } from './harness/in-process.ts';
export { InProcessLink } from './harness/in-process-link.ts';
export type * from './harness.ts';
export { type Outcome, runContract } from './run.ts';
export { defineConformanceSuite, type SuiteOptions } from './suite.ts';
