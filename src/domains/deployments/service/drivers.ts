import { Prisma, type Application, type Release } from '#prisma';
import { exists } from '#kernel/db/state-dirs.ts';
import type { Logger } from '#kernel/log.ts';
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
export async function connectDocker(options: {
  readonly hostId: string;
  readonly findPort: () => Promise<number>;
  readonly docker: DockerOptions;
  readonly memoryMb: number;
  readonly maxProcesses: number;
  readonly buildEnvironment: Readonly<Record<string, string>>;
  readonly waitForIt: boolean;
  readonly log: Logger;
}): Promise<Driver | null> {
  const { docker, log } = options;
  if (docker.mode === 'off') return null;
  if (docker.mode === 'auto' && !options.waitForIt && !(await exists(docker.socketPath))) return null;
  const driver = await createDockerDriver({
    hostId: options.hostId,
    socketPath: docker.socketPath,
    nodeImage: docker.nodeImage,
    limits: { memoryMb: options.memoryMb, milliCpus: docker.appMilliCpus, maxProcesses: options.maxProcesses },
    build: {
      memoryMb: docker.buildMemoryMb,
      milliCpus: docker.buildMilliCpus,
      // A path of this host leads nowhere in an image.
      environment: Object.fromEntries(
        Object.entries(options.buildEnvironment).filter(([, value]) => !value.startsWith('/')),
      ),
    },
    kit: { findPort: options.findPort, listenersOf, lineSplitter, detectProject, probe },
  });
  const answers = await driver.answers();
  if (!answers && docker.mode === 'on')
    throw new Error(`SWITCHYARD_DOCKER is on, but no Docker engine answers at unix://${docker.socketPath}.`);
  log.info({ socket: docker.socketPath, answers }, 'docker driver');
  return answers || options.waitForIt ? driver : null;
}

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
export const noInstance = { instance: Prisma.DbNull, instancePort: null, instanceUid: null };

/** Rows whose instance is this very one; null: that have none. */
export const sameInstance = (instance: Release['instance']) => ({
  instance: { equals: instance === null ? Prisma.DbNull : (instance as Prisma.InputJsonValue) },
});
/** Rows that have an instance. */
export const someInstance = { instance: { not: Prisma.DbNull } };
