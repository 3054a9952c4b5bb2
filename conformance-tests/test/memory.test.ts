import { memoryUnderTest } from '../src/harness/memory.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(memoryUnderTest(), idsFromEnvironment());
