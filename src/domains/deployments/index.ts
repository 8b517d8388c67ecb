import './schema.ts';
import './metrics-schema.ts';

export { Applications, Deployments, startDeployments, type DeploymentsHost } from './service/index.ts';
