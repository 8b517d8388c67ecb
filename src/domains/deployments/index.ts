export { DeploymentRef } from './schema.ts';

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
