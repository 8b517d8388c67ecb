import './schema/index.ts';

export { AccountSettings } from './settings.ts';
export { Accounts, ApiKeys, Invitations, Members, Workspaces } from './service/index.ts';
export { authRoutes } from './routes.ts';
export { connectOutside, External, Outside, OutsideSignIns, Sso, type OutsideOptions } from './service/index.ts';
