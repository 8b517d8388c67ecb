export { Repositories, webhookPath, type Changed, type RepositoryPage, type WithSecret } from './connections.ts';
export { Deliveries, type Arrival } from './deliveries.ts';
export { RepositorySettings } from './settings.ts';
export { Statuses } from './statuses.ts';
export { connectGitHub, type GitHubSettings } from './github.ts';
export { isSignature, vouched } from './trust.ts';
