import './schema.ts';
import './schema/applications.ts';
import './schema/environment.ts';
import './schema/quotas.ts';
import './schema/releases.ts';
import './schema/security.ts';
export { DeploymentRef } from './schema.ts';
import './schema/metrics.ts';
import './schema/advice.ts';

export {
  Applications,
  Deployments,
  SourceAccess,
  startDeployments,
  watchDeployments,
  type DeploymentsHost,
  type Push,
  type SourceCredentials,
} from './service/index.ts';
