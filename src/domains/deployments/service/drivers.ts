import { Prisma, type Application, type Release } from '#prisma';
import { exists } from '#kernel/db/state-dirs.ts';
import type { Logger } from '#kernel/log.ts';
import type { Ec2, Ec2Options } from '../../../integrations/ec2/index.ts';
import type { Driver, DriverName, Limits, Opaque } from './driver.ts';
import { createDockerDriver, DriverUnavailable } from '../../../integrations/docker/index.ts';
import { DriverOff } from '../errors.ts';
import { detectProject, lineSplitter, listenersOf, probe } from '../../../integrations/process/index.ts';

export interface DockerOptions {
  /** `on`: a worker without its engine does not start. */
  readonly mode: 'auto' | 'on' | 'off';
  readonly socketPath: string;
  readonly nodeImage: string;
  readonly appMilliCpus: number;
  readonly buildMemoryMb: number;
  readonly buildMilliCpus: number;
  /** How long a step waits for an engine that is away. */
  readonly patienceS: number;
}

/** One instance that this worker runs applications on as well. */
export type Ec2Settings = Pick<
  Ec2Options,
  'instanceId' | 'region' | 'bucket' | 'address' | 'socketPath' | 'ssmEndpoint' | 's3Endpoint'
>;

/** What holds for every engine that runs applications. */
export interface EngineOptions {
  readonly hostId: string;
  readonly docker: DockerOptions;
  readonly memoryMb: number;
  readonly maxProcesses: number;
  readonly buildEnvironment: Readonly<Record<string, string>>;
  readonly log: Logger;
}

/** How often an engine is asked whether it is there, milliseconds. */
const askAgainMs = 5_000;

/** The drivers of a host. */
export class Drivers {
  readonly #all: readonly Driver[];
  /** Those that can be asked for, and when they were found. */
  #offered: { readonly names: readonly DriverName[]; readonly at: number } = { names: [], at: -Infinity };

  constructor(all: readonly Driver[]) {
    this.#all = all;
  }

  /** @throws {DriverOff} */
  get(name: DriverName): Driver {
    const found = this.#all.find((one) => one.name === name);
    if (!found) throw new DriverOff(name);
    return found;
  }

  has(name: DriverName): boolean {
    return this.#all.some((one) => one.name === name);
  }

  /** What applications may be placed with. One that was there stays: what it runs comes back with it. */
  async offered(): Promise<readonly DriverName[]> {
    if (performance.now() - this.#offered.at < askAgainMs) return this.#offered.names;
    const before = this.#offered.names;
    const names = await Promise.all(
      this.#all.map(async (one) => (before.includes(one.name) || (await one.answers()) ? [one.name] : [])),
    );
    this.#offered = { names: names.flat(), at: performance.now() };
    return this.#offered.names;
  }
}

/**
 * The driver of this host's engine; null: it is turned off, or there is none yet and nobody waits for it.
 * @throws Error when it has to be there and is not
 */
export async function connectDocker(
  options: EngineOptions & { readonly findPort: () => Promise<number>; readonly waitForIt: boolean },
): Promise<Driver | null> {
  const { docker, log } = options;
  if (docker.mode === 'off') return null;
  if (docker.mode === 'auto' && !options.waitForIt && !(await exists(docker.socketPath))) return null;
  const driver = await createDockerDriver({
    ...engineOptions(options),
    engine: docker.socketPath,
    kit: { findPort: options.findPort, listenersOf, lineSplitter, detectProject, probe },
  });
  const answers = await driver.answers();
  if (!answers && docker.mode === 'on')
    throw new Error(`SWITCHYARD_DOCKER is on, but no Docker engine answers at unix://${docker.socketPath}.`);
  log.info({ socket: docker.socketPath, answers }, 'docker driver');
  return answers || options.waitForIt ? driver : null;
}

/**
 * The driver of the engine of an EC2 instance: the one of Docker, by another way.
 * @throws Error when the instance, its engine or the bucket cannot be used
 */
export async function connectEc2Driver(
  options: EngineOptions & Pick<Ec2Options, 'folder' | 'ports'> & { readonly ec2: Ec2Settings },
): Promise<{ readonly driver: Driver; readonly instance: Ec2 }> {
  const { ec2, hostId, folder, ports, log } = options;
  // A worker without an instance does not load it.
  const { connectEc2 } = await import('../../../integrations/ec2/index.ts');
  const instance = await connectEc2({ ...ec2, hostId, folder, ports, log });
  try {
    const driver = await createEc2Driver(engineOptions(options), instance);
    if (!(await driver.answers()))
      throw new Error(`The Docker engine of the instance ${ec2.instanceId} does not answer.`);
    log.info({ instanceId: ec2.instanceId, address: instance.address }, 'ec2 driver');
    return { driver, instance };
  } catch (error) {
    await instance.close();
    throw error;
  }
}

export const createEc2Driver = (
  options: ReturnType<typeof engineOptions>,
  { agent, address, findPort }: Pick<Ec2, 'agent' | 'address' | 'findPort'>,
  waits: { readonly sharedMs: number; readonly lastWordsMs: number } = { sharedMs: 3_000, lastWordsMs: 3_000 },
): Promise<Driver> =>
  createDockerDriver({
    ...options,
    engine: { name: 'EC2', agent, address, ...waits },
    kit: {
      findPort,
      listenersOf: () => Promise.resolve(null),
      lineSplitter,
      detectProject,
      probe: (what, objection) => probe({ ...what, host: address }, objection),
    },
  });

const engineOptions = ({ hostId, docker, memoryMb, maxProcesses, buildEnvironment }: EngineOptions) => ({
  hostId,
  nodeImage: docker.nodeImage,
  limits: { memoryMb, milliCpus: docker.appMilliCpus, maxProcesses },
  build: {
    memoryMb: docker.buildMemoryMb,
    milliCpus: docker.buildMilliCpus,
    // A path of this host leads nowhere in an image.
    environment: Object.fromEntries(Object.entries(buildEnvironment).filter(([, value]) => !value.startsWith('/'))),
  },
});

export const limitsOf = ({ memoryMb, milliCpus }: Pick<Application, 'memoryMb' | 'milliCpus'>): Limits => ({
  memoryMb,
  milliCpus,
});

/** Whether a driver cannot be asked now: it is away or off, which is no fault of what it was asked for. */
export const isAway = (error: unknown): boolean => error instanceof DriverUnavailable || error instanceof DriverOff;

/** What a release has of its driver. */
export function runningOf({ artifact, instance }: Pick<Release, 'artifact' | 'instance'>): {
  readonly artifact: Opaque;
  readonly instance: Opaque | null;
} {
  return { artifact: artifact as Opaque, instance: instance as Opaque | null };
}

/** The columns of a release that runs nothing. */
export const noInstance = { instance: Prisma.DbNull, instanceHost: null, instancePort: null, instanceUid: null };

/** Rows whose instance is this very one; null: that have none. */
export const sameInstance = (instance: Release['instance']) => ({
  instance: { equals: instance === null ? Prisma.DbNull : (instance as Prisma.InputJsonValue) },
});
/** Rows that have an instance. */
export const someInstance = { instance: { not: Prisma.DbNull } };
