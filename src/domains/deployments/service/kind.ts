import type { Release, Run } from '#prisma';
import type { Transaction } from '#kernel/db/transact.ts';
import type { RunContext } from '#kernel/runs/context.ts';
import { Conflict } from '#kernel/errors.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { phases, type DeploymentInput } from '../model.ts';
import { lockApplication } from './applications.ts';
import { deploy } from './deploy.ts';
import { Quotas } from './quotas.ts';
import { tellWatchers } from './ports.ts';

const isRestore = (input: DeploymentInput): boolean => input.kind === 'RESTORE';

/** Deployments as runs. */
export const deploymentKind = defineRunKind<DeploymentInput>({
  name: 'Deployment',
  versions: [1, 2],
  phases,
  initial: 'PENDING',
  ends: {
    canceled: (phase) => (phase === 'ROLLING_BACK' ? 'ROLLED_BACK' : 'CANCELED'),
    failed: (phase) => (phase === 'ROLLING_BACK' ? 'ROLLBACK_FAILED' : 'FAILED'),
  },
  about: ({ applicationId }) => ({ applicationId }),
  steps: (input) => [
    ...(isRestore(input) ? [] : ['fetch', 'scan', 'build']),
    'start',
    'health',
    'activate',
    'rollback',
  ],
  begin: (input) => (isRestore(input) ? 'DEPLOYING' : 'SECURITY_SCANNING'),
  deadlineS: 3600,
  execute: (context: RunContext<DeploymentInput>) => deploy(context),
  async hasRoom(tx, { id, workspaceId, kind }, app) {
    const { maxConcurrentDeployments } = await app.use(Quotas).of(tx.db, workspaceId);
    const begun = { workspaceId, kind, completedAt: null, attempt: { gt: 0 }, id: { not: id } };
    return (await tx.db.run.count({ where: begun })) < maxConcurrentDeployments;
  },
  async onCreate(tx, run, input, app) {
    const restored =
      input.kind === 'RESTORE' ? await tx.db.release.findUniqueOrThrow({ where: { id: input.releaseId } }) : null;
    await tx.db.deployment.create({
      data: {
        id: run.id,
        applicationId: input.applicationId,
        ref: input.kind === 'BUILD' ? input.ref : (restored?.commitSha ?? ''),
        commitSha: restored?.commitSha ?? null,
        restoresId: restored?.id ?? null,
        environmentVersion: await environmentVersionOf(tx, input, restored),
      },
    });
    await tellWatchers(app, tx, run.id);
  },
  async onEnd(tx, run, phase, app) {
    await tellWatchers(app, tx, run.id);
    if (phase === 'DEPLOYED') return;
    const { applicationId, restoresId } = await tx.db.deployment.findUniqueOrThrow({ where: { id: run.id } });
    // The address that it had reserved is nobody's; one that was never visited may become another application's.
    const reserved = { id: applicationId, addressRunId: run.id };
    await tx.db.application.updateMany({
      where: { ...reserved, portAsked: false, routeVersion: 0 },
      data: { port: null },
    });
    await tx.db.application.updateMany({ where: reserved, data: { addressRunId: null } });
    // Whatever it started must not run on: the host's agent ends the instances of retired releases.
    await tx.db.release.updateMany({
      where: { deploymentId: run.id, status: 'CANDIDATE' },
      data: { status: 'RETIRED', retiredAt: new Date() },
    });
    // One that it was to bring back stays in the order in which the releases had served.
    if (restoresId) {
      // And has the environment that it last served with, whatever it was tried with now.
      const served = await tx.db.activation.findFirst({
        where: { releaseId: restoresId },
        orderBy: [{ activatedAt: 'desc' }, { id: 'desc' }],
        select: { environmentVersion: true },
      });
      await tx.db.release.updateMany({
        where: { id: restoresId, status: 'CANDIDATE' },
        data: { status: 'RETIRED', ...served },
      });
    }
  },
  async retryInput(tx, run: Run) {
    const input = run.input as unknown as DeploymentInput;
    // Under the lock under which files of releases are given up, and the application.
    const application = await lockApplication(tx, input.applicationId);
    if (!application || application.removalAskedAt) throw new Conflict('The application is being deleted.');
    if (input.kind === 'RESTORE') {
      const release = await tx.db.release.findUnique({ where: { id: input.releaseId } });
      if (!release || release.prunedAt) throw new Conflict('The files of this release were removed.');
      return input;
    }
    // The same commit again, once it is known: a branch may have moved on.
    const { commitSha } = await tx.db.deployment.findUniqueOrThrow({ where: { id: run.id } });
    return { ...input, ref: commitSha ?? input.ref };
  },
});

/**
 * What it is to run with. A deployment takes what holds when it is asked for, a rollback what the release had: it is to
 * be as it was, unless it was asked to take what holds now.
 */
async function environmentVersionOf(
  tx: Transaction,
  input: DeploymentInput,
  restored: Pick<Release, 'environmentVersion'> | null,
): Promise<number> {
  if (restored && !(input.kind === 'RESTORE' && input.environment === 'CURRENT')) return restored.environmentVersion;
  const { environmentVersion } = await tx.db.application.findUniqueOrThrow({ where: { id: input.applicationId } });
  return environmentVersion;
}
