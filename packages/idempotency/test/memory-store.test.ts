import { memoryStore } from '../src/index.ts';
import { defineIdempotencyStoreSuite } from '../src/suite.ts';

const store = memoryStore();
defineIdempotencyStoreSuite('memory', () => ({ open: () => store }));
