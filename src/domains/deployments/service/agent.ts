import { setTimeout as delay } from 'node:timers/promises';
import { hostname } from 'node:os';
import type { App } from '#kernel/app.ts';
import type { Application, Prisma, Release } from '#prisma';
import { system } from '#kernel/auth/actor.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { isId } from '#kernel/ids.ts';
import {
  ensureProxy,
  type ProcessDriver,
  type ProxyHandle,
  type ProxyStatus,
} from '../../../integrations/process/index.ts';
import { instanceRestarted } from '../events.ts';
import { lockApplication, userSlotOf } from './applications.ts';
import { isCrashLoop, leaveCrashLoop } from './crash-loop.ts';
import { DiskWatch } from './disk.ts';
import type { Driver, DriverName, Opaque } from './driver.ts';
import { isAway, limitsOf, noInstance, runningOf, sameInstance, someInstance, type Drivers } from './drivers.ts';
import { environmentOf, Environments } from './environment.ts';
import { Monitor } from './monitor.ts';

/** The row tells by now that nothing is to be restarted. */
class NoLongerServes extends Error {}

const driverNames = ['PROCESS', 'DOCKER', 'EC2'] as const satisfies readonly DriverName[];

/** How often the folders of this host are compared with the rows, milliseconds. */
const sweepMs = 5_000;
/** How long requests may go on at an instance that no longer serves, milliseconds. */
const drainMs = 15_000;
const stopGraceMs = 5_000;
/** A container that no row knows may have been made for one that is being written, milliseconds. */
const orphanAfterMs = 30_000;
/** How often a driver that is away is told of, milliseconds. */
const tellAgainMs = 60_000;

export interface AgentOptions {
  readonly hostId: string;
  readonly databaseUrl: string;
  readonly hostDir: string;
  readonly nodeBinary: string;
  /** How often instances are looked at, and their disk is measured, milliseconds; 0: never. */
  readonly metricsMs: number;
  readonly diskMs: number;
  /** Of each application, where operators have said nothing else of its workspace. */
  readonly retainedReleases: number;
}

type ServingRelease = Pick<Release, 'id' | 'driver' | 'instance'>;

/**
 * Keeps this host as the rows say: what should serve runs, what should not is ended, the address proxy is alive. One
 * of the worker processes of a host does it at a time, the one that holds the host's lease.
 */
export class HostAgent {
  readonly #app: App;
  readonly #drivers: Drivers;
  readonly #checkouts: ProcessDriver;
  readonly #options: AgentOptions;
  readonly #agentId = crypto.randomUUID();
  readonly #abort = new AbortController();
  /** When a release may be restarted again, by release id: crashes in a row wait longer. */
  readonly #restarts = new Map<string, { notBefore: number; waitMs: number }>();
  #proxy: ProxyHandle | null = null;
  #ensuring: Promise<ProxyHandle> | null = null;
  /** By driver: the look at what it runs that goes on now. */
  readonly #looks = new Map<DriverName, Promise<void>>();
  readonly #sweptAt = new Map<DriverName, number>();
  #toldAway = -Infinity;
  #loop: Promise<unknown> = Promise.resolve();
  #wake: () => void = () => undefined;

  constructor(app: App, drivers: Drivers, checkouts: ProcessDriver, options: AgentOptions) {
    this.#app = app;
    this.#drivers = drivers;
    this.#checkouts = checkouts;
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.#seen();
    await this.#ensureProxy();
    this.#app.hub.onHost(this.#options.hostId, () => this.#wake());
    const monitor = new Monitor(this.#app, this.#drivers, {
      hostId: this.#options.hostId,
      agentId: this.#agentId,
      everyMs: this.#options.metricsMs,
    });
    const { hostId, metricsMs, diskMs } = this.#options;
    const disk = new DiskWatch(this.#app, this.#drivers, this.#checkouts, {
      hostId,
      agentId: this.#agentId,
      everyMs: diskMs,
    });
    const { signal } = this.#abort;
    this.#loop = Promise.all([
      this.#run(),
      metricsMs > 0 ? monitor.run(signal) : null,
      diskMs > 0 ? disk.run(signal) : null,
    ]);
  }

  async stop({ endApplications }: { endApplications: boolean }): Promise<void> {
    this.#abort.abort();
    this.#wake();
    await this.#loop;
    // Another worker of the host need not wait until the lease runs out.
    await this.#app.database.pool.query(
      `update host set agent_until = clock_timestamp() where id = $1 and agent_id = $2`,
      [this.#options.hostId, this.#agentId],
    );
    if (!endApplications) {
      // What serves, serves on. A proxy that serves nothing is nobody's: a worker that needs it starts it again.
      const serving = await this.#app.db.application.count({
        where: { hostId: this.#options.hostId, activeReleaseId: { not: null } },
      });
      if (serving === 0) await this.#proxy?.stop();
      return;
    }
    const running = await this.#app.db.release.findMany({
      where: { application: { hostId: this.#options.hostId }, ...someInstance },
    });
    await Promise.all(running.map((release) => this.#end(release)));
    await this.#proxy?.stop();
  }

  async route(applicationId: string, version: number, signal: AbortSignal): Promise<void> {
    const row = await this.#app.db.application.findUniqueOrThrow({
      where: { id: applicationId },
      select: { port: true },
    });
    const { problem } = await this.#routed((route) => route.port === row.port && route.version >= version, signal);
    if (problem) throw new Error(`port ${row.port} cannot be opened (${problem})`);
  }

  async addressProblem(port: number, signal: AbortSignal): Promise<string | null> {
    return (await this.#routed((route) => route.port === port, signal)).problem;
  }

  /** Makes the proxy read the rows until it has such a route. @throws the signal's reason */
  async #routed(
    is: (route: ProxyStatus['rows'][number]) => boolean,
    signal: AbortSignal,
  ): Promise<ProxyStatus['rows'][number]> {
    for (let waitMs = 20; ; waitMs = Math.min(waitMs * 2, 500)) {
      signal.throwIfAborted();
      const status = await (await this.#ensureProxy()).sync();
      const route = status.rows.find(is);
      if (route && !status.databaseError) return route;
      await delay(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }

  /** Runs of this process and the agent may ask at once: one of them looks. */
  async #ensureProxy(): Promise<ProxyHandle> {
    this.#ensuring ??= ensureProxy({
      hostDir: this.#options.hostDir,
      hostId: this.#options.hostId,
      databaseUrl: this.#options.databaseUrl,
      nodeBinary: this.#options.nodeBinary,
      log: this.#app.log,
    }).finally(() => {
      this.#ensuring = null;
    });
    this.#proxy = await this.#ensuring;
    return this.#proxy;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      try {
        if (await this.#seen()) {
          await this.#ensureProxy();
          // Side by side: a driver that is away, or slow to say so, holds up nothing but what it runs itself.
          for (const name of driverNames)
            if (!this.#looks.has(name))
              this.#looks.set(name, this.#lookAfter(name).finally(() => this.#looks.delete(name))); // prettier-ignore
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
    await Promise.all(this.#looks.values());
  }

  /** Never rejects. */
  async #lookAfter(name: DriverName): Promise<void> {
    try {
      // Of one that was turned off something may be left. What is built with any is fetched into a folder of processes.
      const placed = { hostId: this.#options.hostId, driver: name };
      if (
        name !== 'PROCESS' &&
        !this.#drivers.has(name) &&
        (await this.#app.db.application.count({ where: placed })) === 0
      )
        return;
      for (const part of [this.#keepServing, this.#endRetired, this.#removeAsked, this.#prune, this.#sweep])
        await this.#unlessAway(() => part.call(this, name));
    } catch (error) {
      this.#app.log.warn({ err: error, driver: name }, 'host not looked after; trying again');
    }
  }

  /** Does it, or tries again in the next round when the driver is away, which is told of once in a while. */
  async #unlessAway(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isAway(error)) throw error;
      if (performance.now() - this.#toldAway < tellAgainMs) return;
      this.#toldAway = performance.now();
      this.#app.log.error({ err: error }, 'a driver is away: what it runs waits for it');
    }
  }

  /** Shows that the host is alive. True when this process is the one that looks after it. */
  async #seen(): Promise<boolean> {
    const { rows } = await this.#app.database.pool.query<{ agent_id: string }>(
      `insert into host (id, name, last_seen_at, agent_id, agent_until, updated_at, drivers)
       values ($1, $2, clock_timestamp(), $3, clock_timestamp() + interval '10 seconds', clock_timestamp(), $4)
       on conflict (id) do update set name = excluded.name, drivers = excluded.drivers, last_seen_at = excluded.last_seen_at, updated_at = excluded.updated_at,
         agent_id = case when host.agent_id = excluded.agent_id or host.agent_until < clock_timestamp() then excluded.agent_id else host.agent_id end,
         agent_until = case when host.agent_id = excluded.agent_id or host.agent_until < clock_timestamp() then excluded.agent_until else host.agent_until end
       returning agent_id`,
      [this.#options.hostId, hostname(), this.#agentId, await this.#drivers.offered()],
    );
    return rows[0]?.agent_id === this.#agentId;
  }

  /** Starts again what should serve and has died. */
  async #keepServing(driver: DriverName): Promise<void> {
    const applications = await this.#app.db.application.findMany({
      where: { hostId: this.#options.hostId, activeRelease: { is: { driver } } },
      include: { activeRelease: true },
    });
    for (const application of applications) {
      const release = application.activeRelease;
      if (!release || this.#abort.signal.aborted) continue;
      try {
        await this.#unlessAway(() => this.#keep(application, release));
      } catch (error) {
        // One that cannot be started holds up no other: of its environment a key may be missing.
        this.#app.log.error({ err: error, applicationId: application.id }, 'an application that should serve does not');
      }
    }
  }

  async #keep(application: Application, release: Release): Promise<void> {
    const { instance } = runningOf(release);
    // Without a port it was recorded by one that was lost before its instance could be routed.
    if (instance && release.instancePort !== null && (await this.#drivers.get(release.driver).alive(instance))) return;
    const restart = this.#restarts.get(release.id) ?? { notBefore: 0, waitMs: 500 };
    if (Date.now() < restart.notBefore) return;
    this.#restarts.set(release.id, {
      notBefore: Date.now() + restart.waitMs,
      waitMs: Math.min(restart.waitMs * 2, 60_000),
    });
    this.#app.log.warn(
      { applicationId: application.id, releaseId: release.id },
      'the instance that serves has died: starting it again',
    );
    // It is started again all the same: until the former one is healthy, nothing else can serve.
    if (isCrashLoop(application, release)) await leaveCrashLoop(this.#app, application.id, release.id);
    try {
      await this.#restart(application, release);
    } catch (error) {
      if (!(error instanceof NoLongerServes)) throw error;
    }
  }

  /** @throws {NoLongerServes} when a run, or another agent, was faster */
  async #restart(application: Application, release: Release): Promise<void> {
    const driver = this.#drivers.get(release.driver);
    const { artifact, instance: former } = runningOf(release);
    if (former) await driver.stop(former, 0);
    const change = (
      from: Release['instance'],
      data: Prisma.ReleaseUpdateManyMutationInput,
      more?: (tx: Transaction) => void,
    ) =>
      this.#app.transact(system, async (tx) => {
        await lockApplication(tx, application.id);
        const { count } = await tx.db.release.updateMany({
          where: { id: release.id, status: 'ACTIVE', ...sameInstance(from) },
          data,
        });
        if (count === 0) throw new NoLongerServes();
        await tx.db.application.update({ where: { id: application.id }, data: { routeVersion: { increment: 1 } } });
        more?.(tx);
      });
    const {
      instance,
      host = null,
      port,
      uid,
    } = await driver.start({
      applicationId: application.id,
      userSlot: userSlotOf(application),
      runId: release.deploymentId,
      attempt: 0,
      artifact,
      environment: environmentOf(await this.#app.use(Environments).open(application.id, release.environmentVersion)),
      limits: limitsOf(application),
      // In the row before it runs: whatever happens to this process, the instance is known.
      record: (recorded) =>
        change(release.instance, { instance: recorded, instanceHost: null, instancePort: null, instanceUid: null }),
    });
    await change(
      instance,
      { instanceHost: host, instancePort: port, instanceUid: uid, restarts: { increment: 1 } },
      (tx) =>
        tx.append({
          type: instanceRestarted,
          workspaceId: application.workspaceId,
          subjectId: application.id,
          data: { releaseId: release.id },
        }),
    );
    await this.#proxy?.sync();
  }

  /** Ends instances of releases that no longer serve, once nothing is in flight to them. */
  async #endRetired(driver: DriverName): Promise<void> {
    const retired = await this.#app.db.release.findMany({
      where: { application: { hostId: this.#options.hostId }, driver, status: 'RETIRED', ...someInstance },
    });
    if (retired.length === 0) return;
    const status = await this.#proxy?.sync();
    const idle = retired.filter((release) => {
      // Ports of two machines may be equal.
      const is = (one: { readonly upstreamHost: string | null; readonly upstreamPort: number | null }): boolean =>
        one.upstreamPort === release.instancePort && one.upstreamHost === release.instanceHost;
      const busy = status?.inFlight.some((one) => is(one) && one.count > 0) ?? false;
      const routed = status?.rows.some(is) ?? false;
      const overdue = Date.now() - (release.retiredAt?.getTime() ?? 0) > drainMs;
      return !routed && (!busy || overdue);
    });
    // Side by side: one that takes its grace does not keep the others waiting.
    await Promise.all(idle.map((release) => this.#unlessAway(() => this.#end(release))));
  }

  async #end(release: ServingRelease): Promise<void> {
    if (release.instance !== null)
      await this.#drivers.get(release.driver).stop(release.instance as Opaque, stopGraceMs);
    await this.#app.db.release.updateMany({
      where: { id: release.id, ...sameInstance(release.instance) },
      data: noInstance,
    });
  }

  /** Forgets applications that are to go for good, once nothing of them runs, is routed, or is left on the disk. */
  async #removeAsked(name: DriverName): Promise<void> {
    const asked = await this.#app.db.application.findMany({
      where: {
        hostId: this.#options.hostId,
        // Before there were several, none was written down.
        OR: [{ driver: name }, ...(name === 'PROCESS' ? [{ driver: null }] : [])],
        removalAskedAt: { not: null },
        releases: { none: someInstance },
        deployments: { none: { run: { completedAt: null } } },
      },
      select: { id: true, userSlot: true, driver: true },
      take: 20,
    });
    if (asked.length === 0) return;
    for (const application of asked) await this.#unlessAway(() => this.#forget(application));
    await this.#proxy?.sync();
  }

  async #forget({ id, userSlot, driver }: Pick<Application, 'id' | 'userSlot' | 'driver'>): Promise<void> {
    // Before another application can be given its user.
    if (userSlot !== null) {
      if (driver !== null && driver !== 'PROCESS')
        await this.#drivers.get(driver).forget({ applicationId: id, userSlot });
      await this.#checkouts.forget({ applicationId: id, userSlot });
    }
    await this.#app.transact(system, async (tx) => {
      await lockApplication(tx, id);
      await tx.db.release.updateMany({
        where: { applicationId: id, prunedAt: null },
        data: { prunedAt: new Date() },
      });
      await tx.db.application.update({ where: { id }, data: { hostId: null, port: null, userSlot: null } });
    });
  }

  /** Removes the files of old releases, never of one that serves or that a run may restore. */
  async #prune(name: DriverName): Promise<void> {
    const { rows } = await this.#app.database.pool.query<{
      id: string;
      application_id: string;
      driver: DriverName;
      artifact: Opaque;
    }>(
      `select id, application_id, driver, artifact from (
         select r.id, r.application_id, r.driver, r.artifact, r.activated_at,
           least(coalesce(a.retained_releases, 100), coalesce(q.retained_releases, $2)) kept, row_number() over (partition by r.application_id, (r.activated_at is null) order by coalesce(r.retired_at, r.created_at) desc) n
         from release r join application a on a.id = r.application_id
           left join workspace_quota q on q.workspace_id = a.workspace_id
         where a.host_id = $1 and r.driver::text = $3 and r.status = 'RETIRED' and r.instance is null and r.pruned_at is null
           and not exists (select 1 from deployment d join run on run.id = d.id where d.restores_id = r.id and run.completed_at is null)
       ) old where (activated_at is null and n > 1) or n > kept limit 20`,
      [this.#options.hostId, this.#options.retainedReleases, name],
    );
    for (const row of rows) await this.#unlessAway(() => this.#giveUp(row));
  }

  async #giveUp(row: {
    readonly id: string;
    readonly application_id: string;
    readonly driver: DriverName;
    readonly artifact: Opaque;
  }): Promise<void> {
    const driver = this.#drivers.get(row.driver);
    const given = await this.#app.transact(system, async (tx) => {
      // A rollback is asked for under the same lock: it is seen here, or finds the release pruned.
      await lockApplication(tx, row.application_id);
      return tx.db.$executeRaw`
        update release r set pruned_at = clock_timestamp(), updated_at = clock_timestamp()
        where r.id = ${row.id}::uuid and r.status = 'RETIRED' and r.instance is null
          and not exists (select 1 from deployment d join run on run.id = d.id where d.restores_id = r.id and run.completed_at is null)`;
    });
    if (given > 0) await driver.remove(row.artifact);
  }

  /** Removes what no row needs: of failed builds, of earlier attempts, and what `#prune` could not remove. */
  async #sweep(name: DriverName): Promise<void> {
    if (performance.now() - (this.#sweptAt.get(name) ?? -Infinity) < sweepMs) return;
    this.#sweptAt.set(name, performance.now());
    if (name === 'PROCESS')
      return this.#removeUnneeded(
        (await this.#checkouts.listReleases()).map(({ path: folder, name: release }) => ({
          artifact: { path: folder },
          runId: release.slice(0, release.lastIndexOf('.')),
        })),
        ({ path: folder }) => this.#checkouts.remove(String(folder)),
      );
    if (!(await this.#drivers.offered()).includes(name)) return;
    const driver = this.#drivers.get(name);
    const { artifacts, instances } = await driver.list();
    await this.#endOrphans(driver, instances);
    await this.#removeUnneeded(artifacts, (artifact) => driver.remove(artifact));
  }

  async #removeUnneeded(
    found: readonly { readonly artifact: Opaque; readonly runId: string }[],
    remove: (artifact: Opaque) => Promise<void>,
  ): Promise<void> {
    const known = found.filter(({ runId }) => isId(runId));
    // Only runs that are known to be over: what this database does not know may be another one's.
    const { rows } = await this.#app.database.pool.query<{ artifact: Opaque }>(
      `select f.artifact from unnest($1::jsonb[], $2::uuid[]) f(artifact, run_id) join run on run.id = f.run_id
       where run.completed_at is not null
         and not exists (select 1 from release r where r.deployment_id = f.run_id and r.artifact @> f.artifact and r.pruned_at is null)`,
      [known.map(({ artifact }) => JSON.stringify(artifact)), known.map(({ runId }) => runId)],
    );
    for (const { artifact } of rows) await remove(artifact);
  }

  /** Ends instances that no row has: their worker died before it could tell of them. */
  async #endOrphans(
    driver: Driver,
    found: readonly {
      readonly instance: Opaque;
      readonly runId: string;
      readonly attempt: number;
      readonly ageMs: number;
    }[],
  ): Promise<void> {
    const known = found.filter(({ runId }) => isId(runId));
    const { rows } = await this.#app.database.pool.query<{ instance: Opaque }>(
      `select f.instance from unnest($1::jsonb[], $2::uuid[], $3::int[], $4::float8[]) f(instance, run_id, attempt, age_ms)
       left join run on run.id = f.run_id left join deployment d on d.id = run.id
       -- Of an application that was deleted while its host was lost there is no run any more.
       where (run.id is null and f.age_ms > $5) or (
         ((run.completed_at is not null and f.age_ms > $5) or (f.attempt > 0 and f.attempt < run.attempt))
         and not exists (select 1 from release r where r.application_id = d.application_id and r.instance @> f.instance))`,
      [
        known.map(({ instance }) => JSON.stringify(instance)),
        known.map(({ runId }) => runId),
        known.map(({ attempt }) => attempt),
        known.map(({ ageMs }) => ageMs),
        orphanAfterMs,
      ],
    );
    for (const { instance } of rows) {
      this.#app.log.warn({ instance }, 'ended an instance of no release');
      await driver.stop(instance, 0);
    }
  }
}
