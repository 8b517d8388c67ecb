import type { Application, Prisma } from '#prisma';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import type { App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { isLost } from '#kernel/runs/host.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { defineWorkspaceCleanup, type CleanupContext, type CleanupReport } from '#kernel/workspace-cleanup.ts';
import { lockApplication, notifyHost } from './applications.ts';
import { someInstance } from './drivers.ts';
import { endServing } from './serving.ts';

/** A host that lives may take so long, milliseconds: instances drain and end, files go. */
const patienceMs = 900_000;
const pollMs = 1000;

/** Takes a workspace's applications off their hosts for good: address, instances and files. */
defineWorkspaceCleanup('applications', (app, workspaceId, context) => takeOff(app, { workspaceId }, context));

/**
 * Takes applications off their hosts for good, and waits until that is done, or cannot be expected any more. May be
 * repeated.
 */
export async function takeOff(
  app: App,
  which: Prisma.ApplicationWhereInput,
  { signal, fence }: Pick<CleanupContext, 'signal' | 'fence'>,
): Promise<CleanupReport> {
  const applications = await app.db.application.findMany({ where: which, select: { id: true } });
  await fence();
  for (const { id } of applications) {
    signal.throwIfAborted();
    await app.transact(system, async (tx) => {
      const application = await lockApplication(tx, id);
      if (application) await askForRemoval(app, tx, application);
    });
  }
  const begun = performance.now();
  for (;;) {
    signal.throwIfAborted();
    const placed = await app.db.application.findMany({
      where: { AND: [which, { host: { isNot: null } }] },
      select: { id: true, host: { select: { id: true, lastSeenAt: true } } },
    });
    const late = performance.now() - begun > patienceMs;
    const waiting = placed.some(({ host }) => host && !isLost(host) && !late);
    if (!waiting) {
      const byHost = Map.groupBy(placed, ({ host }) => host?.id ?? '');
      const left: string[] = [];
      for (const [hostId, group] of byHost) {
        const why = group[0]?.host && isLost(group[0].host) ? 'is lost' : 'did not do it in time';
        const count = `${group.length} ${group.length === 1 ? 'application' : 'applications'}`;
        left.push(
          `${count} on the host ${hostId}, which ${why}: instances end when it is back, files stay there until they are removed by hand.`,
        );
        await fence();
        await leaveToHost(app, hostId, group.map(({ id }) => id)); // prettier-ignore
      }
      return { removed: applications.length - placed.length, left };
    }
    await pause(pollMs, undefined, { signal });
  }
}

/** Nothing of it serves or starts any more; its host's agent does the rest. The caller has locked it. */
export async function askForRemoval(app: App, tx: Transaction, application: Application): Promise<void> {
  if (application.removalAskedAt) return;
  const { id, hostId } = application;
  const now = new Date();
  await tx.db.application.update({
    where: { id },
    data: { removalAskedAt: now, activeReleaseId: null, addressRunId: null, routeVersion: { increment: 1 } },
  });
  await tx.db.release.updateMany({
    where: { applicationId: id, status: { not: 'RETIRED' } },
    data: { status: 'RETIRED', retiredAt: now },
  });
  await endServing(tx, id, now);
  notifyHost(app.wakeUps.publish.bind(app.wakeUps), tx, hostId);
}

/** An instance of the process driver, as the records of a run's children know it. */
const processIdentity = z.object({ pid: z.int(), startTime: z.string() });

/** Leaves word of processes that may run on a lost host: its workers end what no run answers for. */
async function leaveToHost(app: App, hostId: string, applicationIds: readonly string[]): Promise<void> {
  const running = await app.db.release.findMany({
    where: { applicationId: { in: [...applicationIds] }, driver: 'PROCESS', ...someInstance },
    select: { deploymentId: true, instance: true },
  });
  await app.use(Runs).leaveChildren(
    hostId,
    running.map(({ deploymentId, instance }) => ({ runId: deploymentId, ...processIdentity.parse(instance) })),
  );
}
