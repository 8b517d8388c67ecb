import './cleanup.ts';

export { NoFreeUser } from '../../../integrations/process/index.ts';
export { Applications, type Written } from './applications.ts';
export { Deployments, type Push, type Requested } from './deployments.ts';
export { SourceAccess, watchDeployments, type SourceCredentials } from './ports.ts';
export { startDeployments, type DeploymentsHost } from './host.ts';
