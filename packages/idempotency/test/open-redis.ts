import { Redis } from 'ioredis';
import { redisStore } from '../dist/redis.js';
import { placeVariable } from './places.ts';

export default () => redisStore(new Redis(process.env[placeVariable] ?? ''), { timeout: '3s' });
