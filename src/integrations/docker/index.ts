export { createDockerDriver, type DockerDriver, type DockerDriverOptions } from './driver.ts';
export { DriverUnavailable } from './engine.ts';
