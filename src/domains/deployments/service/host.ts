import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { App, Service } from '#kernel/app.ts';
import type { Application } from '#prisma';
import { required } from '#kernel/app.ts';
import { shareExecutable } from '#kernel/db/state-dirs.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import { createGit, type Git, type GitProtocol } from '../../../integrations/git/index.ts';
import {
  claimUsers,
  createPortFinder,
  createProcessDriver,
  createProcessPort,
  userCount,
  type ProcessDriver,
} from '../../../integrations/process/index.ts';
import { HostAgent } from './agent.ts';
import { DeploymentSettings } from './applications.ts';
import type { Driver, DriverName } from './driver.ts';
import { connectDocker, connectEc2Driver, Drivers, type DockerOptions, type Ec2Settings } from './drivers.ts';
import type { QuotaLimits } from './quotas.ts';
import { provideScanning, type ScanningOptions } from './scanning.ts';

/** What this host runs applications with. */
export interface DeploymentHost {
  readonly hostId: string;
  readonly git: Git;
  /** Folders of applications, each with a user of its own: what is built is fetched into one. */
  readonly checkouts: Pick<ProcessDriver, 'userOf' | 'prepare' | 'remove' | 'endUser' | 'free'>;
  /** @throws Error when this host has it not */
  driver(name: DriverName): Driver;
  /** Makes the address proxy follow the rows, and waits until it routes the application at this version or later. */
  route(applicationId: string, version: number, signal: AbortSignal): Promise<void>;
  /** Waits until the proxy knows an address; why it cannot be opened (the system's code), null: it is open. */
  addressProblem(port: number, signal: AbortSignal): Promise<string | null>;
}
export const DeploymentHost = required<DeploymentHost>(
  'host of a driver: are SWITCHYARD_PROCESS_DRIVER or SWITCHYARD_DOCKER on, or is there an SWITCHYARD_EC2_INSTANCE_ID?',
);

export interface DeploymentsOptions {
  readonly hostId: string;
  /** Folder that other users of the machine can reach. */
  readonly sharedDir: string;
  readonly databaseUrl: string;
  readonly worker: boolean;
  readonly driver: {
    readonly process: boolean;
    readonly appUserBase: number;
    readonly appMemoryMb: number;
    readonly maxMemoryMb: number;
    readonly maxMilliCpus: number;
    readonly quotas: QuotaLimits;
    readonly minFreeDiskMb: number;
    readonly docker: DockerOptions;
    readonly ec2: Ec2Settings | undefined;
    readonly addressPorts: { readonly from: number; readonly to: number };
    readonly instancePorts: { readonly from: number; readonly to: number };
    readonly pathDirs: readonly string[];
    readonly buildEnvironment: Readonly<Record<string, string>>;
  };
  readonly scanning: ScanningOptions;
  readonly outbound: { readonly gitProtocols: readonly GitProtocol[]; readonly allowLoopback: boolean };
  /** How often instances are looked at, milliseconds; 0: never. */
  readonly metricsMs: number;
  /** How often the disk that applications have is measured, milliseconds; 0: never. */
  readonly diskMs: number;
  /** Whether its applications stay when the server goes; else it needs no users for longer than it runs. */
  readonly keepsApplications: boolean;
}

export interface DeploymentsHost {
  readonly hostId: string;
  stop(options: { endApplications: boolean }): Promise<void>;
}

/** What runs an application; it was chosen when the application was placed. */
export function driverOf(app: App, { driver }: Pick<Application, 'driver'>): Driver {
  return app.use(DeploymentHost).driver(driver ?? 'PROCESS');
}

/** Processes and threads of one application. */
const maxProcesses = 256;
/** Provides what deployments need in this process, and starts the agent of this host where there is a worker. */
export async function startDeployments(
  app: App,
  provided: Map<Service<unknown>, unknown>,
  options: DeploymentsOptions,
): Promise<DeploymentsHost> {
  const settings: DeploymentSettings = {
    gitProtocols: options.outbound.gitProtocols,
    addressPorts: options.driver.addressPorts,
    maxMemoryMb: options.driver.maxMemoryMb,
    maxMilliCpus: options.driver.maxMilliCpus,
    driverPatienceS: options.driver.docker.patienceS,
    quotas: options.driver.quotas,
    minFreeDiskMb: options.driver.minFreeDiskMb,
  };
  provided.set(DeploymentSettings, settings);
  const none = { hostId: options.hostId, stop: async () => undefined };
  if (!options.worker) return none;
  const findPort = createPortFinder(options.driver.instancePorts);
  const engine = {
    hostId: options.hostId,
    docker: options.driver.docker,
    memoryMb: options.driver.appMemoryMb,
    maxProcesses,
    buildEnvironment: options.driver.buildEnvironment,
    log: app.log,
  };
  const { ec2: instance } = options.driver;
  const docker = await connectDocker({ ...engine, findPort, waitForIt: options.driver.process });
  if (!options.driver.process && !docker && !instance) {
    app.log.warn('the process driver is off and there is no Docker engine: this worker runs no deployments');
    return none;
  }
  const hostDir = path.join(options.sharedDir, 'host');
  await mkdir(hostDir, { recursive: true, mode: 0o711 });
  const ec2 = instance
    ? await connectEc2Driver({
        ...engine,
        ec2: instance,
        folder: path.join(hostDir, 'ec2'),
        ports: options.driver.instancePorts,
      })
    : null;
  const nodeBinary = await shareExecutable(process.execPath, options.sharedDir);
  const processDriver = await createProcessDriver({
    hostDir,
    userBase: options.driver.appUserBase,
    nodeBinary,
    pathDirs: options.driver.pathDirs,
    limits: { memoryMb: options.driver.appMemoryMb, maxOpenFiles: 4096, maxProcesses },
    findPort,
    buildEnvironment: options.driver.buildEnvironment,
    log: app.log,
  });
  if (processDriver.limits.isolation === 'user' && options.keepsApplications)
    await claimUsers({ hostDir, userBase: options.driver.appUserBase, count: userCount });
  const git = await createGit({
    path: options.driver.pathDirs.join(':'),
    protocols: options.outbound.gitProtocols,
    outbound: createOutboundPolicy({ allowLoopback: options.outbound.allowLoopback }),
    homeDir: path.join(hostDir, 'git'),
    log: app.log,
  });
  const { isolation, applied, missing } = processDriver.limits;
  if (options.driver.process) app.log.info({ isolation, applied, missing }, 'process driver');
  const drivers = new Drivers([
    ...(options.driver.process ? [createProcessPort(processDriver)] : []),
    ...(docker ? [docker] : []),
    ...(ec2 ? [ec2.driver] : []),
  ]);
  const scanners = await provideScanning(provided, {
    ...options.scanning,
    allowLoopback: options.outbound.allowLoopback,
    pathDirs: options.driver.pathDirs,
    cacheDir: path.join(hostDir, 'trivy'),
    environment: options.driver.buildEnvironment,
  });
  const agent = new HostAgent(app, drivers, processDriver, {
    ...options,
    hostDir,
    nodeBinary,
    retainedReleases: options.driver.quotas.retainedReleases,
  });
  await agent.start();
  const host: DeploymentHost = {
    hostId: options.hostId,
    git,
    checkouts: processDriver,
    driver: (name) => drivers.get(name),
    route: (applicationId, version, signal) => agent.route(applicationId, version, signal),
    addressProblem: (port, signal) => agent.addressProblem(port, signal),
  };
  provided.set(DeploymentHost, host);
  return {
    hostId: options.hostId,
    async stop(how) {
      await scanners.close();
      await agent.stop(how);
      await ec2?.instance.close();
    },
  };
}
