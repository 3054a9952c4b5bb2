import { kafkaUnderTest } from '../src/harness/kafka.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(kafkaUnderTest(), idsFromEnvironment());
