import './schema.ts';
import './schema/applications.ts';
import './schema/environment.ts';
import './schema/quotas.ts';
import './schema/releases.ts';
import './schema/security.ts';

export { Applications, Deployments, startDeployments, type DeploymentsHost } from './service/index.ts';
