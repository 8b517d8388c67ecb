import { IdempotencyConflict } from '#kernel/errors.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { cursorOf, descriptionOfCursor, failing, guarded, idempotencyKey } from '#kernel/graphql/kit.ts';
import { RunRef } from '#kernel/runs/schema.ts';
import { phases, Report, type KeyRotationPhase } from './model.ts';
import { can } from './policy.ts';
import { Instance, type Requested } from './service.ts';

const phaseDescriptions: Record<KeyRotationPhase, string> = {
  PENDING: 'Waits for a worker.',
  ROTATING: 'Values are put under the current key.',
  ROTATED: 'Every value is under the current key: older ones can be taken out of the configuration. Final.',
  FAILED: 'Values are left under other keys, which must stay; `statusReason` tells how many. Final.',
  CANCELED: 'It was told to stop; what it did by then is done. Final.',
};

const KeyRotationPhaseEnum = builder.enumType('KeyRotationPhase', {
  description: 'Where a rotation of the encryption keys stands.',
  values: Object.fromEntries(
    Object.keys(phases).map((phase) => [phase, { description: phaseDescriptions[phase as KeyRotationPhase] }]),
  ) as Record<KeyRotationPhase, { description: string }>,
});

const KeyRotationColumn = builder
  .objectRef<{ name: string; rewrapped: number; failed: number }>('KeyRotationColumn')
  .implement({
    description: 'What a rotation of the encryption keys did to one column of the database.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'Table and column.' }),
      rewrapped: t.exposeInt('rewrapped', { description: 'Values that it put under the current key.' }),
      failed: t.exposeInt('failed', {
        description:
          'Values that do not open: their key is not configured, or they are damaged. The log names the rows.',
      }),
    }),
  });

/** A rotation is a run: the Prisma model is Run, its own columns are reached through the relation. */
export const KeyRotationRef = builder.prismaNode('Run', {
  variant: 'KeyRotation',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Puts every secret in the database under the current encryption key.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: KeyRotationPhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as KeyRotationPhase,
    }),
    keyId: t.string({
      description: 'Id of the key that everything is under afterwards.',
      compiled: 'selected',
      select: { keyRotation: { select: { keyId: true } } },
      resolve: ({ keyRotation }) => keyRotation?.keyId ?? '',
    }),
    columns: t.field({
      type: [KeyRotationColumn],
      description: 'What it has done so far, by column.',
      select: { keyRotation: { select: { columns: true } } },
      resolve: ({ keyRotation }) =>
        Object.entries(Report.parse(keyRotation?.columns ?? {})).map(([name, counts]) => ({ name, ...counts })),
    }),
  }),
});

const RotateEncryptionKeysSuccess = builder.objectRef<Requested>('RotateEncryptionKeysSuccess').implement({
  description: 'The rotation is queued.',
  fields: (t) => ({
    keyRotation: t.prismaField({
      type: KeyRotationRef,
      description: 'The rotation.',
      resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
    }),
    eventCursor: t.string({
      nullable: true,
      description: descriptionOfCursor,
      resolve: ({ event }) => cursorOf(instanceWorkspaceId, event),
    }),
  }),
});

builder.mutationFields((t) => ({
  rotateEncryptionKeys: t.fieldWithInput({
    type: RotateEncryptionKeysSuccess,
    access: can.rotateEncryptionKeys,
    errors: failing(IdempotencyConflict),
    description:
      'Puts every secret in the database under the current encryption key, so that older keys can be taken out of the configuration. For operators of the server.',
    input: {
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) => app.use(Instance).rotateEncryptionKeys(actor, input),
  }),
}));
