import { createPool } from 'mysql2/promise';
import { mysqlStore } from '../dist/mysql.js';
import { placeVariable } from './places.ts';

export default () => mysqlStore(createPool(process.env[placeVariable] ?? ''), { timeout: '3s' });
