import './schema.ts';

export { Identity } from './service.ts';
