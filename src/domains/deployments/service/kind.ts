import type { Run } from '#prisma';
import type { RunContext } from '#kernel/runs/context.ts';
import { Conflict } from '#kernel/errors.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { phases, type DeploymentInput } from '../model.ts';
import { lockApplication } from './applications.ts';
import { deploy } from './deploy.ts';
import { tellWatchers } from './ports.ts';

const isRestore = (input: DeploymentInput): boolean => input.kind === 'RESTORE';

/** Deployments as runs. */
export const deploymentKind = defineRunKind<DeploymentInput>({
  name: 'Deployment',
  versions: [1],
  phases,
  initial: 'PENDING',
  ends: {
    canceled: (phase) => (phase === 'ROLLING_BACK' ? 'ROLLED_BACK' : 'CANCELED'),
    failed: (phase) => (phase === 'ROLLING_BACK' ? 'ROLLBACK_FAILED' : 'FAILED'),
  },
  steps: (input) => [...(isRestore(input) ? [] : ['fetch', 'build']), 'start', 'health', 'activate', 'rollback'],
  begin: (input) => (isRestore(input) ? 'DEPLOYING' : 'BUILDING'),
  deadlineS: 3600,
  execute: (context: RunContext<DeploymentInput>) => deploy(context),
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
      await tx.db.release.updateMany({ where: { id: restoresId, status: 'CANDIDATE' }, data: { status: 'RETIRED' } });
    }
  },
  async retryInput(tx, run: Run) {
    const input = run.input as unknown as DeploymentInput;
    if (input.kind === 'RESTORE') {
      // Under the lock under which its files are given up.
      await lockApplication(tx, input.applicationId);
      const release = await tx.db.release.findUnique({ where: { id: input.releaseId } });
      if (!release || release.prunedAt) throw new Conflict('The files of this release were removed.');
      return input;
    }
    // The same commit again, once it is known: a branch may have moved on.
    const { commitSha } = await tx.db.deployment.findUniqueOrThrow({ where: { id: run.id } });
    return { ...input, ref: commitSha ?? input.ref };
  },
});
