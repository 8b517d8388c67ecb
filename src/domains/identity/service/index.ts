export { Accounts } from './accounts.ts';
export { ApiKeys } from './api-keys.ts';
export { Members } from './members.ts';
export { Workspaces } from './workspaces.ts';
