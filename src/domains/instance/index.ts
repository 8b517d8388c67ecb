import './schema.ts';

export { Instance } from './service.ts';
