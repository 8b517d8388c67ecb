export {
  BuildFailed,
  createProcessDriver,
  EnvironmentRefused,
  NoFreeUser,
  userCount,
  validateEnvironment,
  type ProbeResult,
  type ProcessDriver,
  type ProcessDriverLimits,
  type ProcessDriverOptions,
  type StartedInstance,
} from './driver.ts';
export { claimUsers } from './users.ts';
export { UnknownProject, type DetectedProject } from './projects.ts';
export {
  ensureProxy,
  writeDatabaseUrl,
  type ProxyHandle,
  type ProxyOptions,
  type ProxyStatus,
} from './proxy/client.ts';
