import { sqliteUnderTest } from '../src/harness/sqlite.ts';
import { defineConformanceSuite } from '../src/suite.ts';
import { idsFromEnvironment } from './ids.ts';

defineConformanceSuite(sqliteUnderTest(), idsFromEnvironment());
