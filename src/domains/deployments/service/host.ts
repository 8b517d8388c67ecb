import { mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import type { App, Service } from '#kernel/app.ts';
import { required } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { shareExecutable } from '#kernel/db/state-dirs.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import { isAlive } from '#kernel/processes/children.ts';
import { createGit, type Git, type GitProtocol } from '../../../integrations/git/index.ts';
import {
  createProcessDriver,
  ensureProxy,
  type ProcessDriver,
  type ProxyHandle,
} from '../../../integrations/process/index.ts';
import { instanceRestarted } from '../events.ts';
import { DeploymentSettings } from './applications.ts';

/** What this host runs applications with. */
export interface DeploymentHost {
  readonly hostId: string;
  readonly git: Git;
  readonly driver: ProcessDriver;
  /** Makes the address proxy follow the rows, and waits until it routes the application at this version or later. */
  route(applicationId: string, version: number, signal: AbortSignal): Promise<void>;
}
export const DeploymentHost = required<DeploymentHost>('host of the process driver: is SWITCHYARD_PROCESS_DRIVER on?');

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
    readonly addressPorts: { readonly from: number; readonly to: number };
    readonly instancePorts: { readonly from: number; readonly to: number };
    readonly pathDirs: readonly string[];
    readonly buildEnvironment: Readonly<Record<string, string>>;
  };
  readonly outbound: { readonly gitProtocols: readonly GitProtocol[]; readonly allowLoopback: boolean };
}

export interface DeploymentsHost {
  readonly hostId: string;
  stop(options: { endApplications: boolean }): Promise<void>;
}

/** Releases that are kept for each application, the one that serves not counted. */
const keptReleases = 5;
/** How long requests may go on at an instance that no longer serves, milliseconds. */
const drainMs = 15_000;
const stopGraceMs = 5_000;

/** Provides what deployments need in this process, and starts the agent of this host where there is a worker. */
export async function startDeployments(
  app: App,
  provided: Map<Service<unknown>, unknown>,
  options: DeploymentsOptions,
): Promise<DeploymentsHost> {
  const settings: DeploymentSettings = {
    gitProtocols: options.outbound.gitProtocols,
    addressPorts: options.driver.addressPorts,
  };
  provided.set(DeploymentSettings, settings);
  if (!options.worker || !options.driver.process) {
    if (options.worker) app.log.warn('the process driver is off: this worker runs no deployments');
    return { hostId: options.hostId, stop: async () => undefined };
  }
  const hostDir = path.join(options.sharedDir, 'host');
  await mkdir(hostDir, { recursive: true, mode: 0o711 });
  const nodeBinary = await shareExecutable(process.execPath, options.sharedDir);
  const driver = await createProcessDriver({
    hostDir,
    userBase: options.driver.appUserBase,
    nodeBinary,
    pathDirs: options.driver.pathDirs,
    limits: { memoryMb: options.driver.appMemoryMb, maxOpenFiles: 4096, maxProcesses: 256 },
    instancePorts: options.driver.instancePorts,
    buildEnvironment: options.driver.buildEnvironment,
    log: app.log,
  });
  const git = await createGit({
    path: options.driver.pathDirs.join(':'),
    protocols: options.outbound.gitProtocols,
    outbound: createOutboundPolicy({ allowLoopback: options.outbound.allowLoopback }),
    homeDir: path.join(hostDir, 'git'),
    log: app.log,
  });
  app.log.info(
    { isolation: driver.limits.isolation, applied: driver.limits.applied, missing: driver.limits.missing },
    'process driver',
  );
  const agent = new HostAgent(app, driver, { ...options, hostDir, nodeBinary });
  await agent.start();
  const host: DeploymentHost = {
    hostId: options.hostId,
    git,
    driver,
    route: (applicationId, version, signal) => agent.route(applicationId, version, signal),
  };
  provided.set(DeploymentHost, host);
  return { hostId: options.hostId, stop: (how) => agent.stop(how) };
}

type AgentOptions = DeploymentsOptions & { readonly hostDir: string; readonly nodeBinary: string };

interface ServingRelease {
  readonly id: string;
  readonly path: string;
  readonly startCommand: string;
  readonly pid: number | null;
  readonly startTime: string | null;
  readonly instancePort: number | null;
}

/**
 * Keeps this host as the rows say: what should serve runs, what should not is ended, the address proxy is alive. One
 * of the worker processes of a host does it at a time, the one that holds the host's lease.
 */
class HostAgent {
  readonly #app: App;
  readonly #driver: ProcessDriver;
  readonly #options: AgentOptions;
  readonly #agentId = crypto.randomUUID();
  readonly #abort = new AbortController();
  /** When a release may be restarted again, by release id: crashes in a row wait longer. */
  readonly #restarts = new Map<string, { notBefore: number; waitMs: number }>();
  #proxy: ProxyHandle | null = null;
  #loop: Promise<void> = Promise.resolve();
  #wake: () => void = () => undefined;

  constructor(app: App, driver: ProcessDriver, options: AgentOptions) {
    this.#app = app;
    this.#driver = driver;
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.#seen();
    await this.#ensureProxy();
    this.#app.hub.onHost(this.#options.hostId, () => this.#wake());
    this.#loop = this.#run();
  }

  async stop({ endApplications }: { endApplications: boolean }): Promise<void> {
    this.#abort.abort();
    this.#wake();
    await this.#loop;
    if (!endApplications) return;
    const running = await this.#app.db.release.findMany({
      where: { application: { hostId: this.#options.hostId }, pid: { not: null } },
    });
    await Promise.all(running.map((release) => this.#end(release)));
    await this.#proxy?.stop();
  }

  async route(applicationId: string, version: number, signal: AbortSignal): Promise<void> {
    const row = await this.#app.db.application.findUniqueOrThrow({
      where: { id: applicationId },
      select: { port: true },
    });
    for (let waitMs = 20; ; waitMs = Math.min(waitMs * 2, 500)) {
      signal.throwIfAborted();
      await this.#ensureProxy();
      const status = await this.#proxy?.sync();
      const route = status?.rows.find((one) => one.port === row.port);
      if (route && route.version >= version && !status?.databaseError) {
        if (route.problem) throw new Error(`The address of the application cannot be served: ${route.problem}`);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }

  async #ensureProxy(): Promise<void> {
    this.#proxy = await ensureProxy({
      hostDir: this.#options.hostDir,
      hostId: this.#options.hostId,
      databaseUrl: this.#options.databaseUrl,
      nodeBinary: this.#options.nodeBinary,
      log: this.#app.log,
    });
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      try {
        if (await this.#seen()) {
          await this.#ensureProxy();
          await this.#keepServing();
          await this.#endRetired();
          await this.#prune();
        }
      } catch (error) {
        this.#app.log.warn({ err: error }, 'host not looked after; trying again');
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
        if (signal.aborted) this.#wake();
      });
    }
  }

  /** Shows that the host is alive. True when this process is the one that looks after it. */
  async #seen(): Promise<boolean> {
    const { rows } = await this.#app.database.pool.query<{ agent_id: string }>(
      `insert into host (id, name, last_seen_at, agent_id, agent_until, updated_at)
       values ($1, $2, clock_timestamp(), $3, clock_timestamp() + interval '10 seconds', clock_timestamp())
       on conflict (id) do update set name = excluded.name, last_seen_at = excluded.last_seen_at, updated_at = excluded.updated_at,
         agent_id = case when host.agent_id = excluded.agent_id or host.agent_until < clock_timestamp() then excluded.agent_id else host.agent_id end,
         agent_until = case when host.agent_id = excluded.agent_id or host.agent_until < clock_timestamp() then excluded.agent_until else host.agent_until end
       returning agent_id`,
      [this.#options.hostId, hostname(), this.#agentId],
    );
    return rows[0]?.agent_id === this.#agentId;
  }

  /** Starts again what should serve and has died. */
  async #keepServing(): Promise<void> {
    const applications = await this.#app.db.application.findMany({
      where: { hostId: this.#options.hostId, activeReleaseId: { not: null } },
      include: { activeRelease: true },
    });
    for (const application of applications) {
      const release = application.activeRelease;
      if (!release || this.#abort.signal.aborted || (await alive(release))) continue;
      const restart = this.#restarts.get(release.id) ?? { notBefore: 0, waitMs: 500 };
      if (Date.now() < restart.notBefore) continue;
      this.#restarts.set(release.id, {
        notBefore: Date.now() + restart.waitMs,
        waitMs: Math.min(restart.waitMs * 2, 60_000),
      });
      this.#app.log.warn(
        { applicationId: application.id, releaseId: release.id },
        'the instance that serves has died: starting it again',
      );
      const instance = await this.#driver.start({
        path: release.path,
        startCommand: release.startCommand,
        environment: application.environment as Record<string, string>,
        userSlot: application.userSlot,
        record: async () => undefined, // the row below is its record; what dies in between is found by its user
      });
      const kept = await this.#app.transact(system, async (tx) => {
        const { count } = await tx.db.release.updateMany({
          where: { id: release.id, status: 'ACTIVE', pid: release.pid, startTime: release.startTime },
          data: { pid: instance.pid, startTime: instance.startTime, instancePort: instance.port },
        });
        if (count === 0) return false;
        await tx.db.application.update({ where: { id: application.id }, data: { routeVersion: { increment: 1 } } });
        tx.append({
          type: instanceRestarted,
          workspaceId: application.workspaceId,
          subjectId: application.id,
          data: { releaseId: release.id },
        });
        return true;
      });
      if (!kept) await this.#driver.stop(instance, stopGraceMs);
      await this.#proxy?.sync();
    }
  }

  /** Ends instances of releases that no longer serve, once nothing is in flight to them. */
  async #endRetired(): Promise<void> {
    const retired = await this.#app.db.release.findMany({
      where: { application: { hostId: this.#options.hostId }, status: 'RETIRED', pid: { not: null } },
    });
    if (retired.length === 0) return;
    const status = await this.#proxy?.sync();
    for (const release of retired) {
      const busy = status?.inFlight.some((one) => one.upstreamPort === release.instancePort && one.count > 0) ?? false;
      const routed = status?.rows.some((row) => row.upstreamPort === release.instancePort) ?? false;
      const overdue = Date.now() - (release.retiredAt?.getTime() ?? 0) > drainMs;
      if ((busy || routed) && !overdue) continue;
      await this.#end(release);
    }
  }

  async #end(release: ServingRelease): Promise<void> {
    if (release.pid !== null && release.startTime !== null) {
      await this.#driver.stop({ pid: release.pid, startTime: release.startTime }, stopGraceMs);
    }
    await this.#app.db.release.updateMany({
      where: { id: release.id, pid: release.pid, startTime: release.startTime },
      data: { pid: null, startTime: null, instancePort: null },
    });
  }

  /** Removes the files of old releases, never of one that serves or that a run may restore. */
  async #prune(): Promise<void> {
    const { rows } = await this.#app.database.pool.query<{ id: string; path: string }>(
      `select id, path from (
         select r.id, r.path, r.activated_at, row_number() over (partition by r.application_id, (r.activated_at is null) order by r.created_at desc) n
         from release r join application a on a.id = r.application_id
         where a.host_id = $1 and r.status = 'RETIRED' and r.pid is null and r.pruned_at is null
           and not exists (select 1 from deployment d join run on run.id = d.id where d.restores_id = r.id and run.completed_at is null)
       ) old where (activated_at is null and n > 1) or n > $2 limit 20`,
      [this.#options.hostId, keptReleases],
    );
    for (const { id, path: folder } of rows) {
      await this.#app.db.release.updateMany({ where: { id, status: 'RETIRED' }, data: { prunedAt: new Date() } });
      await this.#driver.remove(folder);
    }
  }
}

/** Whether the recorded process of a release runs. */
export async function alive(release: {
  readonly pid: number | null;
  readonly startTime: string | null;
}): Promise<boolean> {
  return (
    release.pid !== null && release.startTime !== null && isAlive({ pid: release.pid, startTime: release.startTime })
  );
}
