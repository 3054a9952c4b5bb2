import { sqliteStore } from '../dist/sqlite.js';
import { placeVariable } from './places.ts';

export default () => sqliteStore(process.env[placeVariable] ?? '');
