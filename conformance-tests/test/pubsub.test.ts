import { pubsubUnderTest } from '../src/harness/pubsub.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(pubsubUnderTest(), idsFromEnvironment());
