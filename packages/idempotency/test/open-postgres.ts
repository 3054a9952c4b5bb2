import pg from 'pg';
import { postgresStore } from '../dist/postgres.js';
import { placeVariable } from './places.ts';

export default () => postgresStore(new pg.Pool({ connectionString: process.env[placeVariable] }), { timeout: '3s' });
