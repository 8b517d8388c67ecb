import type { Run } from '#prisma';
import { WorkspaceRef } from '#kernel/auth/schema.ts';
import { IdempotencyConflict, RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { ErrorInterface, errorType, failing, guarded, idempotencyKey, visible } from '#kernel/graphql/kit.ts';
import { RunRef, RunStatusEnum } from '#kernel/runs/schema.ts';
import { LastOwnerOf, ReauthenticationRequired } from '../errors.ts';
import { AccountDeletionReport, type DeletionPhase } from '../model.ts';
import { can } from '../policy.ts';
import { AccountDeletions } from '../service/index.ts';
import { DeletionPhaseEnum, deletionSuccess, proof } from './shared.ts';

errorType(LastOwnerOf, {
  name: 'LastOwnerOf',
  description: 'Workspaces would be left without an owner. Nothing was changed.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    workspaces: t.prismaField({
      type: [WorkspaceRef],
      description: 'Which: make somebody else an owner of each, or delete it.',
      resolve: (query, { workspaces }, _, context) =>
        context.app.db.workspace.findMany({
          ...query,
          where: visible(context, 'Workspace', { id: { in: workspaces.map(({ id }) => id) } }),
          orderBy: { id: 'asc' },
        }),
    }),
  }),
});

const CountRef = builder
  .objectRef<{ readonly name: string; readonly count: number }>('AccountDeletionCount')
  .implement({
    description: 'How many of what the deletion of an account has dealt with.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'What was removed, or, where the name says so, anonymised.' }),
      count: t.exposeInt('count', { description: 'How many.' }),
    }),
  });

const countsOf = (report: unknown) =>
  Object.entries(AccountDeletionReport.parse(report ?? {})).map(([name, count]) => ({ name, count }));

/** A deletion is a run: the Prisma model is Run, its own columns are reached through the relation. */
builder.prismaNode('Run', {
  variant: 'AccountDeletion',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Deletes an account and what hangs on it. Seen by operators of the server.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: DeletionPhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as DeletionPhase,
    }),
    report: t.field({
      type: [CountRef],
      description: 'What it has done so far.',
      select: { accountDeletion: { select: { report: true } } },
      resolve: ({ accountDeletion }) => countsOf(accountDeletion?.report),
    }),
  }),
});

const ReceiptRef = builder
  .objectRef<{ readonly run: Run; readonly report: AccountDeletionReport }>('AccountDeletionReceipt')
  .implement({
    description: 'What became of the account that a receipt was given for.',
    fields: (t) => ({
      status: t.field({
        type: RunStatusEnum,
        description: 'Where the deletion stands.',
        resolve: ({ run }) => run.status,
      }),
      requestedAt: t.field({
        type: 'DateTime',
        description: 'When it was asked for.',
        resolve: ({ run }) => run.createdAt,
      }),
      completedAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When it ended; null: not yet.',
        resolve: ({ run }) => run.completedAt,
      }),
      report: t.field({
        type: [CountRef],
        description: 'What it has done so far.',
        resolve: ({ report }) => countsOf(report),
      }),
    }),
  });

builder.queryField('accountDeletion', (t) =>
  t.field({
    access: 'public',
    type: ReceiptRef,
    nullable: true,
    description: 'The deletion of an account by its receipt; null when there is none of that.',
    args: { receipt: t.arg.string({ description: 'The receipt that `deleteMyAccount` gave.' }) },
    resolve: (_, { receipt }, { app }) => app.use(AccountDeletions).byReceipt(receipt),
  }),
);

builder.mutationField('deleteMyAccount', (t) =>
  t.fieldWithInput({
    access: can.deleteMyAccount,
    type: deletionSuccess(
      'DeleteMyAccountSuccess',
      'The account is closed: every session, key and stream has ended. The rest is removed by a run.',
      'accountDeletion',
    ),
    errors: failing(LastOwnerOf, ReauthenticationRequired, RateLimited, IdempotencyConflict),
    description: 'Deletes your account and what hangs on it, for ever.',
    input: {
      password: t.input.string(proof),
      idempotencyKey: t.input.string({
        ...idempotencyKey,
        description: `${idempotencyKey.description} Only repeats that are on their way by then: afterwards nobody is signed in.`,
      }),
    },
    resolve: async (_, { input }, { app, actor, setSession }) => {
      const deleted = await app.use(AccountDeletions).deleteMyAccount(actor, input);
      setSession?.(null);
      return deleted;
    },
  }),
);
