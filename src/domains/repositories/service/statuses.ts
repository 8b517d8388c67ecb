import { z } from 'zod';
import type { Application, CommitState, Preview, RunStatus } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { DomainError } from '#kernel/errors.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { codeOf } from '#kernel/system-error.ts';
import { urlKey, watchDeployments, watchPreviews, type WatchedDeployment } from '../../deployments/index.ts';
import { GitHubApiFailed } from '../../../integrations/github/index.ts';
import { Repositories } from './connections.ts';
import { RepositorySettings } from './settings.ts';

const commitId = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;
/** Of a run that changes its status again and again, this many are told in one go. */
const rounds = 5;

function stateOf(status: RunStatus): CommitState {
  if (status === 'SUCCEEDED') return 'SUCCESS';
  if (status === 'FAILED' || status === 'TIMED_OUT') return 'FAILURE';
  return status === 'CANCELED' ? 'ERROR' : 'PENDING';
}

const descriptions: Readonly<Record<CommitState, string>> = {
  PENDING: 'Being deployed.',
  SUCCESS: 'Deployed.',
  FAILURE: 'The deployment failed.',
  ERROR: 'The deployment was canceled or superseded.',
};

/** Whose statuses have a name at GitHub. */
const named = { id: true, name: true, workspace: { select: { slug: true } } } as const;
type Named = Pick<Application, 'id' | 'name'> & { readonly workspace: { readonly slug: string } };

/** GitHub takes no longer ones. */
const maxDescription = 140;

/** What GitHub is told of a preview that has no deployment of its commit; null: nothing. */
function saidOf({ state, reason }: Pick<Preview, 'state' | 'reason'>): { state: CommitState; said: string } | null {
  if (state === 'AWAITING_APPROVAL') return { state: 'PENDING', said: 'Waits for approval.' };
  if (state === 'AWAITING_ROOM') return { state: 'PENDING', said: reason ?? 'To be deployed.' };
  // The deployment is told of.
  if (state === 'ACTIVE') return null;
  return { state: 'ERROR', said: reason ?? 'It was refused.' };
}

/** What is deployed, where the workspace has connected any repository: nobody is to be told of all others. */
const sourceText = `
  select a.repository_url from deployment d join application a on a.id = d.application_id
  where d.id = $1 and exists (select from connected_repository where workspace_id = $2)`;

/** Tells GitHub what became of commits. The only writer of commit_status and status_context. */
export const Statuses = service('commit statuses', (app) => ({
  /**
   * What an application's statuses are named at a repository: by the application alone, and with its workspace where an
   * application of that name in another one has that already. It stays, whatever becomes of the other. Two pull requests
   * may have the same head: each preview has a name of its own.
   */
  async contextOf({ id, name, workspace }: Named, githubId: bigint, pullRequest: number | null): Promise<string> {
    const ofPreview = pullRequest === null ? '' : `/pr-${pullRequest}`;
    for (let others = 0; ; others++) {
      const own = await app.db.statusContext.findUnique({ where: { applicationId: id } });
      if (own?.githubId === githubId && own.name === name) return `${own.context}${ofPreview}`;
      const context = `switchyard/${name}${others === 0 ? '' : `@${workspace.slug}`}${others > 1 ? `-${others}` : ''}`;
      await app.database.pool
        .query(
          `insert into status_context (application_id, github_id, name, context, key)
           select $1::uuid, $2::bigint, $3::text, $4::text, lower($4::text) where not exists (
             select 1 from status_context where github_id = $2::bigint and key = lower($4::text) and application_id <> $1::uuid)
           on conflict (application_id) do update
             set github_id = excluded.github_id, name = excluded.name, context = excluded.context, key = excluded.key`,
          [id, githubId, name, context],
        )
        .catch((error: unknown) => {
          if (codeOf(error) !== '23505') throw error; // another one was faster
        });
    }
  },

  /** Has GitHub told of a deployment whose commit is known, where the workspace has connected the repository. */
  async watch(
    tx: Transaction,
    { id: deploymentId, workspaceId, ref, commitSha: fetched }: WatchedDeployment,
  ): Promise<void> {
    const commitSha = fetched ?? (commitId.test(ref) ? ref : null);
    if (commitSha === null) return;
    const [from] = await tx.sql<{ repositoryUrl: string }>(sourceText, [deploymentId, workspaceId]);
    const key = from ? urlKey(from.repositoryUrl) : null;
    if (key === null) return;
    const repository = await tx.db.connectedRepository.findUnique({
      where: { workspaceId_urlKey: { workspaceId, urlKey: key } },
      select: { id: true },
    });
    if (!repository) return;
    await tx.db.commitStatus.upsert({
      where: { id: deploymentId },
      create: { id: deploymentId, repositoryId: repository.id, commitSha },
      update: { repositoryId: repository.id, commitSha },
    });
    await app.jobs.enqueue(tx, reportJob, { deploymentId, workspaceId });
  },

  /** Tells GitHub how a deployment stands now, unless it knows. Rejects when it could not, which the row says, too. */
  async report(id: string, signal: AbortSignal): Promise<void> {
    // Told in rounds: what changed while GitHub was told is told next, so the last word is the right one.
    for (let round = 0; round < rounds; round++) {
      const row = await app.db.commitStatus.findUnique({
        where: { id },
        include: {
          repository: true,
          deployment: {
            select: {
              applicationId: true,
              run: { select: { status: true } },
              application: {
                select: { ...named, preview: { select: { number: true, of: { select: named } } } },
              },
            },
          },
        },
      });
      if (!row) return;
      const state = stateOf(row.deployment.run.status);
      if (row.state === state) return;
      // GitHub keeps one word for an application and a commit: that of its newest deployment.
      const { repositoryId, commitSha, deployment } = row;
      const newer = {
        id: { gt: id },
        repositoryId,
        commitSha,
        deployment: { applicationId: deployment.applicationId },
      };
      if ((await app.db.commitStatus.count({ where: newer })) > 0) return;
      const tried = (data: { state?: CommitState; toldAt?: Date; error: string | null }) =>
        app.db.commitStatus.updateMany({ where: { id }, data: { ...data, attempts: { increment: 1 } } });
      try {
        const token = await app.use(Repositories).token(row.repository, { statuses: 'write' }, signal);
        const { api, appUrl } = app.use(RepositorySettings);
        const { application } = row.deployment;
        const { preview } = application;
        const context = await this.contextOf(
          preview?.of ?? application,
          row.repository.githubId,
          preview?.number ?? null,
        );
        await api.setStatus(
          token,
          {
            fullName: row.repository.fullName,
            commitSha: row.commitSha,
            state: state.toLowerCase() as Lowercase<CommitState>,
            targetUrl: `${appUrl()}/deployments/${id}`,
            description: descriptions[state],
            context,
          },
          signal,
        );
        await tried({ state, toldAt: new Date(), error: null });
      } catch (error) {
        const known = error instanceof GitHubApiFailed || error instanceof DomainError;
        await tried({ error: (known ? error.message : 'Something went wrong on the server.').slice(0, 500) });
        throw error; // the job is tried again
      }
    }
  },

  /** Tells GitHub how a preview stands now, as long as no deployment of its commit says more. Rejects when it could not. */
  async reportPreview(id: string, signal: AbortSignal): Promise<void> {
    let told: string | null = null;
    for (let round = 0; round < rounds; round++) {
      const preview = await app.db.preview.findUnique({ where: { id }, include: { of: { select: named } } });
      const said = preview && saidOf(preview);
      if (!preview || (!said && told === null)) return;
      if (!said) {
        // It was deployed while GitHub was told that it waits: the deployment has the last word.
        const { applicationId, workspaceId } = preview;
        if (applicationId !== null) await this.repeat(workspaceId, applicationId);
        return;
      }
      const now = `${preview.headSha} ${said.state} ${said.said}`;
      if (now === told) return;
      const { workspaceId, githubId, headSha } = preview;
      const where = { workspaceId_githubId: { workspaceId, githubId } };
      const repository = await app.db.connectedRepository.findUnique({ where });
      if (!repository) return;
      const token = await app.use(Repositories).token(repository, { statuses: 'write' }, signal);
      const { api, appUrl } = app.use(RepositorySettings);
      await api.setStatus(
        token,
        {
          fullName: repository.fullName,
          commitSha: headSha,
          state: said.state.toLowerCase() as Lowercase<CommitState>,
          targetUrl: `${appUrl()}/previews/${id}`,
          description: said.said.slice(0, maxDescription),
          context: await this.contextOf(preview.of, githubId, preview.number),
        },
        signal,
      );
      told = now;
    }
  },

  /** Has GitHub told once more of the newest deployment of an application. */
  async repeat(workspaceId: string, applicationId: string): Promise<void> {
    await app.transact(system, async (tx) => {
      const newest = await tx.db.commitStatus.findFirst({
        where: { deployment: { applicationId } },
        orderBy: { id: 'desc' },
      });
      if (!newest) return;
      await tx.db.commitStatus.updateMany({ where: { id: newest.id }, data: { state: null } });
      await app.jobs.enqueue(tx, reportJob, { deploymentId: newest.id, workspaceId });
    });
  },
}));

const reportJob = defineJob({
  name: 'repositories.reportStatus',
  payload: z.object({ workspaceId: z.string(), deploymentId: z.string() }),
  attempts: 8,
  retryDelayS: 5,
  timeoutS: 60,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: ({ deploymentId }, { app, signal }: { app: App; signal: AbortSignal }) =>
    app.use(Statuses).report(deploymentId, signal),
});

const reportPreviewJob = defineJob({
  name: 'repositories.reportPreview',
  payload: z.object({ workspaceId: z.string(), previewId: z.string() }),
  attempts: 8,
  retryDelayS: 5,
  timeoutS: 60,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: ({ previewId }, { app, signal }: { app: App; signal: AbortSignal }) =>
    app.use(Statuses).reportPreview(previewId, signal),
});

watchPreviews(async (app, tx, previewId) => {
  const { workspaceId } = await tx.db.preview.findUniqueOrThrow({ where: { id: previewId } });
  await app.jobs.enqueue(tx, reportPreviewJob, { workspaceId, previewId });
});

watchDeployments((app, tx, deployment) => app.use(Statuses).watch(tx, deployment));
