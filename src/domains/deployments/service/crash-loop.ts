import type { Application, Release } from '#prisma';
import type { App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { runKind } from '#kernel/runs/kinds.ts';
import { openRun, Runs } from '#kernel/runs/runs.ts';
import { crashLooped } from '../events.ts';
import { lockApplication } from './shared.ts';

/**
 * Whether what serves has died so often, so soon after its activation, that it is one that crashes again and again. It
 * has died once more when this is asked.
 */
export function isCrashLoop(
  application: Pick<Application, 'crashLoopRestarts' | 'crashLoopWindowS'>,
  release: Pick<Release, 'restarts' | 'activatedAt' | 'crashLoopedAt'>,
): boolean {
  const { crashLoopRestarts, crashLoopWindowS } = application;
  return (
    crashLoopRestarts > 0 &&
    release.crashLoopedAt === null &&
    release.restarts >= crashLoopRestarts &&
    Date.now() - (release.activatedAt?.getTime() ?? 0) <= crashLoopWindowS * 1000
  );
}

/**
 * Says that a release crashes again and again, once, and has the one before it brought back, where there is one. What
 * was brought back by the server is left alone: when it crashes, too, the cause is another one, and to go further back,
 * or forth, would help nobody. Nor is anything done while somebody deploys.
 */
export async function leaveCrashLoop(app: App, applicationId: string, releaseId: string): Promise<void> {
  await app.transact(system, async (tx) => {
    const application = await lockApplication(tx, applicationId);
    if (application?.activeReleaseId !== releaseId || application.removalAskedAt) return;
    const release = await tx.db.release.findUniqueOrThrow({ where: { id: releaseId } });
    if (!isCrashLoop(application, release)) return;
    if ((await tx.db.deployment.count({ where: { applicationId, run: openRun } })) > 0) return;
    await tx.db.release.update({ where: { id: releaseId }, data: { crashLoopedAt: new Date() } });
    const since = await tx.db.activation.findFirst({
      where: { releaseId, endedAt: null },
      select: { deployment: { select: { run: { select: { trigger: true } } } } },
    });
    const byServer = since?.deployment?.run.trigger === 'AUTOMATIC_ROLLBACK';
    const former = byServer
      ? null
      : await tx.db.release.findFirst({
          where: {
            applicationId,
            id: { not: releaseId },
            status: 'RETIRED',
            activatedAt: { not: null },
            prunedAt: null,
            crashLoopedAt: null,
          },
          orderBy: { retiredAt: 'desc' },
        });
    const started =
      former &&
      (await app.use(Runs).create(tx, {
        kind: runKind('Deployment'),
        workspaceId: application.workspaceId,
        input: { kind: 'RESTORE', applicationId, releaseId: former.id },
        lockKey: `application:${applicationId}`,
        hostId: application.hostId,
        trigger: 'AUTOMATIC_ROLLBACK',
      }));
    tx.append({
      type: crashLooped,
      workspaceId: application.workspaceId,
      subjectId: applicationId,
      data: { releaseId, restarts: release.restarts, deploymentId: started?.id ?? null },
    });
  });
}
