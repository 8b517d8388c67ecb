export { createDockerDriver, type DockerDriver, type DockerDriverOptions, type HostKit } from './driver.ts';
export { DriverUnavailable } from './engine.ts';
