import './schema.ts';
import './schema/applications.ts';
import './schema/environment.ts';
import './schema/quotas.ts';
import './schema/releases.ts';
import './schema/security.ts';
export { DeploymentRef } from './schema.ts';
import './schema/metrics.ts';
import './schema/advice.ts';
import './schema/previews.ts';

export { urlKey, type Pull } from './model.ts';
export {
  Applications,
  Deployments,
  Previews,
  SourceAccess,
  startDeployments,
  watchDeployments,
  watchPreviews,
  type DeploymentsHost,
  type Push,
  type SourceCredentials,
  type WatchedDeployment,
} from './service/index.ts';
