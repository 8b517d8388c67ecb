import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guarded } from '#kernel/graphql/kit.ts';
import { RunRef } from '#kernel/runs/schema.ts';
import { applicationDeletionPhases, type ApplicationDeletionInput, type ApplicationDeletionPhase } from '../model.ts';
import { QuotaExceeded } from '../errors.ts';
import { can } from '../policy.ts';
import { ApplicationRef, applicationSuccess } from '../schema.ts';
import { ApplicationDeletions, Applications, type Written } from '../service/index.ts';

builder.prismaObjectField(ApplicationRef, 'removalAskedAt', (t) =>
  t.expose('removalAskedAt', {
    type: 'DateTime',
    nullable: true,
    description: 'When its deletion was asked for; null: it was not.',
  }),
);

const phaseDescriptions: Record<ApplicationDeletionPhase, string> = {
  PENDING: 'Waits for a worker, and for deployments of the application to end.',
  REMOVING: 'What runs is ended, what lies on the host is removed, then the rows.',
  REMOVED: 'The application is gone; `statusReason` tells what a lost host may still have. Final.',
  FAILED: 'It could not be removed: it serves nothing, and can be deleted again. Final.',
  CANCELED: 'It was told to stop: the application serves nothing, and can be deleted again. Final.',
};

const PhaseEnum = builder.enumType('ApplicationDeletionPhase', {
  description: 'Where the deletion of an application stands.',
  values: Object.fromEntries(
    Object.keys(applicationDeletionPhases).map((phase) => [
      phase,
      { description: phaseDescriptions[phase as ApplicationDeletionPhase] },
    ]),
  ) as Record<ApplicationDeletionPhase, { description: string }>,
});

const DeletionRef = builder.prismaNode('Run', {
  variant: 'ApplicationDeletion',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Removes an application with all that it has.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: PhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as ApplicationDeletionPhase,
    }),
    applicationId: t.id({
      description: 'Global id of the application, which may be gone.',
      resolve: ({ input }) => globalId('Application', (input as ApplicationDeletionInput).applicationId),
    }),
    applicationName: t.string({
      description: 'What it was called when its deletion was asked for.',
      resolve: ({ input }) => (input as ApplicationDeletionInput).name,
    }),
  }),
});

const DeleteSuccess = builder.objectRef<Written>('DeleteApplicationSuccess').implement({
  description: 'Its address serves nothing any more; the rest is being removed.',
  fields: (t) => ({
    deletion: t.prismaField({
      type: DeletionRef,
      description: 'The run that removes it.',
      resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
    }),
    eventCursor: t.string(eventCursor),
  }),
});

const cleared = (what: string) => ({ required: false, description: `${what} Null clears it.` }) as const;
const changed = (what: string) => ({ required: false, description: what }) as const;

builder.mutationFields((t) => ({
  updateApplication: t.fieldWithInput({
    access: can.updateApplication,
    type: applicationSuccess('UpdateApplicationSuccess', 'The settings are changed, for deployments from now on.'),
    errors: failing(Conflict, QuotaExceeded),
    description: 'Changes settings of an application; those that are not given stay. What runs keeps what it has.',
    input: {
      id: t.input.id({ description: 'Global id of the application.' }),
      name: t.input.string(changed('As for `createApplication`.')),
      repositoryUrl: t.input.string(changed('Where the source is, without credentials.')),
      branch: t.input.string(changed('Branch to deploy.')),
      buildCommand: t.input.string(cleared('Run by `/bin/sh -c` in the checkout.')),
      startCommand: t.input.string(cleared('Run by `/bin/sh -c`.')),
      healthCheckPath: t.input.string(changed('Must answer 2xx or 3xx.')),
      healthTimeoutS: t.input.int(changed('Time to become healthy, seconds, 1 to 600.')),
      environment: t.input.field({
        type: 'JSON',
        required: false,
        description: 'Environment variables to set, all of them sensitive, name to text; null unsets one.',
      }),
      memoryMb: t.input.int(cleared('Memory that an instance may take, MiB.')),
      cpus: t.input.float(cleared('Processors that an instance may take.')),
      crashLoopRestarts: t.input.int(
        changed('Restarts of what serves after which the release before it is brought back, 0 to 100; 0: never.'),
      ),
      crashLoopWindowS: t.input.int(changed('How long after its activation they count, seconds, 10 to 86400.')),
      retainedReleases: t.input.int(cleared('Releases that are kept for a rollback, 1 to 100.')),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Applications).update(actor, { ...input, id: rowId('Application', input.id) }),
  }),
  deleteApplication: t.fieldWithInput({
    access: can.deleteApplication,
    type: DeleteSuccess,
    errors: failing(),
    description:
      'Deletes an application for good. Its address closes at once and its deployments are told to stop; a run ends its instances, removes its files and images, and then all that is known of it but the events.',
    input: { id: t.input.id({ description: 'Global id of the application.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(ApplicationDeletions).delete(actor, rowId('Application', input.id)),
  }),
}));
