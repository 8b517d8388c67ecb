export { Applications, type Written } from './applications.ts';
export { Deployments, type Requested } from './deployments.ts';
export { startDeployments, type DeploymentsHost } from './host.ts';
