import type { Deployment, Run } from '#prisma';
import type { RunContext } from '#kernel/runs/context.ts';
import { Conflict } from '#kernel/errors.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { phases, type DeploymentInput } from '../model.ts';
import { lockApplication } from './applications.ts';
import { deploy } from './deploy.ts';
import { Quotas } from './quotas.ts';
import { tellWatchers, type WatchedDeployment } from './ports.ts';

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
    const [[at], most] = await Promise.all([
      tx.sql<{ begun: number }>(begunText, [workspaceId, kind, id]),
      app.use(Quotas).concurrentDeployments(tx, workspaceId),
    ]);
    return (at?.begun ?? 0) < most;
  },
  async onCreate(tx, run, input, app) {
    if (input.kind === 'BUILD') {
      const { applicationId, ref } = input;
      tx.send(createText, [run.id, applicationId, ref]);
      await tellWatchers(app, tx, { ...run, ref, commitSha: null });
      return { deployment: { id: run.id, applicationId, ref, commitSha: null } };
    }
    const { id, commitSha, environmentVersion } = await tx.db.release.findUniqueOrThrow({
      where: { id: input.releaseId },
    });
    // A rollback has the environment that the release had: it is to be as it was, unless it was asked to take what holds now.
    const kept = input.environment === 'CURRENT' ? null : environmentVersion;
    tx.send(restoreText, [run.id, input.applicationId, commitSha, id, kept]);
    await tellWatchers(app, tx, { ...run, ref: commitSha, commitSha });
    return { deployment: { id: run.id, applicationId: input.applicationId, ref: commitSha, commitSha } };
  },
  async onEnd(tx, run, phase, app) {
    const [deployment] = await tx.sql<WatchedDeployment & Pick<Deployment, 'applicationId' | 'restoresId'>>(readText, [
      run.id,
    ]);
    if (!deployment) throw new Error(`Run ${run.id} has no deployment`);
    await tellWatchers(app, tx, deployment);
    if (phase === 'DEPLOYED') return;
    const { applicationId, restoresId } = deployment;
    // The address that it had reserved is nobody's; one that was never visited may become another application's.
    tx.send(giveUpAddressText, [applicationId, run.id]);
    // Whatever it started must not run on: the host's agent ends the instances of retired releases.
    tx.send(retireText, [run.id]);
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

const begunText = `
  select count(*)::int begun from run
  where workspace_id = $1 and kind = $2 and completed_at is null and attempt > 0 and id <> $3`;
/** With the environment that holds when it is asked for. */
const createText = `
  insert into deployment (id, application_id, ref, environment_version)
  select $1, id, $3, environment_version from application where id = $2`;
const restoreText = `
  insert into deployment (id, application_id, ref, commit_sha, restores_id, environment_version)
  select $1, id, $3, $3, $4, coalesce($5, environment_version) from application where id = $2`;
const readText = `
  select d.id, d.ref, d.commit_sha, d.application_id, d.restores_id, r.workspace_id, r.status
  from deployment d join run r on r.id = d.id where d.id = $1`;
const giveUpAddressText = `
  update application set address_run_id = null, updated_at = clock_timestamp(),
    port = case when port_asked or route_version <> 0 then port end
  where id = $1 and address_run_id = $2`;
const retireText = `
  update release set status = 'RETIRED', retired_at = clock_timestamp(), updated_at = clock_timestamp()
  where deployment_id = $1 and status = 'CANDIDATE'`;
