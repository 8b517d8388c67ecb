import './schema.ts';
import './schema/security.ts';

export { Applications, Deployments, startDeployments, type DeploymentsHost } from './service/index.ts';
