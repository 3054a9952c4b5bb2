import { rabbitmqUnderTest } from '../src/harness/rabbitmq.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(rabbitmqUnderTest(), idsFromEnvironment());
