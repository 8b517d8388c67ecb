import { PreviewApproval, PreviewState } from '#prisma';
import { may } from '#kernel/auth/policy.ts';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import { Conflict, IllegalTransition } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guarded, guardedPart, newestFirst, ofCredential, visible } from '#kernel/graphql/kit.ts';
import { can } from '../policy.ts';
import { ApplicationRef, applicationSuccess } from '../schema.ts';
import { approvable, Previews, type PreviewWritten } from '../service/index.ts';

const ApprovalEnum = builder.enumType(PreviewApproval, {
  name: 'PreviewApproval',
  description: 'Which pull requests wait for somebody to approve each commit.',
  values: {
    ALWAYS: { description: 'All of them.' },
    FORKS: { description: "Those of forks; those of the repository's own branches are deployed at once." },
  },
});

const StateEnum = builder.enumType(PreviewState, {
  name: 'PreviewState',
  description: 'Where a preview stands.',
  values: {
    AWAITING_APPROVAL: {
      description: 'Somebody has to approve the newest commit; one that was approved before serves on.',
    },
    AWAITING_ROOM: { description: 'The newest commit may be deployed, and waits for room: `reason` says which.' },
    ACTIVE: { description: 'The newest commit was given to `application`, whose deployments tell the rest.' },
    REJECTED: { description: 'Somebody refused the newest commit.' },
    EXPIRED: { description: 'It was removed, for its age or by hand; a new commit, or an approval, brings it back.' },
    CLOSED: { description: 'The pull request is closed, or has no preview any more.' },
  },
});

const PolicyRef = builder.prismaObject('PreviewPolicy', {
  description: 'How pull requests of an application get previews.',
  authScopes: guardedPart('PreviewPolicy').authScopes,
  fields: (t) => ({
    approval: t.expose('approval', { type: ApprovalEnum, description: 'Which of them wait for approval.' }),
    maxPreviews: t.exposeInt('maxPreviews', { description: 'Most previews that exist at once.' }),
    maxAgeH: t.exposeInt('maxAgeH', { description: 'How long a preview is kept without a new commit, hours.' }),
    forksVariables: t.exposeBoolean('forksVariables', {
      description: 'Whether previews of forks get the variables of previews, too.',
    }),
    variables: t.stringList({
      ...ofCredential,
      nullable: true,
      description:
        'Names of the environment variables of previews, which have no others. Null for viewers: they are for those who may set variables.',
      select: {
        application: {
          select: { workspaceId: true, previewVariables: { select: { name: true }, orderBy: { name: 'asc' } } },
        },
      },
      resolve: ({ application }, _, { actor }) =>
        may(actor, can.setEnvironmentVariables, application.workspaceId)
          ? application.previewVariables.map(({ name }) => name)
          : null,
    }),
  }),
});

const PreviewRef = builder.prismaNode('Preview', {
  id: { field: 'id' },
  description: 'A pull request that runs, or is to run, beside the application that it would change.',
  ...guarded('Preview'),
  fields: (t) => ({
    number: t.exposeInt('number', { description: 'Number of the pull request.' }),
    title: t.exposeString('title', { description: 'Its title, as whoever opened it wrote it, without control characters.' }), // prettier-ignore
    state: t.expose('state', { type: StateEnum, description: 'Where it stands.' }),
    reason: t.exposeString('reason', { nullable: true, description: 'Why it is there, for a person.' }),
    headSha: t.exposeString('headSha', {
      description: 'Its newest commit: `commitSha` of `approvePreview`, for who has looked at it.',
    }),
    headRef: t.exposeString('headRef', { description: 'The branch that it comes from, as it is called there.' }),
    isFork: t.exposeBoolean('isFork', {
      description: "Whether it comes from elsewhere than the repository's own branches, also from what is gone.",
    }),
    approvedBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who approved the newest commit; null: nobody did, or you share no workspace with them any more.',
      compiled: { one: 'User', id: 'approvedById' },
      resolve: ({ approvedById }, _, context) => (approvedById ? loadUser(context, approvedById) : null),
    }),
    approvedAt: t.expose('approvedAt', { type: 'DateTime', nullable: true, description: 'When that was.' }),
    deployedAt: t.expose('deployedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When a commit of it was deployed, last.',
    }),
    closedAt: t.expose('closedAt', { type: 'DateTime', nullable: true, description: 'When it was closed.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was first told of.' }),
    previewOf: t.relation('of', { type: ApplicationRef, description: 'The application that it would change.' }),
    application: t.relation('application', {
      type: ApplicationRef,
      nullable: true,
      description: 'What runs it, with address, deployments, releases and logs; null: nothing does.',
    }),
    viewerCanApprove: t.boolean({
      ...ofCredential,
      description: 'Whether you may approve its newest commit now.',
      compiled: { may: can.approvePreview, so: { state: { in: [...approvable] } } },
      resolve: ({ state, workspaceId }, _, { actor }) =>
        approvable.includes(state) && may(actor, can.approvePreview, workspaceId),
    }),
  }),
});

builder.prismaObjectFields(ApplicationRef, (t) => ({
  previewPolicy: t.relation('previewPolicy', {
    type: PolicyRef,
    nullable: true,
    description: 'How its pull requests get previews; null: they get none.',
  }),
  previews: t.relatedConnection('previews', {
    type: PreviewRef,
    cursor: 'id',
    totalCount: true,
    description: 'Pull requests that have, or wait for, a preview, and those that had one, newest first.',
    args: {
      states: t.arg({ type: [StateEnum], required: false, description: 'Only those; default: all of them.' }),
    },
    query: ({ states }, context) => ({
      where: visible(context, 'Preview', states ? { state: { in: [...states] } } : {}),
      orderBy: newestFirst,
    }),
  }),
  pullRequest: t.relation('preview', {
    type: PreviewRef,
    nullable: true,
    description: 'The pull request that it runs; null: it is no preview.',
  }),
  previewOf: t.field({
    type: ApplicationRef,
    nullable: true,
    description: 'The application that it is a preview of; null: it is none.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ preview: { select: { of: nested() } } }),
    resolve: (row) => (row as unknown as { preview: { of: never } | null }).preview?.of ?? null,
  }),
}));

const previewSuccess = (name: string, description: string) =>
  builder.objectRef<PreviewWritten>(name).implement({
    description,
    fields: (t) => ({
      preview: t.prismaField({
        type: PreviewRef,
        description: 'The preview.',
        resolve: (query, { id }, _, { app }) => app.db.preview.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const kept = (what: string, usual: string) => ({
  required: false,
  description: `${what} Absent or null: as it is; when previews are turned on, ${usual}.`,
});
const id = { description: 'Global id of the preview.' };
const commitSha = { description: 'The full id of the commit that you looked at. Another one is the newest: Conflict.' };

builder.mutationFields((t) => ({
  setPreviewPolicy: t.fieldWithInput({
    access: can.setPreviewPolicy,
    type: applicationSuccess('SetPreviewPolicySuccess', 'It holds from now on.'),
    errors: failing(Conflict),
    description:
      'Says whether pull requests to the branch of an application get previews, and how. Commits of forks always wait for approval. Turned off, all previews are removed, and their variables forgotten.',
    input: {
      applicationId: t.input.id({ description: 'Global id of the application.' }),
      enabled: t.input.boolean({ description: 'Whether they get previews.' }),
      approval: t.input.field({ type: ApprovalEnum, ...kept('Which of them wait for approval.', '`ALWAYS`') }),
      maxPreviews: t.input.int(kept('Most previews that exist at once, 1 to 100; more wait.', '5')),
      maxAgeH: t.input.int(kept('How long a preview is kept without a new commit, hours, 1 to 8760.', '168')),
      forksVariables: t.input.boolean(
        kept('Whether previews of forks get the variables of previews, too: code of strangers reads them.', 'false'),
      ),
      environment: t.input.field({
        type: 'JSON',
        required: false,
        description:
          "Environment variables of previews to set, name to text; null unsets one. Previews have none of the application's own.",
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Previews).setPolicy(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  approvePreview: t.fieldWithInput({
    access: can.approvePreview,
    type: previewSuccess(
      'ApprovePreviewSuccess',
      'The commit may be deployed, which is done as soon as there is room.',
    ),
    errors: failing(Conflict, IllegalTransition),
    description:
      'Lets exactly one commit of a pull request be built and run as a preview. A commit that is pushed later waits for an approval of its own.',
    input: { id: t.input.id(id), commitSha: t.input.string(commitSha) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Previews).approve(actor, { ...input, id: rowId('Preview', input.id) }),
  }),
  rejectPreview: t.fieldWithInput({
    access: can.rejectPreview,
    type: previewSuccess('RejectPreviewSuccess', 'The commit is not deployed; a preview of it is being removed.'),
    errors: failing(Conflict, IllegalTransition),
    description:
      'Refuses one commit of a pull request. A preview of it is removed; one of a commit that was approved before serves on.',
    input: { id: t.input.id(id), commitSha: t.input.string(commitSha) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Previews).reject(actor, { ...input, id: rowId('Preview', input.id) }),
  }),
}));
