export {
  BuildFailed,
  EnvironmentRefused,
  NoFreeUser,
  userCount,
  validateEnvironment,
  type ProcessDriver,
  type ProcessDriverLimits,
  type ProcessDriverOptions,
  type StartedInstance,
} from './contract.ts';
export { createProcessDriver } from './driver.ts';
export { createProcessPort } from './port.ts';
export { probe, type ProbeResult } from './probe.ts';
export { createPortFinder, listenersOf } from './ports.ts';
export { lineSplitter } from './lines.ts';
export { claimUsers } from './users.ts';
export { detectProject, UnknownProject, type DetectedProject } from './projects.ts';
export {
  ensureProxy,
  writeDatabaseUrl,
  type ProxyHandle,
  type ProxyOptions,
  type ProxyStatus,
} from './proxy/client.ts';
