import './cleanup.ts';

export { NoFreeUser } from '../../../integrations/process/index.ts';
export { Applications, type Written } from './applications.ts';
export { Environments, inVersion } from './environment.ts';
export { ApplicationDeletions } from './deletion.ts';
export { deploymentKind } from './kind.ts';
export { Deployments, refusalOfRestore, type Push, type Requested } from './deployments.ts';
export { approvable, Previews, type PreviewWritten } from './previews.ts';
export {
  SourceAccess,
  watchDeployments,
  watchPreviews,
  type SourceCredentials,
  type WatchedDeployment,
} from './ports.ts';
export { startDeployments, type DeploymentsHost } from './host.ts';
export { Quotas, type QuotaLimits, type QuotaUse } from './quotas.ts';
export { suppressedNow } from './scan.ts';
export { Suppressions } from './suppressions.ts';
export { Advice } from './advice/index.ts';
export { Alerts, type RuleWritten } from './alerts.ts';
export { maxPoints, Metrics, resolutionFor, type Point } from './metrics.ts';
