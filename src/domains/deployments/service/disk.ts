import { setTimeout as delay } from 'node:timers/promises';
import { service, type App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { Inbox } from '#kernel/inbox/inbox.ts';
import type { ProcessDriver } from '../../../integrations/process/index.ts';
import type { DriverName } from './driver.ts';
import { isAway, type Drivers } from './drivers.ts';
import { DeploymentSettings } from './shared.ts';

const mib = 2 ** 20;
/** People are told from this part of the quota on. */
const almost = 0.9;
/** Of the inbox item of a workspace. */
const key = 'disk';

/** What applications have on the disks of their hosts. The writer of application_disk. */
export const Disk = service('disk', (app) => ({
  /** What the applications of each of these workspaces have together, as it was measured last, MiB, rounded up. */
  async usedMb(workspaceIds: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const { rows } = await app.database.pool.query<{ id: string; mb: number }>(
      `select a.workspace_id id, ceil(sum(d.bytes) / ${mib}.0)::int mb from application a
       join application_disk d on d.application_id = a.id where a.workspace_id = any($1::uuid[]) group by 1`,
      [workspaceIds],
    );
    return new Map(rows.map(({ id, mb }) => [id, mb]));
  },

  /** Writes down what was measured. Of what is not told the last figure stays. */
  async keep(sizes: ReadonlyMap<string, number>): Promise<void> {
    await app.database.pool.query(
      `insert into application_disk (application_id, bytes, measured_at)
       select a.id, s.bytes, clock_timestamp() from unnest($1::uuid[], $2::bigint[]) s(id, bytes) join application a on a.id = s.id
       on conflict (application_id) do update set bytes = excluded.bytes, measured_at = excluded.measured_at`,
      [[...sizes.keys()], [...sizes.values()].map(Math.round)],
    );
  },

  /** Opens an item in the inbox of each workspace that has almost all that it may, and closes those of the others. */
  async tell(): Promise<void> {
    const { quotas } = app.use(DeploymentSettings);
    const { rows } = await app.database.pool.query<{ id: string; mb: number; most: number; open: boolean }>(
      `select w.id, ceil(coalesce(d.bytes, 0) / ${mib}.0)::int mb, coalesce(q.max_disk_mb, $1) most, i.id is not null open
       from workspace w
       left join (select a.workspace_id, sum(bytes) bytes from application_disk d join application a on a.id = d.application_id group by 1) d
         on d.workspace_id = w.id
       left join workspace_quota q on q.workspace_id = w.id
       left join inbox_item i on i.workspace_id = w.id and i.open_key = $2
       where d.workspace_id is not null or i.id is not null`,
      [quotas.maxDiskMb, key],
    );
    for (const { id: workspaceId, mb, most, open } of rows) {
      const holds = mb > 0 && mb >= most * almost;
      if (holds === open) continue;
      await app.transact(system, async (tx) =>
        holds
          ? app.use(Inbox).open(tx, {
              workspaceId,
              kind: 'deployments.disk',
              subjectType: 'Workspace',
              subjectId: workspaceId,
              title: `Applications have ${mb} MiB of the disks of their hosts; from ${most} MiB on nothing more is built.`,
              data: { diskMb: mb, maxDiskMb: most },
              key,
            })
          : app.use(Inbox).resolve(tx, workspaceId, key),
      );
    }
  },
}));

/**
 * Measures what applications of this host have on its disks, again and again. Runs in the process that looks after the
 * host. Measuring is all that can be done: neither file systems nor Docker's usual storage driver hold a limit.
 */
export class DiskWatch {
  readonly #app: App;
  readonly #drivers: Drivers;
  readonly #checkouts: Pick<ProcessDriver, 'sizes'>;
  readonly #options: { readonly hostId: string; readonly agentId: string; readonly everyMs: number };

  constructor(
    app: App,
    drivers: Drivers,
    checkouts: Pick<ProcessDriver, 'sizes'>,
    options: { hostId: string; agentId: string; everyMs: number },
  ) {
    // prettier-ignore
    this.#app = app;
    this.#drivers = drivers;
    this.#checkouts = checkouts;
    this.#options = options;
  }

  /** Goes on until the signal ends it. */
  async run(signal: AbortSignal): Promise<void> {
    const { everyMs } = this.#options;
    while (!signal.aborted) {
      try {
        await this.#measure(signal);
      } catch (error) {
        if (!signal.aborted) this.#app.log.warn({ err: error }, 'disk not measured; trying again');
      }
      await delay(everyMs, undefined, { signal }).catch(() => undefined); // the loop sees the signal
    }
  }

  async #measure(signal: AbortSignal): Promise<void> {
    const { hostId, agentId } = this.#options;
    const placed = await this.#app.db.application.findMany({
      where: { host: { id: hostId, agentId } },
      select: { id: true, driver: true },
    });
    if (placed.length === 0) return;
    // Whatever runs it: what is built is fetched into a folder of processes.
    const folders = await this.#checkouts.sizes(signal);
    const told = new Map<DriverName, ReadonlyMap<string, number>>();
    for (const name of new Set(placed.map(({ driver }) => driver ?? 'PROCESS')))
      if (name !== 'PROCESS') {
        try {
          told.set(name, await this.#drivers.get(name).sizes(signal));
        } catch (error) {
          // Of one that is away the agent speaks; what was measured last holds.
          if (!isAway(error)) throw error;
        }
      }
    const sizes = new Map<string, number>();
    for (const { id, driver } of placed) {
      const name = driver ?? 'PROCESS';
      const folder = folders.get(id);
      if (name === 'PROCESS') {
        if (folder !== undefined) sizes.set(id, folder);
      } else if (told.has(name)) sizes.set(id, (folder ?? 0) + (told.get(name)?.get(id) ?? 0));
    }
    await this.#app.use(Disk).keep(sizes);
    await this.#app.use(Disk).tell();
  }
}
