import { prismaConnectionHelpers } from '@pothos/plugin-prisma';
import DataLoader from 'dataloader';
import { Driver, ReleaseStatus } from '#prisma';
import { IdempotencyConflict, Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { asWritten } from '#kernel/graphql/held.ts';
import {
  ErrorInterface,
  errorType,
  eventCursor,
  failing,
  guarded,
  guardedPart,
  idempotencyKey,
  newestFirst,
  visible,
} from '#kernel/graphql/kit.ts';
import { asked } from '#kernel/graphql/selections.ts';
import { isLost, lostAfterS } from '#kernel/runs/host.ts';
import { RunRef } from '#kernel/runs/schema.ts';
import { runUpdates } from '#kernel/runs/updates.ts';
import { DriverNotOffered, NoHost, NothingToRestore, QuotaExceeded } from './errors.ts';
import { phases, type DeploymentPhase } from './model.ts';
import { can } from './policy.ts';
import {
  Applications,
  deploymentKind,
  Deployments,
  NoFreeUser,
  type Requested,
  type Written,
} from './service/index.ts';

errorType(NoHost, {
  name: 'NoHost',
  description: 'No host that can run applications is alive.',
  interfaces: [ErrorInterface],
});
errorType(DriverNotOffered, {
  name: 'DriverNotOffered',
  description: 'No host that is alive has the driver that the application asks for.',
  interfaces: [ErrorInterface],
});
errorType(NoFreeUser, {
  name: 'NoFreeUser',
  description: 'The host has given all of its users to other applications.',
  interfaces: [ErrorInterface],
});
errorType(NothingToRestore, {
  name: 'NothingToRestore',
  description: 'There is no release that could be brought back.',
  interfaces: [ErrorInterface],
});

const phaseDescriptions: Record<DeploymentPhase, string> = {
  PENDING: 'Waits for a worker.',
  SECURITY_SCANNING: 'The commit is fetched, and scanned before anything of it is executed.',
  BUILDING: 'The commit is built.',
  DEPLOYING: 'An instance is started next to the one that serves.',
  HEALTH_CHECKING: 'The new instance must answer before it gets traffic.',
  ROLLING_BACK: 'It failed; the instance is ended and the release that serves is checked.',
  DEPLOYED: 'The address serves it. Final.',
  FAILED:
    'It failed and nothing had served before, or it failed before an instance was started: its security scan stopped it, or its build failed. Final.',
  CANCELED: 'It was told to stop. Final.',
  SUPERSEDED: 'A newer deployment was asked for before it began. Final.',
  ROLLED_BACK: 'It failed; the release that served before serves on. Final.',
  ROLLBACK_FAILED: 'It failed, and the release that served before is not healthy. Final.',
};

const DeploymentPhaseEnum = builder.enumType('DeploymentPhase', {
  description: 'Where a deployment stands.',
  values: Object.fromEntries(
    Object.keys(phases).map((phase) => [phase, { description: phaseDescriptions[phase as DeploymentPhase] }]),
  ) as Record<DeploymentPhase, { description: string }>,
});

const DriverEnum = builder.enumType(Driver, {
  name: 'Driver',
  description: 'What runs an application on its host.',
  values: {
    PROCESS: { description: "Processes of the host, of the application's own user." },
    DOCKER: { description: "Containers of the host's Docker engine." },
    EC2: { description: 'Containers of an EC2 instance, reached through AWS Systems Manager.' },
  },
});

const ReleaseStatusEnum = builder.enumType(ReleaseStatus, {
  name: 'ReleaseStatus',
  description: 'Whether a release serves.',
  values: {
    CANDIDATE: { description: 'Built, not serving yet.' },
    ACTIVE: { description: "Serves the application's address." },
    RETIRED: { description: 'Served, or never did; kept so that it can be restored, until it is pruned.' },
  },
});

const RestoredEnvironmentEnum = builder.enumType('RestoredEnvironment', {
  description: 'Which environment variables a rollback runs with.',
  values: {
    RELEASE: { description: 'Those that the release had.' },
    CURRENT: { description: 'Those that hold now.' },
  } as const,
});

export const ReleaseRef = builder.prismaObject('Release', {
  description: 'An immutable artifact of an application on its host, made by one deployment.',
  authScopes: guardedPart('Release').authScopes,
  fields: (t) => ({
    id: t.id({ description: 'Id for `rollbackDeployment`.', compiled: { column: 'id' }, resolve: ({ id }) => id }),
    status: t.expose('status', { type: ReleaseStatusEnum, description: 'Whether it serves.' }),
    commitSha: t.exposeString('commitSha', { description: 'The commit that it was built of.' }),
    driver: t.expose('driver', { type: DriverEnum, description: 'What built it and runs it.' }),
    imageId: t.exposeString('imageId', {
      nullable: true,
      description: 'Digest of its image, which a rollback starts again; null for a release of the process driver.',
    }),
    environmentVersion: t.exposeInt('environmentVersion', {
      description: 'Version of the environment variables that its instances have; 0: there were none.',
    }),
    activatedAt: t.expose('activatedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it began to serve, last.',
    }),
    retiredAt: t.expose('retiredAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it ceased to serve, last.',
    }),
    prunedAt: t.expose('prunedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When its files were removed; it cannot be restored any more.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was built.' }),
  }),
});

const HostRef = builder.prismaObject('Host', {
  description: 'A machine that runs applications.',
  authScopes: guardedPart('Host').authScopes,
  fields: (t) => ({
    name: t.exposeString('name'),
    lastSeenAt: t.expose('lastSeenAt', { type: 'DateTime', description: 'Last sign of life of one of its workers.' }),
    drivers: t.field({
      type: [DriverEnum],
      description: 'What it can run applications with.',
      resolve: ({ drivers }) => drivers.filter((one): one is Driver => one in Driver),
    }),
    isLost: t.boolean({
      description: `True when it showed no sign of life for ${lostAfterS} seconds: its deployments wait until it is back.`,
      resolve: isLost,
    }),
  }),
});

export const ApplicationRef = builder.prismaNode('Application', {
  id: { field: 'id' },
  description: 'Something that is deployed from a Git repository.',
  ...guarded('Application'),
  fields: (t) => ({
    name: t.exposeString('name'),
    repositoryUrl: t.exposeString('repositoryUrl'),
    branch: t.exposeString('branch'),
    buildCommand: t.exposeString('buildCommand', { nullable: true }),
    startCommand: t.exposeString('startCommand', { nullable: true }),
    healthCheckPath: t.exposeString('healthCheckPath'),
    healthTimeoutS: t.exposeInt('healthTimeoutS'),
    driver: t.expose('driver', {
      type: DriverEnum,
      nullable: true,
      description: 'What runs it; null: it is chosen by the first deployment, Docker where there is an engine.',
    }),
    memoryMb: t.exposeInt('memoryMb', {
      nullable: true,
      description: "Memory that an instance may take, MiB; null: the server's default.",
    }),
    cpus: t.float({
      nullable: true,
      description: "Processors that an instance may take, for the Docker driver; null: the server's default.",
      resolve: ({ milliCpus }) => (milliCpus === null ? null : milliCpus / 1000),
    }),
    autoDeploy: t.exposeBoolean('autoDeploy', {
      description: 'Whether pushes to its branch deploy it, where the workspace has connected its repository.',
    }),
    address: t.string({
      nullable: true,
      description: 'Stable address on its host; null before the first deployment and while it is stopped.',
      resolve: ({ port, activeReleaseId }) => (port && activeReleaseId ? `http://127.0.0.1:${port}` : null),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
    workspace: t.relation('workspace', { description: 'The workspace that it belongs to.' }),
    host: t.relation('host', {
      type: HostRef,
      nullable: true,
      description: 'The machine that it lives on; null before its first deployment.',
    }),
    activeRelease: t.relation('activeRelease', { nullable: true, description: 'The release that serves; null: none.' }),
    releases: t.relatedConnection('releases', {
      cursor: 'id',
      totalCount: true,
      description: 'Its releases, newest first.',
      query: (_, context) => ({ where: visible(context, 'Release'), orderBy: newestFirst }),
    }),
  }),
});

/** A deployment is a run: the Prisma model is Run, its own columns are reached through the relation. */
export const DeploymentRef = builder.prismaNode('Run', {
  variant: 'Deployment',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Brings a commit, or a former release, to the address of an application.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: DeploymentPhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as DeploymentPhase,
    }),
    application: t.field({
      type: ApplicationRef,
      description: 'What is deployed.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ deployment: { select: { application: nested() } } }),
      resolve: (run) => (run as unknown as { deployment: { application: never } }).deployment.application,
    }),
    ref: t.string({
      description: 'What was asked for: a branch or a commit.',
      compiled: 'selected',
      select: { deployment: { select: { ref: true } } },
      resolve: ({ deployment }) => deployment?.ref ?? '',
    }),
    commitSha: t.string({
      nullable: true,
      description: 'The commit; null until it is fetched.',
      compiled: 'selected',
      select: { deployment: { select: { commitSha: true } } },
      resolve: ({ deployment }) => deployment?.commitSha ?? null,
    }),
    commitSubject: t.string({
      nullable: true,
      description: "First line of the commit's message; null until it is fetched, and for a rollback.",
      compiled: 'selected',
      select: { deployment: { select: { commitSubject: true } } },
      resolve: ({ deployment }) => deployment?.commitSubject ?? null,
    }),
    environmentVersion: t.int({
      description: 'Version of the environment variables that it builds and runs with; 0: there were none.',
      compiled: 'selected',
      select: { deployment: { select: { environmentVersion: true } } },
      resolve: ({ deployment }) => deployment?.environmentVersion ?? 0,
    }),
    healthEvidence: t.field({
      type: 'JSON',
      nullable: true,
      description: 'What the failed health check saw: `lastResponse` and `lastLines`. Null when none failed.',
      compiled: 'selected',
      select: { deployment: { select: { healthEvidence: true } } },
      resolve: ({ deployment }) => deployment?.healthEvidence ?? null,
    }),
    release: t.field({
      type: ReleaseRef,
      nullable: true,
      description: 'The release that it made; null for a rollback and before there is one.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ deployment: { select: { release: nested() } } }),
      resolve: (run) => (run as unknown as { deployment: { release: never } | null }).deployment?.release ?? null,
    }),
    restores: t.field({
      type: ReleaseRef,
      nullable: true,
      description: 'The release that it brings back; null for an ordinary deployment.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ deployment: { select: { restores: nested() } } }),
      resolve: (run) => (run as unknown as { deployment: { restores: never } | null }).deployment?.restores ?? null,
    }),
  }),
});

runUpdates({ kind: deploymentKind, ref: DeploymentRef, of: { Application: 'applicationId' } });

builder.prismaObjectField('Workspace', 'applications', (t) =>
  t.relatedConnection('applications', {
    cursor: 'id',
    totalCount: true,
    description: 'Its applications, newest first, without previews: `Application.previews` has those.',
    query: (_, context) => ({
      where: visible(context, 'Application', { preview: { is: null } }),
      orderBy: newestFirst,
    }),
  }),
);

// The rows that stand between an application and its runs; a page of them is a part of the application's own statement.
// They are of its workspace, as their runs are: who sees it sees them all, and each run is still guarded.
const deploymentPages = prismaConnectionHelpers(builder, 'Deployment', {
  cursor: 'id',
  query: { orderBy: { id: 'desc' as const } },
  select: (run) => ({ run: run({}) }),
  resolveNode: ({ run }) => run,
});

const deploymentCounts = new WeakMap<Context, DataLoader<string, number>>();

/** How many deployments of an application the actor may see; of many applications in one statement. */
function countDeployments(context: Context, applicationId: string): Promise<number> {
  let loader = deploymentCounts.get(context);
  if (!loader) {
    loader = new DataLoader<string, number>(async (ids) => {
      const counts = await context.app.db.deployment.groupBy({
        by: ['applicationId'],
        where: { applicationId: { in: [...ids] } },
        _count: { id: true },
      });
      const byId = new Map(counts.map((one) => [one.applicationId, one._count.id]));
      return ids.map((id) => byId.get(id) ?? 0);
    });
    deploymentCounts.set(context, loader);
  }
  return loader.load(applicationId);
}

builder.prismaObjectField(ApplicationRef, 'deployments', (t) =>
  t.connection(
    {
      type: DeploymentRef,
      description: 'Its deployments, newest first.',
      compiled: 'selected',
      select: (args, context, nested) => ({
        // What is asked of a run stands below `edges` or `nodes`.
        deployments: deploymentPages.getQuery(args, context, (selection, path) =>
          asked(nested(selection, path), nested(selection, ['nodes'])),
        ),
      }),
      resolve: (application, args, context) => ({
        ...deploymentPages.resolve(application.deployments, args, context, application),
        totalCount: () => countDeployments(context, application.id),
      }),
    },
    {
      fields: (c) => ({
        totalCount: c.int({
          resolve: (page) => (page as unknown as { totalCount: () => Promise<number> }).totalCount(),
        }),
      }),
    },
  ),
);

export const applicationSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      application: t.prismaField({
        type: ApplicationRef,
        description: 'The application.',
        resolve: (query, { id }, _, { app }) => app.db.application.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const deploymentSuccess = (name: string, description: string) =>
  builder.objectRef<Requested>(name).implement({
    description,
    fields: (t) => ({
      // As it was written: what hangs on it is read when it is asked for.
      deployment: t.field({
        type: DeploymentRef,
        description: 'The deployment.',
        resolve: ({ id, run }, _, { app }) => (run ? asWritten(run) : app.db.run.findUniqueOrThrow({ where: { id } })),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

builder.mutationFields((t) => ({
  createApplication: t.fieldWithInput({
    access: can.createApplication,
    type: applicationSuccess('CreateApplicationSuccess', 'The application was created. Nothing is deployed yet.'),
    errors: failing(Conflict, QuotaExceeded),
    description: 'Creates an application.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      name: t.input.string({
        description: 'Unique within the workspace: 1 to 63 lower-case letters, digits and dashes.',
      }),
      repositoryUrl: t.input.string({
        description: 'Where the source is, without credentials; https unless this server allows more.',
      }),
      branch: t.input.string({ required: false, description: 'Branch to deploy; default `main`.' }),
      buildCommand: t.input.string({
        required: false,
        description:
          'Run by `/bin/sh -c` in the checkout. Without it: for Docker the Dockerfile, where there is one; else what a Node project with a lock file needs.',
      }),
      startCommand: t.input.string({
        required: false,
        description:
          'Run by `/bin/sh -c`; must listen on the address in HOST and the port in PORT. Without it: what the Dockerfile says, or the start script of a Node project.',
      }),
      healthCheckPath: t.input.string({ required: false, description: 'Must answer 2xx or 3xx; default `/`.' }),
      healthTimeoutS: t.input.int({
        required: false,
        description: 'Time to become healthy, seconds, 1 to 600; default 30.',
      }),
      environment: t.input.field({
        type: 'JSON',
        required: false,
        description:
          'Environment variables of build and instances, all of them sensitive: an object, name to text. See `setEnvironmentVariables`.',
      }),
      driver: t.input.field({
        type: DriverEnum,
        required: false,
        description:
          'What runs it. Without it: Docker where an engine answers when it is first deployed, else processes.',
      }),
      memoryMb: t.input.int({
        required: false,
        description:
          'Memory that an instance may take, MiB, from 16 on; of the process driver, the JavaScript heap. Default and most: settings of the server.',
      }),
      cpus: t.input.float({
        required: false,
        description: 'Processors that an instance may take, from 0.01 on, for the Docker driver. Default and most: settings of the server.', // prettier-ignore
      }),
      port: t.input.int({
        required: false,
        description:
          'Port of the stable address on the host, one of those that this server has for addresses; without it the server chooses.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app
        .use(Applications)
        .create(actor, { ...withoutNulls(input), workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  setAutoDeploy: t.fieldWithInput({
    access: can.setAutoDeploy,
    type: applicationSuccess('SetAutoDeploySuccess', 'It was said whether pushes deploy the application.'),
    errors: failing(),
    description: 'Says whether pushes to the branch of an application deploy it.',
    input: {
      id: t.input.id({ description: 'Global id of the application.' }),
      autoDeploy: t.input.boolean({ description: 'True: they do, where its repository is connected.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Applications).setAutoDeploy(actor, { ...input, id: rowId('Application', input.id) }),
  }),
  stopApplication: t.fieldWithInput({
    access: can.stopApplication,
    type: applicationSuccess(
      'StopApplicationSuccess',
      'Its address serves nothing any more; its instance is being ended.',
    ),
    errors: failing(),
    description: 'Takes an application off its address. Its releases are kept.',
    input: { id: t.input.id({ description: 'Global id of the application.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Applications).stop(actor, rowId('Application', input.id)),
  }),
  createDeployment: t.fieldWithInput({
    access: can.createDeployment,
    type: deploymentSuccess('CreateDeploymentSuccess', 'The deployment is queued.'),
    errors: failing(IdempotencyConflict, NoHost, DriverNotOffered, NoFreeUser, Conflict),
    description: 'Deploys a branch or commit. Deployments of the application that have not begun are superseded.',
    input: {
      applicationId: t.input.id({ description: 'Global id of the application.' }),
      ref: t.input.string({
        required: false,
        description: "A branch or a full commit id; default: the application's branch.",
      }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Deployments).create(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  rollbackDeployment: t.fieldWithInput({
    access: can.rollbackDeployment,
    type: deploymentSuccess('RollbackDeploymentSuccess', 'A deployment that brings the release back is queued.'),
    errors: failing(IdempotencyConflict, NoHost, DriverNotOffered, NoFreeUser, NothingToRestore, Conflict),
    description: 'Brings back a former release, exactly as it was built.',
    input: {
      applicationId: t.input.id({ description: 'Global id of the application.' }),
      releaseId: t.input.string({ required: false, description: 'The release; default: the one that served before.' }),
      environment: t.input.field({
        type: RestoredEnvironmentEnum,
        required: false,
        description: 'The environment variables that it runs with; default `RELEASE`.',
      }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Deployments).rollback(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
}));

/** An optional input that is null means the same as one that is absent: the default. */
const withoutNulls = (input: object): object =>
  Object.fromEntries(Object.entries(input).filter(([, value]) => value !== null));
