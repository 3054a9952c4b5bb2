import { redisStreamsUnderTest } from '../src/harness/redis-streams.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(redisStreamsUnderTest(), idsFromEnvironment());
