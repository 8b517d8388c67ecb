import './cleanup.ts';

export { NoFreeUser } from '../../../integrations/process/index.ts';
export { Applications, type Written } from './applications.ts';
export { Deployments, type Requested } from './deployments.ts';
export { startDeployments, type DeploymentsHost } from './host.ts';
export { Alerts, type RuleWritten } from './alerts.ts';
export { maxPoints, Metrics, resolutionFor, type Point } from './metrics.ts';
