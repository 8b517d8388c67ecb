import DataLoader from 'dataloader';
import type { Appended } from '#kernel/db/transact.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing } from '#kernel/graphql/kit.ts';
import { QuotaExceeded } from '../errors.ts';
import { canOperate } from '../policy.ts';
import { Quotas, type QuotaLimits, type QuotaUse } from '../service/index.ts';

const QuotaEnum = builder.enumType('Quota', {
  description: 'What a workspace may have so many of.',
  values: {
    APPLICATIONS: { description: 'Applications.' },
    RETAINED_RELEASES: { description: 'Releases of an application that are kept for a rollback.' },
    DISK: { description: 'Disk that its applications have together, MiB.' },
  } as const,
});

errorType(QuotaExceeded, {
  name: 'QuotaExceeded',
  description: 'The workspace may not have more. An operator of the server can allow it.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    quota: t.expose('quota', { type: QuotaEnum, description: 'What it may not have more of.' }),
    limit: t.exposeInt('limit', { description: 'How many it may have.' }),
    actual: t.exposeInt('actual', { description: 'How many it has, or were asked for.' }),
  }),
});

interface Loaders {
  readonly limits: DataLoader<string, QuotaLimits>;
  readonly used: DataLoader<string, QuotaUse>;
  readonly diskMb: DataLoader<string, number>;
}

const ofContext = new WeakMap<Context, Loaders>();

/** Of many workspaces in one statement each. Nothing is remembered: a later mutation of the operation changes it. */
function loaders(context: Context): Loaders {
  let made = ofContext.get(context);
  if (!made) {
    const quotas = context.app.use(Quotas);
    made = {
      limits: new DataLoader((ids: readonly string[]) => quotas.ofAll(ids), { cache: false }),
      used: new DataLoader((ids: readonly string[]) => quotas.used(ids), { cache: false }),
      diskMb: new DataLoader((ids: readonly string[]) => quotas.diskMb(ids), { cache: false }),
    };
    ofContext.set(context, made);
  }
  return made;
}

const WorkspaceQuotaRef = builder.objectRef<{ workspaceId: string }>('WorkspaceQuota').implement({
  description: 'What a workspace may have, and has, in deployments.',
  fields: (t) => ({
    maxApplications: t.int({
      description: 'Most applications.',
      resolve: async ({ workspaceId }, _, context) => (await loaders(context).limits.load(workspaceId)).maxApplications,
    }),
    applications: t.int({
      description: 'Applications that it has.',
      resolve: async ({ workspaceId }, _, context) => (await loaders(context).used.load(workspaceId)).applications,
    }),
    maxConcurrentDeployments: t.int({
      description: 'Most deployments that are executed at once; more wait. Of one application it is always one.',
      resolve: async ({ workspaceId }, _, context) =>
        (await loaders(context).limits.load(workspaceId)).maxConcurrentDeployments,
    }),
    concurrentDeployments: t.int({
      description: 'Deployments that are executed now.',
      resolve: async ({ workspaceId }, _, context) =>
        (await loaders(context).used.load(workspaceId)).concurrentDeployments,
    }),
    retainedReleases: t.int({
      description:
        'Releases that are kept for a rollback of each application, at most, the one that serves not counted.',
      resolve: async ({ workspaceId }, _, context) =>
        (await loaders(context).limits.load(workspaceId)).retainedReleases,
    }),
    maxDiskMb: t.int({
      description: 'Disk that its applications may have together before nothing more is built, MiB.',
      resolve: async ({ workspaceId }, _, context) => (await loaders(context).limits.load(workspaceId)).maxDiskMb,
    }),
    diskMb: t.int({
      description: 'Disk that its applications have together, as it was measured last on their hosts, MiB.',
      resolve: ({ workspaceId }, _, context) => loaders(context).diskMb.load(workspaceId),
    }),
  }),
});

builder.prismaObjectField('Workspace', 'deploymentQuota', (t) =>
  t.field({
    type: WorkspaceQuotaRef,
    description: 'What it may have, and has, in deployments.',
    select: { id: true },
    resolve: ({ id }) => ({ workspaceId: id }),
  }),
);

const limit = (what: string) => ({
  required: false,
  description: `${what} Null or absent: what the settings of the server say.`,
});

builder.mutationFields((t) => ({
  setWorkspaceQuota: t.fieldWithInput({
    access: canOperate.setWorkspaceQuota,
    type: builder.objectRef<{ workspaceId: string; event: Appended }>('SetWorkspaceQuotaSuccess').implement({
      description: 'It holds from now on; what the workspace has already stays.',
      fields: (f) => ({
        quota: f.field({ type: WorkspaceQuotaRef, description: 'The quota.', resolve: (done) => done }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description: 'Says what a workspace may have in deployments. For operators of the server.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      maxApplications: t.input.int(limit('Most applications, from 0 on.')),
      maxConcurrentDeployments: t.input.int(limit('Most deployments that are executed at once, from 1 on.')),
      retainedReleases: t.input.int(limit('Releases that are kept for a rollback of each application, 1 to 100.')),
      maxDiskMb: t.input.int(
        limit('Disk that its applications may have together before nothing more is built, MiB, from 0 on.'),
      ),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Quotas).set(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
}));
