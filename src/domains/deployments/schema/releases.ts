import { may } from '#kernel/auth/policy.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { guardedPart, ofCredential } from '#kernel/graphql/kit.ts';
import { can } from '../policy.ts';
import { ApplicationRef, DeploymentRef, ReleaseRef } from '../schema.ts';
import { refusalOfRestore } from '../service/index.ts';

/** Periods that are told at once. */
const maxActivations = 100;
const newestActivation = [{ activatedAt: 'desc' as const }, { id: 'desc' as const }];

const ActivationRef = builder.prismaObject('Activation', {
  description: 'A period in which a release served.',
  authScopes: guardedPart('Activation').authScopes,
  fields: (t) => ({
    release: t.relation('release', { type: ReleaseRef, description: 'What served.' }),
    deployment: t.field({
      type: DeploymentRef,
      nullable: true,
      description: 'The deployment that switched the address to it; null: it is not kept any more.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ deployment: { select: { run: nested() } } }),
      resolve: (row) => (row as unknown as { deployment: { run: never } | null }).deployment?.run ?? null,
    }),
    environmentVersion: t.exposeInt('environmentVersion', {
      description: 'Version of the environment variables that it served with; 0: there were none.',
    }),
    activatedAt: t.expose('activatedAt', { type: 'DateTime', description: 'When it began to serve.' }),
    endedAt: t.expose('endedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it ceased to serve; null: it serves.',
    }),
  }),
});

builder.prismaObjectFields(ReleaseRef, (t) => ({
  deployment: t.field({
    type: DeploymentRef,
    description: 'The deployment that made it.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ deployment: { select: { run: nested() } } }),
    resolve: (row) => (row as unknown as { deployment: { run: never } }).deployment.run,
  }),
  artifactId: t.string({
    description: 'What a rollback starts again: the digest of an image, or the name of a folder on the host.',
    resolve: ({ imageId, artifact, id }) => {
      const { path } = (artifact ?? {}) as { path?: unknown };
      return imageId ?? (typeof path === 'string' ? path.slice(path.lastIndexOf('/') + 1) : id);
    },
  }),
  activations: t.relation('activations', {
    type: ActivationRef,
    description: `When it served, newest first, at most ${maxActivations}.`,
    query: { orderBy: newestActivation, take: maxActivations },
  }),
  restarts: t.exposeInt('restarts', {
    description: 'How often its instance had died and was started again since it began to serve, last.',
  }),
  crashLoopedAt: t.expose('crashLoopedAt', {
    type: 'DateTime',
    nullable: true,
    description: 'When it was found to die again and again; null: it was not, since it began to serve, last.',
  }),
  rollbackProblem: t.string({
    nullable: true,
    description: 'Why `rollbackDeployment` would not bring it back, whoever asks; null: it would.',
    select: { application: { select: { activeReleaseId: true, removalAskedAt: true } } },
    resolve: (release) => refusalOfRestore(release.application, release),
  }),
  viewerCanRollback: t.boolean({
    ...ofCredential,
    description: 'Whether you may bring it back now.',
    select: { application: { select: { activeReleaseId: true, removalAskedAt: true, workspaceId: true } } },
    resolve: (release, _, { actor }) =>
      may(actor, can.rollbackDeployment, release.application.workspaceId) &&
      refusalOfRestore(release.application, release) === null,
  }),
}));

builder.prismaObjectFields(ApplicationRef, (t) => ({
  activations: t.relation('activations', {
    type: ActivationRef,
    description: `What served when, newest first, at most ${maxActivations}.`,
    query: { orderBy: newestActivation, take: maxActivations },
  }),
  crashLoopRestarts: t.exposeInt('crashLoopRestarts', {
    description: 'Restarts of what serves after which the release before it is brought back; 0: never.',
  }),
  crashLoopWindowS: t.exposeInt('crashLoopWindowS', {
    description: 'How long after its activation they count, seconds.',
  }),
  retainedReleases: t.exposeInt('retainedReleases', {
    nullable: true,
    description:
      'Releases that are kept for a rollback, the one that serves not counted; null: what the workspace has.',
  }),
}));
