import { CommitState, RepositoryAccess, WebhookDeliveryStatus } from '#prisma';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import {
  cursorOf,
  descriptionOfCursor,
  ErrorInterface,
  errorType,
  failing,
  guarded,
  guardedPart,
  newestFirst,
  visible,
} from '#kernel/graphql/kit.ts';
import { DeploymentRef } from '../deployments/index.ts';
import { GitHubRefusal, RepositoryNotReached } from './errors.ts';
import { can } from './policy.ts';
import { Deliveries, Repositories, type Changed, type RepositoryPage, type WithSecret } from './service/index.ts';

errorType(GitHubRefusal, {
  name: 'GitHubRefusal',
  description: 'GitHub cannot be asked, or says no.',
  interfaces: [ErrorInterface],
});
errorType(RepositoryNotReached, {
  name: 'RepositoryNotReached',
  description: 'There is no such repository that is reached so, or the right to push to it is missing.',
  interfaces: [ErrorInterface],
});

const AccessEnum = builder.enumType(RepositoryAccess, {
  name: 'RepositoryAccess',
  description: 'How this server reaches a connected repository.',
  values: {
    TOKEN: { description: 'By a token that was given for it.' },
    PERSON: {
      description: 'By the token of whoever connected it, as long as they are a member and linked with GitHub.',
    },
    INSTALLATION: { description: "By an installation of the server's GitHub App." },
  },
});
const StatusEnum = builder.enumType(WebhookDeliveryStatus, {
  name: 'WebhookDeliveryStatus',
  description: 'Where a delivery stands.',
  values: {
    RECEIVED: { description: 'Its signature is good; it waits for a worker.' },
    PROCESSED: { description: 'It did what it is for.' },
    IGNORED: { description: 'There was nothing to do; `reason` says why.' },
    FAILED: { description: 'It could not be processed; `reason` says why. It is tried again a few times.' },
  },
});
const StateEnum = builder.enumType(CommitState, {
  name: 'CommitState',
  description: 'What GitHub shows at a commit.',
  values: {
    PENDING: { description: 'Under way.' },
    SUCCESS: { description: 'It serves.' },
    FAILURE: { description: 'It failed.' },
    ERROR: { description: 'It was canceled or superseded.' },
  },
});

const ConnectedRepositoryRef = builder.prismaNode('ConnectedRepository', {
  id: { field: 'id' },
  description: 'A repository at GitHub that a workspace deploys from.',
  ...guarded('ConnectedRepository'),
  fields: (t) => ({
    fullName: t.exposeString('fullName'),
    cloneUrl: t.exposeString('cloneUrl'),
    isPrivate: t.exposeBoolean('isPrivate', { description: 'Whether it was private when it was connected.' }),
    access: t.expose('access', { type: AccessEnum, description: 'How it is reached.' }),
    webhookUrl: t.string({
      description: 'Where its webhook at GitHub delivers to; not needed with access by an installation.',
      resolve: ({ id }, _, { app }) => app.use(Repositories).webhookUrl(id),
    }),
    formerSecretUntil: t.expose('formerUntil', {
      type: 'DateTime',
      nullable: true,
      description: 'Until when the webhook secret before the last rotation is good.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was connected.' }),
    workspace: t.relation('workspace', { description: 'The workspace that it belongs to.' }),
  }),
});

const WebhookDeliveryRef = builder.prismaNode('WebhookDelivery', {
  id: { field: 'id' },
  description: 'A signed message of GitHub, as it concerns one workspace.',
  // Never its body: that is for the server, and may be long.
  select: { id: true, workspaceId: true },
  ...guarded('WebhookDelivery'),
  fields: (t) => ({
    guid: t.exposeString('guid'),
    event: t.exposeString('event'),
    action: t.exposeString('action', { nullable: true }),
    fullName: t.exposeString('fullName', { nullable: true }),
    ref: t.exposeString('ref', { nullable: true }),
    status: t.expose('status', { type: StatusEnum, description: 'Where it stands.' }),
    reason: t.exposeString('reason', { nullable: true }),
    attempts: t.exposeInt('attempts'),
    receivedAt: t.expose('createdAt', { type: 'DateTime', description: 'When it arrived.' }),
    processedAt: t.expose('processedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was processed, last.',
    }),
    repository: t.relation('repository', {
      nullable: true,
      description: 'The connection that it matched; null: none, or it is gone.',
    }),
  }),
});

const CommitStatusRef = builder.prismaObject('CommitStatus', {
  description: 'What GitHub was told of a deployment.',
  authScopes: guardedPart('CommitStatus').authScopes,
  fields: (t) => ({
    commitSha: t.exposeString('commitSha', { description: 'The commit that it stands at.' }),
    state: t.expose('state', {
      type: StateEnum,
      nullable: true,
      description: 'What GitHub was told last; null: nothing yet.',
    }),
    attempts: t.exposeInt('attempts'),
    error: t.exposeString('error', { nullable: true }),
    toldAt: t.expose('toldAt', { type: 'DateTime', nullable: true, description: 'When it was told, last.' }),
  }),
});

builder.prismaObjectField(DeploymentRef, 'commitStatus', (t) =>
  t.field({
    type: CommitStatusRef,
    nullable: true,
    description: 'What GitHub was told of it; null where the repository is not connected.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ deployment: { select: { commitStatus: nested() } } }),
    resolve: (run) =>
      (run as unknown as { deployment: { commitStatus: never } | null }).deployment?.commitStatus ?? null,
  }),
);

builder.prismaObjectField('Workspace', 'connectedRepositories', (t) =>
  t.relatedConnection('repositories', {
    cursor: 'id',
    totalCount: true,
    description: 'Repositories that it has connected, newest first.',
    query: (_, context) => ({ where: visible(context, 'ConnectedRepository'), orderBy: newestFirst }),
  }),
);

const GitHubRepositoryRef = builder.simpleObject('GitHubRepository', {
  description: 'A repository that one can connect.',
  fields: (t) => ({
    fullName: t.string({ description: 'Owner and name: `repository` of `connectRepository`.' }),
    cloneUrl: t.string({ description: '`repositoryUrl` of `createApplication`.' }),
    defaultBranch: t.string({ description: 'Its default branch.' }),
    isPrivate: t.boolean({ description: 'Whether it is private.' }),
    isFork: t.boolean({ description: 'Whether it is a fork.' }),
    mayPush: t.boolean({ description: 'Whether one may push to it, which connecting it takes.' }),
  }),
});

const GitHubRepositoryPageRef = builder.objectRef<RepositoryPage>('GitHubRepositoryPage').implement({
  description: 'Repositories that one can connect, as GitHub pages them.',
  fields: (t) => ({
    repositories: t.field({
      type: [GitHubRepositoryRef],
      description: 'Those of this page, 50 at most.',
      resolve: ({ repositories }) => [...repositories],
    }),
    nextPage: t.exposeInt('nextPage', { nullable: true, description: '`page` of the next one; null: there is none.' }),
  }),
});

builder.queryFields((t) => ({
  repositories: t.field({
    access: 'member',
    type: GitHubRepositoryPageRef,
    nullable: true,
    description:
      'Repositories at GitHub of whoever asks, by name, 50 a page; null for programs, and for who is not linked with GitHub.',
    args: { page: t.arg.int({ required: false, description: 'Page, from 1 on; default 1.' }) },
    resolve: (_, { page }, { app, actor }) => app.use(Repositories).ofPerson(actor, Math.max(1, page ?? 1)),
  }),
  webhookDeliveries: t.prismaConnection({
    access: 'member',
    type: WebhookDeliveryRef,
    cursor: 'id',
    description:
      'Deliveries of GitHub that matched a workspace, newest first; those that matched none are for operators.',
    args: {
      workspaceId: t.arg.id({
        required: false,
        description: 'Global id of the workspace; without it, of all that one sees.',
      }),
    },
    compiled: {
      page: 'WebhookDelivery',
      rows: ({ workspaceId }: { workspaceId?: string | null }, context) => ({
        where: visible(context, 'WebhookDelivery', of(workspaceId)),
        orderBy: newestFirst,
      }),
    },
    totalCount: (_, { workspaceId }, context) =>
      context.app.db.webhookDelivery.count({ where: visible(context, 'WebhookDelivery', of(workspaceId)) }),
    resolve: (query, _, { workspaceId }, context) =>
      context.app.db.webhookDelivery.findMany({
        ...query,
        where: visible(context, 'WebhookDelivery', of(workspaceId)),
        orderBy: newestFirst,
      }),
  }),
}));

const of = (workspaceId: string | null | undefined) =>
  workspaceId == null ? {} : { workspaceId: rowId('Workspace', workspaceId) };

const eventCursor = {
  nullable: true,
  description: descriptionOfCursor,
  resolve: ({ workspaceId, event }: Changed) => cursorOf(workspaceId, event),
} as const;

const connectionSuccess = (name: string, description: string) =>
  builder.objectRef<WithSecret>(name).implement({
    description,
    fields: (t) => ({
      connectedRepository: t.prismaField({
        type: ConnectedRepositoryRef,
        description: 'The connection.',
        resolve: (query, { id }, _, { app }) =>
          app.db.connectedRepository.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      webhookSecret: t.exposeString('webhookSecret', {
        description: 'Secret for the webhook at GitHub; it is shown this once.',
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const DisconnectRepositorySuccess = builder.objectRef<Changed>('DisconnectRepositorySuccess').implement({
  description: 'The repository is connected no more.',
  fields: (t) => ({ eventCursor: t.string(eventCursor) }),
});
const RedeliverWebhookSuccess = builder.objectRef<Changed>('RedeliverWebhookSuccess').implement({
  description: 'The delivery will be processed again.',
  fields: (t) => ({
    webhookDelivery: t.prismaField({
      type: WebhookDeliveryRef,
      description: 'The delivery.',
      resolve: (query, { id }, _, { app }) => app.db.webhookDelivery.findUniqueOrThrow({ ...query, where: { id } }),
    }),
    eventCursor: t.string(eventCursor),
  }),
});

builder.mutationFields((t) => ({
  connectRepository: t.fieldWithInput({
    access: can.connectRepository,
    type: connectionSuccess('ConnectRepositorySuccess', 'The repository is connected.'),
    errors: failing(RepositoryNotReached, GitHubRefusal, Conflict),
    description:
      'Connects a repository at GitHub that one may push to: private source is fetched, pushes deploy the applications of the workspace that have its address, and GitHub shows what became of commits.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      repository: t.input.string({ description: 'Owner and name, such as `acme/shop`.' }),
      token: t.input.string({
        required: false,
        description:
          "A token of GitHub for it, which is kept encrypted. Without it: an installation of the server's GitHub App, else the token of one's own link with GitHub.",
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Repositories).connect(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  rotateWebhookSecret: t.fieldWithInput({
    access: can.rotateWebhookSecret,
    type: connectionSuccess('RotateWebhookSecretSuccess', 'It has a new secret; the one before is good for a day.'),
    errors: failing(Conflict),
    description: 'Makes a new webhook secret of a connected repository.',
    input: { id: t.input.id({ description: 'Global id of the connected repository.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Repositories).rotateSecret(actor, rowId('ConnectedRepository', input.id)),
  }),
  disconnectRepository: t.fieldWithInput({
    access: can.disconnectRepository,
    type: DisconnectRepositorySuccess,
    errors: failing(),
    description: 'Forgets a connected repository with its token and secrets. Applications stay as they are.',
    input: { id: t.input.id({ description: 'Global id of the connected repository.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Repositories).disconnect(actor, rowId('ConnectedRepository', input.id)),
  }),
  redeliverWebhook: t.fieldWithInput({
    access: can.redeliverWebhook,
    type: RedeliverWebhookSuccess,
    errors: failing(Conflict),
    description: 'Processes a delivery again. What it did is done again only if that did not succeed, or by force.',
    input: {
      id: t.input.id({ description: 'Global id of the delivery.' }),
      force: t.input.boolean({
        required: false,
        description: 'True: deploy again, also what was deployed already and what is not the newest; default false.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Deliveries).redeliver(actor, { id: rowId('WebhookDelivery', input.id), force: input.force ?? false }),
  }),
}));
