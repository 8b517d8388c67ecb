import './schema/index.ts';

export { Accounts, ApiKeys, Members, Workspaces } from './service/index.ts';
