import { sqsUnderTest } from '../src/harness/sqs.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(sqsUnderTest(), idsFromEnvironment());
