import { z } from 'zod';
import type { App } from '#kernel/app.ts';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { QuotaExceeded } from '../errors.ts';
import { quotaChanged } from '../events.ts';
import { canOperate } from '../policy.ts';
import { Disk } from './disk.ts';
import { DeploymentSettings, type QuotaLimits } from './shared.ts';

export type { QuotaLimits };

const NewQuota = z.object({
  workspaceId: z.string(),
  maxApplications: z.int().min(0).max(100_000).nullish(),
  maxConcurrentDeployments: z.int().min(1).max(10_000).nullish(),
  retainedReleases: z.int().min(1).max(100).nullish(),
  maxDiskMb: z.int().min(0).max(1_000_000_000).nullish(),
});

/** How much a workspace has of what is limited. */
export interface QuotaUse {
  readonly applications: number;
  readonly concurrentDeployments: number;
}

/** What an operator has said, else the settings. */
function limits(app: App, own: { readonly [K in keyof QuotaLimits]: number | null } | null): QuotaLimits {
  const { quotas } = app.use(DeploymentSettings);
  return {
    maxApplications: own?.maxApplications ?? quotas.maxApplications,
    maxConcurrentDeployments: own?.maxConcurrentDeployments ?? quotas.maxConcurrentDeployments,
    retainedReleases: own?.retainedReleases ?? quotas.retainedReleases,
    maxDiskMb: own?.maxDiskMb ?? quotas.maxDiskMb,
  };
}

/** What workspaces may have. The only writer of workspace_quota. */
export const Quotas = service('quotas', (app) => ({
  /** What operators have said of the workspace, else the settings. */
  async of(db: Pick<App['db'], 'workspaceQuota'>, workspaceId: string): Promise<QuotaLimits> {
    return limits(app, await db.workspaceQuota.findUnique({ where: { workspaceId } }));
  },

  /** How many deployments of the workspace are executed at once: asked for each that is to begin. */
  async concurrentDeployments(tx: Transaction, workspaceId: string): Promise<number> {
    const [own] = await tx.sql<{ most: number | null }>(
      'select max_concurrent_deployments most from workspace_quota where workspace_id = $1',
      [workspaceId],
    );
    return own?.most ?? app.use(DeploymentSettings).quotas.maxConcurrentDeployments;
  },

  /** The same of many workspaces, in their order. */
  async ofAll(workspaceIds: readonly string[]): Promise<QuotaLimits[]> {
    const rows = await app.db.workspaceQuota.findMany({ where: { workspaceId: { in: [...workspaceIds] } } });
    const byId = new Map(rows.map((row) => [row.workspaceId, row]));
    return workspaceIds.map((id) => limits(app, byId.get(id) ?? null));
  },

  /** Makes sure that a workspace may have one application more, until the end of the transaction. @throws {QuotaExceeded} */
  async requireRoom(tx: Transaction, workspaceId: string): Promise<void> {
    // Of two that come at once the second one sees the first. What refers to the workspace otherwise does not wait.
    await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
    const { maxApplications } = await this.of(tx.db, workspaceId);
    const count = await tx.db.application.count({ where: { workspaceId } });
    if (count >= maxApplications) throw new QuotaExceeded('APPLICATIONS', maxApplications, count);
  },

  /** Disk of the applications of each of these workspaces, in their order, as it was measured last, MiB. */
  async diskMb(workspaceIds: readonly string[]): Promise<number[]> {
    const used = await app.use(Disk).usedMb(workspaceIds);
    return workspaceIds.map((id) => used.get(id) ?? 0);
  },

  /** Whether a workspace may have more built, by what was measured last. @throws {QuotaExceeded} */
  async requireDisk(workspaceId: string): Promise<void> {
    const { maxDiskMb } = await this.of(app.db, workspaceId);
    const [used = 0] = await this.diskMb([workspaceId]);
    if (used >= maxDiskMb) throw new QuotaExceeded('DISK', maxDiskMb, used);
  },

  /** How much of it is used in each of these workspaces, in their order. */
  async used(workspaceIds: readonly string[]): Promise<QuotaUse[]> {
    const workspaceId = { in: [...workspaceIds] };
    const [applications, deployments] = await Promise.all([
      app.db.application.groupBy({ by: ['workspaceId'], where: { workspaceId }, _count: { id: true } }),
      app.db.run.groupBy({
        by: ['workspaceId'],
        where: { workspaceId, kind: 'Deployment', completedAt: null, attempt: { gt: 0 } },
        _count: { id: true },
      }),
    ]);
    const count = (of: typeof applications | typeof deployments) =>
      new Map(of.map((one) => [one.workspaceId, one._count.id]));
    const [ofApplications, ofDeployments] = [count(applications), count(deployments)];
    return workspaceIds.map((id) => ({
      applications: ofApplications.get(id) ?? 0,
      concurrentDeployments: ofDeployments.get(id) ?? 0,
    }));
  },

  /**
   * Says what a workspace may have; null: what the settings say. What it has already stays.
   * @throws {ValidationError} {Unauthenticated} {NotFound} for everybody but operators {Forbidden}
   */
  async set(actor: Actor, raw: unknown): Promise<{ workspaceId: string; event: Appended }> {
    const { workspaceId, ...limits } = parse(NewQuota, raw);
    authorize(actor, canOperate.setWorkspaceQuota, instanceWorkspaceId);
    return app.transact(actor, async (tx) => {
      const known = isId(workspaceId) && (await tx.db.workspace.count({ where: { id: workspaceId } })) > 0;
      if (!known || workspaceId === instanceWorkspaceId) throw new NotFound('Workspace', workspaceId);
      const data = {
        maxApplications: limits.maxApplications ?? null,
        maxConcurrentDeployments: limits.maxConcurrentDeployments ?? null,
        retainedReleases: limits.retainedReleases ?? null,
        maxDiskMb: limits.maxDiskMb ?? null,
      };
      await tx.db.workspaceQuota.upsert({ where: { workspaceId }, create: { workspaceId, ...data }, update: data });
      return { workspaceId, event: tx.append({ type: quotaChanged, workspaceId, subjectId: workspaceId, data }) };
    });
  },
}));
